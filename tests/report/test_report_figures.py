"""The report's numbers, texts and pictures, without a page."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_pages import (
    NAN,
    content,
    record,
    row,
)

import headstart as hs
from headstart import report
from headstart.common.text import epoch_line, plain_text, points_text
from headstart.report import figures, pictures, series
from headstart.report.headlines import ACCURACY, HEADLINES
from headstart.report.looks import looks
from headstart.report.scores import score_text

pytestmark = pytest.mark.neutral

# ---- series


def test_seconds_begin_with_the_extraction_and_staged_epochs_are_numbered_on() -> None:
    staged = {
        "extraction_seconds": 10.0,
        "head_history": [record(1, 1.0), record(2, 2.0)],
        "head_best_epoch": 1,
        "history": [record(1, 5.0, 0.25), record(2, 6.0, 0.125)],
        "best_epoch": 2,
    }
    points = series.points(staged)
    assert [point.epoch for point in points] == [1, 2, 3, 4]
    assert [point.seconds for point in points] == [11.0, 13.0, 18.0, 24.0]
    assert [point.stage for point in points] == ["head", "head", "all", "all"]
    assert [point.loss for point in points] == [0.5, 0.5, 0.25, 0.125]
    assert points[-1] == series.Point(4, 24.0, "all", 0.125, 0.8, 0.225, 0.75, kept=True)
    assert [point.kept for point in points] == [True, False, False, True], "of each stage"
    assert not any(point.kept for point in series.points({"history": [record(1, 1.0)]})), "of before"


def test_points_of_what_is_missing_or_not_finite_are_gaps() -> None:
    gaps = {"history": [record(1, 1.0, NAN, val_loss=None, val_accuracy=math.inf)]}
    (point,) = series.points(gaps)
    assert (point.seconds, point.loss, point.val_loss, point.val_score) == (1.0, None, None, None)
    assert series.points({"history": []}) == []


def test_the_break_even_is_where_the_lines_cross() -> None:
    even = series.break_even(
        {
            "label": "torch cached",
            "seconds_per_epoch": {"total": 1.0},
            "extraction_seconds": 11.0,
            "speedup_over_frozen": 3.0,
            "pays_off_after_epochs": 6,
        }
    )
    assert even == series.BreakEven(11.0, 1.0, 3.0, 6)
    assert isinstance(even, series.BreakEven)
    assert even.crossing == (5.5, 16.5)
    assert even.seconds(5.5) == (16.5, 16.5)
    assert even.last == 11
    # However far away it is, the figure stays small.
    far = row("torch", "cached", extraction_seconds=1e9, pays_off_after_epochs=502512563)
    assert len(report.page(content([far]))) < 1_400_000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"speedup_over_frozen": None, "pays_off_after_epochs": None}, "no frozen run"),
        ({"speedup_over_frozen": 0.5, "pays_off_after_epochs": None}, "never pays"),
    ],
    ids=["no-frozen", "never"],
)
def test_without_a_break_even_there_is_a_sentence(changes: dict[str, Any], said: str) -> None:
    sentence = series.break_even(row("torch", "cached", **changes))
    assert isinstance(sentence, str) and sentence.startswith("torch cached: ") and said in sentence
    compared = row("jax", "cached")
    assert compared["speedup_over_frozen"] is not None
    assert said in report.page(content([row("torch", "cached", **changes), compared]))


def test_where_nothing_was_frozen_there_is_no_break_even() -> None:
    alone = row("torch", "cached", speedup_over_frozen=None, pays_off_after_epochs=None)
    assert "When the cache has paid" not in report.page(content([alone]))
    assert "When the cache has paid" in report.page(content([row("torch", "cached")]))


def test_a_loss_beyond_all_guessing_does_not_set_the_axis() -> None:
    guess = math.log(10)
    assert series.guessing_loss("single", 10) == series.guessing_loss(None, 10) == guess
    assert series.loss_limit([0.1, guess, 3 * guess, None], guess) is None
    assert series.loss_limit([0.1, 1e6], guess) == pytest.approx(4 * guess)
    assert series.loss_limit([], guess) is None


def test_the_axis_of_time_is_logarithmic_where_epochs_end_far_apart() -> None:
    def ended(*seconds: float) -> list[dict[str, Any]]:
        return [{"history": [record(1, each)]} for each in seconds]

    assert series.spans_decades(ended(1.0, 20.1)) and not series.spans_decades(ended(1.0, 20.0))
    assert not series.spans_decades([*ended(0.0, -1.0, 1.0), {"history": []}]), "clocks that stood still"
    extracted = [run | {"extraction_seconds": 1000.0} for run in ended(1.0, 20.0)]
    assert series.spans_decades([*extracted, *ended(21.0)]) and not series.spans_decades(extracted)
    checked = re.compile(r'value="(\w+)" checked')
    for rows, kind in ((content()["rows"], "log"), ([row("torch", "full"), row("jax", "full")], "linear")):
        assert checked.findall(report.page(content(rows))) == [kind]


def test_an_extraction_is_counted_where_some_run_does_not_wait_longer_for_it_than_for_its_epochs() -> None:
    """Of a run alone it would leave all epochs at one end of the axis."""
    alone, beside = row("torch", "cached"), row("torch", "full")
    assert series.waits_for_features([alone]) and not series.waits_for_features([alone, beside])
    assert not series.waits_for_features([{"history": []}]), "nothing is drawn"
    even = {"history": [record(1, 3.0)], "extraction_seconds": 3.0}
    assert not series.waits_for_features([even])
    assert series.waits_for_features([even | {"extraction_seconds": 3.1}])
    for rows, mark in (([alone], ""), ([alone, beside], "checked ")):
        assert f'id="counted" {mark}autocomplete' in report.page(content(rows))


def test_classes_confused_most_come_first() -> None:
    cells = [(0, 0, 50), (2, 1, 3), (0, 1, 3), (1, 0, 7), (1, 2, 0)]
    assert series.confused(cells, 9) == [(1, 0, 7), (0, 1, 3), (2, 1, 3)]
    assert series.confused(cells, 1) == [(1, 0, 7)]


def test_colours_say_the_mode_and_markers_the_backend_where_rows_are_both() -> None:
    seen = looks([row("torch", "full"), row("jax", "full"), row("torch", "cached")])
    assert seen[0].colour == seen[1].colour != seen[2].colour
    assert seen[0].marker == seen[2].marker != seen[1].marker
    alike = looks([row("torch", "full", label=str(i)) for i in range(9)])
    assert len(set(alike)) == 9 and len({look.colour for look in alike[:7]}) == 7


# ---- numbers and texts


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (99.97, "100"), (37.66, "37.7"), (9.996, "10.0"), (2.914, "2.91"), (0.0341, "0.034"),
     (0.00123, "0.0012"), (8e-6, "<0.0001"), (0, "0"), (None, "–"), (NAN, "not finite")],
)  # fmt: skip
def test_seconds_have_as_many_digits_as_tell_something(value: float | None, text: str) -> None:
    assert figures.seconds(value) == text


def test_other_numbers() -> None:
    space = "\N{NO-BREAK SPACE}"
    assert [figures.percent(x) for x in (0.8974, None, NAN)] == [f"89.7{space}%", "–", "not finite"]
    # none and all are said of none and all alone
    shown = [(0.9996, "99.96"), (1 - 1e-6, "99.9999"), (1, "100.0"), (4e-4, "0.04"), (0, "0.0"), (0.9994, "99.9")]
    assert [figures.percent(x) for x, _ in shown] == [f"{text}{space}%" for _, text in shown]
    assert [score_text("accuracy", x) for x, _ in shown] == [f"{text}%" for _, text in shown]
    assert HEADLINES["accuracy"].interval((0.99, 0.9996)) == "99.0 to 99.96"
    assert [figures.times(x) for x in (1710.3, 0.42, None)] == ["1,710×", "0.4×", "–"]
    assert [figures.epochs(x) for x in (1, 2)] == [f"1{space}epoch", f"2{space}epochs"]
    assert [figures.loss(x) for x in (0.12345, 1e9, math.inf)] == ["0.1235", "1e+09", "not finite"]


def test_zero_and_one_are_exact() -> None:
    """As 100.0 % is: what four digits round to them has more."""
    shown = [(0.0, "0.0000"), (3.21e-5, "3.2e-05"), (6e-5, "0.0001"), (0.69312, "0.6931"), (1.00003, "1.0000")]
    shown += [
        (1.0, "1.0000"),
        (0.99998, "0.99998"),
        (1 - 1e-12, "1.00000000"),
        (-3e-6, "-3e-06"),
        (-1.5, "-1.5000"),
    ]
    assert [score_text("r2", x) for x, _ in shown] == [text for _, text in shown]
    assert [figures.loss(x) for x, _ in shown] == [text for _, text in shown]
    assert plain_text(float("nan")) == "nan"
    line = epoch_line("", {**record(1, 1.0, 3.21e-5), "score": "accuracy", "val_score": None, "val_loss": 0.0})
    assert line.startswith("epoch 1: loss 3.2e-05, accuracy 80.0%, val_loss 0.0000")
    points = [(0.0, "0.0"), (0.0004, "0.04"), (0.0006, "0.1"), (0.125, "12.5"), (-0.00002, "-0.002")]
    assert [points_text(x) for x, _ in points] == [text for _, text in points]
    assert ACCURACY.difference(-0.0002) == "\N{MINUS SIGN}0.02" and ACCURACY.difference(0.02) == "+2.0"


def test_texts_keep_lines_and_lose_what_is_not_printable() -> None:
    given = {"a\x00": ["x\n\ty", "\u202eevil", "\ud800", "naïve 猫", 3, None, NAN]}
    cleaned = figures.cleaned(given)
    assert cleaned["a\\x00"][:6] == ["x\n\ty", "\\u202eevil", "\\ud800", "naïve 猫", 3, None]
    json.dumps(cleaned).encode()


# ---- pictures


def image_of(uri: str) -> Image.Image:
    start, encoded = uri.split(",")
    assert start in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_kernels_of_one_channel_are_grey_and_their_difference_blue_and_red() -> None:
    before = np.zeros((3, 1, 1, 2), np.float32)
    after = before.copy()
    before[0, 0, 0] = [1, -1]
    after[0, 0, 0] = [1, -0.5]  # half the largest increase
    after[1, 0, 0, 0] = -1  # the largest change
    drawn = pictures.kernels("conv", before, after)
    assert (drawn["node"], drawn["shown"], drawn["of"], drawn["max_difference"]) == ("conv", 3, 3, 1.0)
    old, new, change = (np.asarray(image_of(drawn[name])) for name in ("before", "after", "difference"))
    assert old.shape == (1, 8, 4)  # three kernels of two weights in a row, with a gap between them
    assert old[0, :2].tolist() == [[255, 255, 255, 255], [1, 1, 1, 255]]
    assert old[0, 2, 3] == 0  # a gap
    assert new[0, 1].tolist() == [64, 64, 64, 255]  # the same scale as before
    assert change[0, 0].tolist() == [247, 247, 247, 255]  # zero is neutral
    assert change[0, 3].tolist() == [33, 102, 172, 255]
    red, green, blue, _ = change[0, 1].tolist()
    assert red > green and red > blue


def test_runs_from_the_same_weights_have_the_same_picture_of_them() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(8, 3, 5, 5))
    near, far = (
        pictures.kernels("conv", before, before + size * rng.normal(size=before.shape)) for size in (0.1, 9)
    )
    assert near["before"] == pictures.kernels("conv", before, before)["before"]
    # Far larger weights set the scale, or all of them would be at its ends.
    assert far["before"] != near["before"]
    assert np.mean(np.asarray(image_of(far["after"]))[..., :3].flatten() % 254 == 1) < 0.05


def test_kernels_of_three_channels_are_in_colour_and_many_are_averaged() -> None:
    weights = np.zeros((1, 3, 1, 1), np.float32)
    weights[0, :, 0, 0] = [1, 0, -1]
    drawn = pictures.kernels("conv", weights, weights)
    assert np.asarray(image_of(drawn["after"]))[0, 0].tolist() == [255, 128, 1, 255]
    assert np.asarray(image_of(drawn["difference"]))[0, 0].tolist() == [128, 128, 128, 255]
    assert drawn["max_difference"] == 0.0
    four = np.array([4, 0, 0, 0], np.float32).reshape(1, 4, 1, 1)
    assert np.asarray(image_of(pictures.kernels("conv", four, four)["before"]))[0, 0].tolist() == [255] * 4


def test_the_largest_difference_is_of_all_kernels_and_large_kernels_are_shown_fewer_of() -> None:
    before = np.zeros((100, 3, 16, 16), np.float32)
    after = before.copy()
    after[99, 2, 15, 15] = -0.25
    drawn = pictures.kernels("patches", before, after)
    assert (drawn["shown"], drawn["of"], drawn["max_difference"]) == (16, 100, 0.25)
    assert image_of(drawn["before"]).size == (4 * 17 - 1, 4 * 17 - 1)
    assert pictures.kernels("conv", before[:, :, :3, :3], after[:, :, :3, :3], most=32)["shown"] == 32


def test_weights_that_are_not_finite_are_marked() -> None:
    before = np.ones((1, 1, 1, 2), np.float32)
    after = np.array([NAN, 1], np.float32).reshape(1, 1, 1, 2)
    drawn = pictures.kernels("conv", before, after)
    assert math.isnan(drawn["max_difference"])
    for name in ("after", "difference"):
        assert np.asarray(image_of(drawn[name]))[0, 0].tolist() == [255, 0, 255, 255]


def test_thumbnails_keep_tiny_images_and_shrink_others() -> None:
    digits = hs.data.digits()
    found = pictures.thumbnails(digits, [3, 5])
    assert list(found) == [digits.ids[3], digits.ids[5]]
    tiny = image_of(found[digits.ids[3]])
    assert tiny.format == "PNG"
    assert np.array_equal(np.asarray(tiny.convert("RGB")), digits[3].image)
    large = hs.data.arrays(np.zeros((2, 300, 200, 3), np.uint8), [0, 1])
    (uri,) = pictures.thumbnails(large, [1]).values()
    assert (image_of(uri).format, image_of(uri).size) == ("JPEG", (75, 112))


def test_thumbnails_leave_out_what_is_no_image_or_is_gone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            shade = 100 * i + (50 if name == "a" else 0)
            Image.new("RGB", (9, 9), (shade, 0, 0)).save(tmp_path / name / f"{i}.png")
    data = hs.data.folder(tmp_path)
    ids = data.ids
    (tmp_path / "a" / "0.png").unlink()
    (tmp_path / "a" / "1.png").write_bytes((tmp_path / "b" / "1.png").read_bytes())  # another image now
    (tmp_path / "b" / "0.png").write_bytes(b"no image")
    assert list(pictures.thumbnails(data, range(4))) == [ids[3]]
    assert pictures.thumbnails(hs.data.arrays(np.zeros((2, 5), np.float32), [0, 1]), [0, 1]) == {}
