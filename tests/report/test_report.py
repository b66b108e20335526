"""The report: its numbers, that nothing in it is fetched or taken for markup, and, where there is a browser, that
it works: no error on the console, lines that hide by a click, a table that sorts, a phone, paper, a notebook."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, browser
from PIL import Image

import headstart as hs
from headstart import report
from headstart.report import figures, pictures, series
from headstart.report.looks import looks

pytestmark = pytest.mark.neutral

NAN = float("nan")
HOSTILE = (
    "</script><script>hacked=1</script><img src=x onerror=hacked=1> \"q' & $$x^2$$ {{ 7*7 }} @row \x00\u202e\ud800"
)

# ---- contents


def record(epoch: int, seconds: float, loss: float = 0.5, **changes: Any) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": loss,
        "accuracy": 0.8,
        "val_loss": loss + 0.1,
        "val_accuracy": 0.75,
        "seconds": {"data": seconds / 4, "trunk": 0.0, "head": seconds * 3 / 4, "total": seconds},
        "learning_rate": 0.001,
        "step_losses": [loss, loss],
        "auxiliary_losses": [],
        **changes,
    }


def row(backend: str, mode: str, accuracy: float | None = 0.9, epochs: int = 3, **changes: Any) -> dict[str, Any]:
    seconds = 0.01 if mode == "cached" else 2.0
    staged, stored = mode == "staged", mode in ("cached", "staged")
    return {
        "label": f"{backend} {mode}",
        "backend": backend,
        "mode": mode,
        "cut": "avgpool" if stored or mode == "frozen" else None,
        "val_accuracy": accuracy,
        "val_loss": 0.3,
        "history": [record(i + 1, seconds, 1 / (i + 1)) for i in range(epochs)],
        "head_history": [record(i + 1, 0.01, 2.0) for i in range(2)] if staged else [],
        "seconds_per_epoch": {"data": seconds / 4, "trunk": 0.0, "head": seconds * 3 / 4, "total": seconds},
        "extraction_seconds": 3.0 if stored else 0.0,
        "extracted": 80 if stored else 0,
        "reused": 0,
        "features_made_by": [],
        "total_seconds": 9.0,
        "settings": {"seed": 0, "batch_size": 16, "optimizer": {"all": {"name": "adamw"}}},
        "speedup_over_frozen": 2.0 / seconds,
        "pays_off_after_epochs": 2 if mode == "cached" else None,
        "parameters": {"trained": 2570, "all": 2_806_250},
        "validation": {
            "samples": 20,
            "confusion": [[0, 0, 9], [0, 1, 1], [1, 1, 8], [1, 2, 2]],
            "worst": [
                {"id": f"{i:032x}", "index": i, "label": 1, "predicted": 2, "probability": 0.9, "loss": 2.3}
                for i in range(2)
            ],
        },
        "scores": {
            "task": "single",
            "samples": 20,
            "values": {"accuracy": 0.85, "macro_f1": 0.5},
            "undefined": {},
            "intervals": {"accuracy": [0.65, 0.95]},
            "per_class": [
                {"class": "rose", "samples": 10, "precision": 1.0, "recall": 0.9, "f1": 0.947, "auc": 0.75},
                {"class": "tulip", "samples": 10, "recall": 0.0, "undefined": {"precision": "never"}},
            ],
        },
        "against_best": {"best": "torch full", "difference": -0.05, "interval": [-0.2, 0.1], "noise": True},
        "kernels": None,
        **changes,
    }


def of_task(made: dict[str, Any], score: str, values: list[float], **changes: Any) -> dict[str, Any]:
    """A row whose headline score is `score`, with these values on the validation data, an epoch each."""
    task, shares = ("multi", True) if score == "micro_f1" else ("regression", False)
    without: dict[str, Any] = {} if shares else {"accuracy": None, "val_accuracy": None}
    history = [record(i + 1, 1.0, val_score=value, score=score, **without) for i, value in enumerate(values)]
    rows = [
        {"class": "red", "samples": 12, "precision": 0.5, "recall": 0.25, "f1": 1 / 3, "auc": 0.75},
        {"class": "blue", "samples": 8, "recall": 0.0, "undefined": {"precision": "no label was predicted"}},
    ]
    if not shares:
        rows = [{"class": "year", "samples": 20, "mae": 12.5, "rmse": 20.25, "r2": -0.5}]
    misses = [
        {"id": f"{i:032x}", "index": i, "label": label, "predicted": predicted, "error": 1.25}
        for i, (label, predicted) in enumerate([("'red' and 'blue'", "nothing"), ("'red'", "'blue'")])
    ]
    return {
        **made,
        "score": score,
        "val_score": values[-1],
        "val_accuracy": 0.75 if shares else None,
        "history": history,
        "validation": {"samples": 20, "confusion": [], "worst": [], "misses": misses},
        "scores": {
            "task": task,
            "samples": 20,
            "values": {score: values[-1]},
            "undefined": {},
            "intervals": {score: [0.5, 0.625] if shares else [10.0, 1234.5]},
            "per_class": rows,
        },
        **changes,
    }


def of_labels() -> dict[str, Any]:
    rows = [
        of_task(row("torch", "full"), "micro_f1", [0.25, 0.5]),
        of_task(row("torch", "cached"), "micro_f1", [0.75, 0.625], against_best=None),
    ]
    data = {"name": "things", "train": 80, "val": 20, "classes": ["red", "blue"], "task": "multi", "skipped": []}
    return content(rows, data=data)


def of_numbers() -> dict[str, Any]:
    against = {"best": "torch cached", "difference": 8.5, "interval": [-0.2, 17.0], "noise": True}
    rows = [
        of_task(row("torch", "full"), "mae", [50.0, 21.0], against_best=against),
        of_task(row("torch", "cached"), "mae", [40.0, 12.5], against_best=None),
    ]
    data = {"name": "things", "train": 80, "val": 20, "classes": ["year"], "task": "regression", "skipped": []}
    return content(rows, data=data)


def content(rows: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    made = rows if rows is not None else [row("torch", mode, 0.9 - i / 100) for i, mode in enumerate(MODES)]
    return {
        "headstart": "0.1.0",
        "created": "2026-01-02T03:04:05+0000",
        "command": ["/opt/venv/bin/headstart", "compare", "--data", "my photos"],
        "machine": {"cpu": "Some CPU", "cores": 2, "memory_bytes": 8 << 30, "system": "Linux", "python": "3.11.7"},
        "versions": {"torch": {"torch": "2.15.0"}},
        "data": {"name": "things", "train": 80, "val": 20, "classes": ["ant", "bee", "cat"], "skipped": []},
        "model": {"name": "lenet", "weights": None, "parameters": 61706, "preprocess": {"size": 32}},
        "settings": {"epochs": 3},
        "rows": made,
        "errors": {},
        "pictures": {f"{0:032x}": pixel()},
        **changes,
    }


MODES = ("scratch", "full", "frozen", "cached", "staged")


def pixel() -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 60)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@cache
def full_size() -> dict[str, Any]:
    """Three backends, five modes, thirty classes, fifty epochs, no two pictures alike but the kernels before."""
    rng = np.random.default_rng(0)
    rows, found = [], {}
    classes = 30
    before = rng.normal(size=(64, 3, 7, 7))
    for backend in ("torch", "keras", "jax"):
        for mode in MODES:
            made = row(backend, mode, epochs=50)
            for one in made["history"]:
                one["step_losses"] = rng.random(500).tolist()
            worst = []
            for i in range(12):
                noise = Image.fromarray(rng.integers(0, 256, (16, 14, 3), np.uint8)).resize((98, 112))
                id = f"{backend} {mode} {i}"
                found[id] = pictures._thumbnail(noise)
                worst.append({"id": id, "index": i, "label": 3, "predicted": 4, "probability": 0.9, "loss": 3.0})
            every = [[t, p, 1 + t] for t in range(classes) for p in range(classes)]
            made["validation"] = {"samples": 1000, "confusion": every, "worst": worst}
            made["kernels"] = pictures.kernels("conv1.weight", before, rng.normal(size=before.shape))
            rows.append(made)
    names = [f"class {i}" for i in range(classes)]
    data = {"name": "many", "train": 9000, "val": 1000, "classes": names, "skipped": [["a.jpg", "is empty"]]}
    return content(rows, data=data, pictures=found)


# ---- series


def test_seconds_begin_with_the_extraction_and_staged_epochs_are_numbered_on() -> None:
    staged = {
        "extraction_seconds": 10.0,
        "head_history": [record(1, 1.0), record(2, 2.0)],
        "history": [record(1, 5.0, 0.25), record(2, 6.0, 0.125)],
    }
    points = series.points(staged)
    assert [point.epoch for point in points] == [1, 2, 3, 4]
    assert [point.seconds for point in points] == [11.0, 13.0, 18.0, 24.0]
    assert [point.stage for point in points] == ["head", "head", "all", "all"]
    assert [point.loss for point in points] == [0.5, 0.5, 0.25, 0.125]
    assert points[-1] == series.Point(4, 24.0, "all", 0.125, 0.8, 0.225, 0.75)


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


def test_classes_confused_most_come_first() -> None:
    cells = [(0, 0, 50), (2, 1, 3), (0, 1, 3), (1, 0, 7), (1, 2, 0)]
    assert series.confused(cells, 9) == [(1, 0, 7), (0, 1, 3), (2, 1, 3)]
    assert series.confused(cells, 1) == [(1, 0, 7)]


def test_colours_say_the_mode_and_markers_the_backend_where_rows_are_both() -> None:
    seen = looks([row("torch", "full"), row("jax", "full"), row("torch", "cached")])
    assert seen[0].colour == seen[1].colour != seen[2].colour
    assert seen[0].marker == seen[2].marker != seen[1].marker
    alike = looks([row("torch", "full", label=str(i)) for i in range(9)])
    assert len(set(alike)) == 9 and len({one.colour for one in alike[:7]}) == 7


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
    assert [figures.times(x) for x in (1710.3, 0.42, None)] == ["1,710×", "0.4×", "–"]
    assert [figures.epochs(x) for x in (1, 2)] == [f"1{space}epoch", f"2{space}epochs"]
    assert [figures.loss(x) for x in (0.12345, 1e9, math.inf)] == ["0.1235", "1e+09", "not finite"]


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


# ---- the page


class Parsed(HTMLParser):
    """The elements of a page, its texts, and what is in its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._open = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        {"script": self.scripts, "style": self.styles}.get(self._open, self.texts).append(data)


@pytest.mark.each  # where it is installed
def test_importing_the_report_imports_neither_bokeh_nor_a_framework() -> None:
    code = "import sys, headstart.report; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"bokeh", "jinja2", "torch", "keras", "tensorflow", "jax"} & set(done.stdout.split())


def test_nothing_in_a_page_is_fetched_and_a_full_one_is_under_three_megabytes() -> None:
    given = full_size()
    before = deepcopy(given)
    html = report.page(given)
    assert given == before
    assert report.page(given) == html
    assert len(html.encode()) < 3_000_000
    parsed = Parsed(html)
    fetching = ("src", "href", "srcset", "action", "data", "poster", "xlink:href", "formaction", "background")
    named = [attributes[name] for _, attributes in parsed.elements for name in fetching if name in attributes]
    assert named == ["data:,"]  # the icon, which a browser would ask the site for
    assert not re.search(r"url\(|@import", "".join(parsed.styles))
    assert not any("url(" in (attributes.get("style") or "") for _, attributes in parsed.elements)
    assert len(parsed.scripts) == 4  # pictures, data, Bokeh's, the page's
    assert not any(re.search(r"<!--|<script|</script", script, re.IGNORECASE) for script in parsed.scripts)
    shown = json.loads(parsed.scripts[0])
    wanted = {attributes["data-picture"] for tag, attributes in parsed.elements if tag == "img"}
    assert shown.keys() == wanted and len(wanted) == 1 + 15 * (2 + 12)
    assert all(re.fullmatch(r"data:image/(png|jpeg);base64,[\w+/]+=*", uri) for uri in shown.values())


def test_pictures_for_which_there_is_no_room_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given = full_size()
    whole = len(report.page(given).encode())
    monkeypatch.setattr("headstart.report.build.LARGEST", whole - 300_000)
    html = report.page(given)
    assert whole - 350_000 < len(html.encode()) <= whole - 300_000
    parsed = Parsed(html)
    shown = json.loads(parsed.scripts[0])
    numbers = [int(str(attributes["data-picture"])) for tag, attributes in parsed.elements if tag == "img"]
    assert max(map(int, shown)) < max(numbers)
    # Kernels, the page's last pictures, are the last to go.
    assert all(str(number) in shown for number in numbers[-45:])


def everywhere(value: Any, text: str) -> Any:
    """`value` with every text in it replaced, but for keys, backends, modes and pictures."""
    if isinstance(value, str):
        return value if value in MODES or value.startswith("data:image") else text
    if isinstance(value, Mapping):
        return {key: everywhere(one, text) for key, one in value.items()}
    if isinstance(value, list):
        return [everywhere(one, text) for one in value]
    return value


def hostile() -> dict[str, Any]:
    given = everywhere(content(errors={"torch": {"type": "crash", "message": "gone"}}, title="a title"), HOSTILE)
    given["rows"][0]["kernels"] = {**pictures.kernels("c", *np.ones((2, 1, 1, 3, 3))), "node": HOSTILE}
    given["rows"][1]["kernels"] = {
        **given["rows"][0]["kernels"],
        "before": "javascript:hacked=1",
        "after": HOSTILE,
    }
    given["errors"][HOSTILE] = given["errors"].pop("torch")
    given["settings"][HOSTILE] = {HOSTILE: HOSTILE}
    given["pictures"] = {HOSTILE: 'data:image/png;base64,AAAA" onerror="hacked=1'}
    given["data"]["skipped"] = [[HOSTILE, HOSTILE]]
    return given


def test_texts_from_data_are_never_markup() -> None:
    parsed = Parsed(report.page(hostile()))
    plain = Parsed(report.page(content()))
    assert {tag for tag, _ in parsed.elements} <= {tag for tag, _ in plain.elements} | {"pre", "ul", "li", "img"}
    assert len(parsed.scripts) == len(plain.scripts) == 4
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert not any(attributes.get("src") for _, attributes in parsed.elements)
    assert any("{{ 7*7 }} @row \\x00\\u202e\\ud800" in text for text in parsed.texts)
    for script in parsed.scripts[:2]:
        json.loads(script)


GAPS: dict[str, Callable[[], dict[str, Any]]] = {
    "one-run": lambda: content([row("jax", "full")]),
    "one-epoch": lambda: content([row("jax", "full", epochs=1), row("jax", "cached", epochs=1)]),
    "no-validation": lambda: content(
        [
            row(
                "jax",
                "full",
                None,
                val_loss=None,
                validation=None,
                history=[record(i + 1, 1.0, val_loss=None, val_accuracy=None) for i in range(epochs)],
                label=f"of {epochs}",
            )
            for epochs in (1, 3)
        ]
    ),
    "diverged": lambda: content(
        [
            row(
                "jax",
                "full",
                NAN,
                history=[record(i + 1, 1.0, loss) for i, loss in enumerate((1e9, math.inf, NAN))],
            ),
            row("jax", "frozen"),
        ]
    ),
    "nothing-known": lambda: content(
        [
            row(
                "jax",
                "cached",
                None,
                **dict.fromkeys(
                    ("speedup_over_frozen", "pays_off_after_epochs", "parameters", "validation", "cut")
                ),
            )
        ],
        data={"name": "x"},
        model={"name": "y"},
        machine={},
        versions={},
        settings={},
        command=[],
        pictures={},
    ),
    "all-failed": lambda: content([], errors={"torch": {"type": "crash", "message": "its last words:\ngone"}}),
    "many-classes": lambda: content(
        data={"name": "x", "train": 9, "val": 9, "classes": [f"c{i}" for i in range(99)]}
    ),
    "no-epochs": lambda: content([row("jax", "full", history=[])]),
    "labels": of_labels,
    "numbers": of_numbers,
    "diverged-numbers": lambda: content(
        [of_task(row("jax", "full"), "mae", [1.0, NAN], diverged=True, scores=None, against_best=None)]
    ),
}


@pytest.mark.parametrize("name", GAPS)
def test_what_is_missing_leaves_a_gap(name: str) -> None:
    html = report.page(GAPS[name]())
    text = " ".join(Parsed(html).texts)
    assert "None" not in text.replace("None: every sample", "") and "nan" not in text.split()
    if name == "diverged":
        assert "not finite leave gaps: jax full" in html
    if name == "many-classes":
        assert "taken for each other most often" in html and "Confusion matrix" not in html
    if name == "all-failed":
        assert "its last words:\ngone" in html


SPACE = "\N{NO-BREAK SPACE}"


def drawn(html: str) -> Any:
    return json.loads(next(text for text in Parsed(html).scripts if '"figures"' in text))


@pytest.mark.parametrize(
    ("given", "score", "points", "said"),
    [
        (
            of_labels,
            "micro_f1",
            [[None, 0.25], [None, 0.5]],
            [
                "80 training and 20 validation samples with 2 labels.",
                f"The highest micro F1: torch cached, 62.5{SPACE}%.",
                "val micro F1",
                "50.0 to 62.5",
                "\N{MINUS SIGN}5.0, within noise",
                "the difference in micro F1, in percent",
                "Loss and micro F1",
                "Micro F1 per epoch",
                "5 of 20 with a label missing or too many",
                "Scores by label",
                "'red' and 'blue' predicted nothing, loss 1.25",
            ],
        ),
        (
            of_numbers,
            "mae",
            [[None, 50.0], [None, 21.0]],
            [
                "80 training and 20 validation samples with 1 target.",
                "The least mean absolute error: torch cached, 12.5. Within the noise",
                "val MAE",
                "10 to 1,234",
                "+8.5, within noise",
                "the difference in mean absolute error, in its units, less is better",
                "Loss and mean absolute error",
                "Mean absolute error over time",
                "Scores by target",
                "20.25",
                "'red' predicted 'blue', off 1.25",
            ],
        ),
    ],
    ids=["multi", "regression"],
)
def test_a_page_of_another_task(
    given: Callable[[], dict[str, Any]], score: str, points: list[list[float | None]], said: list[str]
) -> None:
    html = report.page(given())
    text = re.sub(r"[ \n]+", " ", "".join(Parsed(html).texts))
    for words in said:
        assert words in text, words
    assert "ccuracy" not in text.replace("subset accuracy", "") and "taken for" not in text
    assert "Confusion" not in text and "class" not in text
    assert text.index("torch cached") < text.index("torch full")
    made = drawn(html)
    assert {name.split()[0] for name in made["figures"]} == {"loss", score, "break-even"}
    assert [[point[4], point[6]] for point in made["runs"][0]["points"]] == points


def test_runs_of_several_tasks_are_drawn_apart() -> None:
    """Neither is better than the other."""
    html = report.page(content([row("torch", "full"), of_numbers()["rows"][1]]))
    text = " ".join(Parsed(html).texts)
    assert "val score" in text and not any("aria-sort" in attributes for _, attributes in Parsed(html).elements)
    assert "most accurate" not in text and "least mean" not in text
    made = drawn(html)
    assert [run["score"] for run in made["runs"]] == ["accuracy", "mae"]
    assert {name.split()[0] for name in made["figures"]} == {"loss", "accuracy", "mae", "break-even"}


def test_intervals_noise_and_classes_are_shown() -> None:
    noise, best, before = row("torch", "cached"), row("torch", "full"), row("torch", "frozen")
    best["against_best"] = None
    del before["scores"], before["against_best"]
    worse = row("torch", "scratch", against_best={"best": "torch full", "difference": -0.3, "noise": False})
    texts = Parsed(report.page(content([noise, best, before, worse]))).texts
    text = " ".join(texts)
    assert texts.count("65.0 to 95.0") == 3
    assert texts.count("\N{MINUS SIGN}5.0, within noise") == 1 and texts.count("\N{MINUS SIGN}30.0") == 1
    assert "Within the noise of its samples, no worse than the best: torch cached." in text
    noise["against_best"]["weighted"] = True
    weighted = Parsed(report.page(content([noise, best]))).texts
    assert "\N{MINUS SIGN}5.0, weighted, within noise" in weighted
    assert "no worse than the best, samples by their weights: torch cached." in " ".join(weighted)
    assert texts.count("Scores by class") == 3 and "accuracy 85.0%; F1, macro 50.0%" in texts
    assert "94.7%" in texts and "75.0%" in texts


def test_rows_whose_kernels_are_the_same_share_a_card() -> None:
    one = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    same, changed = pictures.kernels("conv1", one, one), pictures.kernels("conv1", one, one + 0.5)
    rows = [row("torch", "frozen", kernels=same), row("torch", "full", kernels=changed)]
    rows.append(row("torch", "cached", kernels=same))
    html = report.page(content(rows))
    assert "<h3>torch frozen, torch cached</h3>" in html
    assert "max |difference| exactly 0: frozen" in html and "max |difference| 0.5<" in html


def test_a_fact_that_is_true_or_false_is_no_number() -> None:
    texts = Parsed(
        report.page(content(data={"name": "x", "named_classes": True, "classes": ["a"], "train": 9}))
    ).texts
    assert "yes" in texts and "not finite" not in texts


def test_the_command_is_what_one_types() -> None:
    assert "headstart compare --data &#39;my photos&#39;" in report.page(content())
    module = content(command=["/x/headstart/__main__.py", "fit", "a&b"])
    assert "python -m headstart fit &#39;a&amp;b&#39;" in report.page(module)


# ---- in a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def saved(given: dict[str, Any], folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(report.page(given), "utf-8")
    return path


# The numbers of the rows that each of the four curves shows: lines of training, of validation, and markers.
SHOWN = """const kept = (r) => r.data_source.data.row.filter((_, i) => r.view.filter.booleans[i]);
const rows = (r) => [...new Set(kept(r))].sort();
const plots = Bokeh.documents.map((d) => d.roots()[0]).filter((plot) => / (epoch|seconds)$/.test(plot.name));
return plots.map((plot) => plot.renderers.map(rows))"""
# How many pixels of each of the four curves have about this colour.
PIXELS = """const [r, g, b] = arguments[0];
const count = (root) => Array.from(root.querySelectorAll("*")).reduce((sum, e) => {
  if (e.shadowRoot) sum += count(e.shadowRoot);
  if (e.tagName === "CANVAS") {
    const d = e.getContext("2d").getImageData(0, 0, e.width, e.height).data;
    for (let i = 0; i < d.length; i += 4) {
      sum += d[i + 3] > 200 && Math.abs(d[i] - r) + Math.abs(d[i + 1] - g) + Math.abs(d[i + 2] - b) < 12;
    }
  }
  return sum;
}, 0);
return Array.from(document.querySelectorAll(".pairs .plot")).map(count)"""


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_a_click_in_the_legend_hides_a_run_in_all_four_figures(chromium: Browser, tmp_path: Path) -> None:
    rows = [
        row("torch", "full", 0.9),
        row("torch", "frozen", 0.8),
        row("jax", "full", 0.7),
        row("jax", "staged", 0.6),
    ]
    given = content(rows)
    for one in rows[1]["history"]:  # not where another run is
        one.update(loss=0.9, val_loss=0.95, accuracy=0.5, val_accuracy=0.4)
    chromium.open(saved(given, tmp_path))
    assert chromium.run("return performance.getEntriesByType('resource').length") == 0
    assert chromium.run("return document.title") == "headstart on things"
    assert chromium.run(SHOWN) == [[[0, 1, 2, 3]] * 3] * 4
    colour = [int(looks(rows)[1].colour[i : i + 2], 16) for i in (1, 3, 5)]
    assert min(chromium.run(PIXELS, colour)) > 50
    key = chromium.find(".key[data-row='1']")
    key.click()
    chromium.wait("true")
    assert chromium.run(SHOWN) == [[[0, 2, 3]] * 3] * 4
    assert chromium.run(PIXELS, colour) == [0] * 4
    assert key.get_attribute("aria-pressed") == "false"
    key.click()
    chromium.wait("true")
    assert chromium.run(SHOWN) == [[[0, 1, 2, 3]] * 3] * 4
    assert min(chromium.run(PIXELS, colour)) > 50
    backend = chromium.find(".legend .group")
    backend.click()
    assert chromium.run(SHOWN) == [[[2, 3]] * 3] * 4
    backend.click()
    assert chromium.run(SHOWN) == [[[0, 1, 2, 3]] * 3] * 4
    assert [line for line in chromium.console() if "willReadFrequently" not in line] == []  # what PIXELS does


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_the_table_sorts_by_click_and_by_keyboard(chromium: Browser, tmp_path: Path) -> None:
    # As texts, 100 would come before 9; what is missing comes last either way.
    rows = [row("torch", "full", 0.8, total_seconds=9.0), row("torch", "cached", 0.9, total_seconds=None)]
    rows.append(row("torch", "staged", None, total_seconds=100.0))
    chromium.open(saved(content(rows), tmp_path))

    def order() -> list[str]:
        found: list[str] = chromium.run(
            "return Array.from(document.querySelectorAll('#runs tbody th'), (e) => e.textContent)"
        )
        return [label.removeprefix("torch ") for label in found]

    def sorted_by() -> dict[str, str]:
        found: dict[str, str] = chromium.run(
            "return Object.fromEntries(Array.from(document.querySelectorAll('#runs [aria-sort]'),"
            " (e) => [e.textContent, e.getAttribute('aria-sort')]))"
        )
        return found

    assert (order(), sorted_by()) == (["cached", "full", "staged"], {"val accuracy": "descending"})
    total = chromium.find("#runs th:nth-child(11) button")
    total.click()
    assert (order(), sorted_by()) == (["staged", "full", "cached"], {"total, s": "descending"})
    total.click()
    assert (order(), sorted_by()) == (["full", "staged", "cached"], {"total, s": "ascending"})
    mode = chromium.find("#runs th:nth-child(3) button")
    mode.send_keys("\ue007")  # Enter
    assert (order(), sorted_by()) == (["cached", "full", "staged"], {"mode": "ascending"})
    mode.send_keys(" ")
    assert (order(), sorted_by()) == (["staged", "full", "cached"], {"mode": "descending"})


# What reaches beyond the right edge, but for what scrolls in a box of its own.
BEYOND = """return Array.from(document.querySelectorAll("main *")).filter((e) => e.checkVisibility()
  && e.closest(matchMedia("print").matches ? ".none-of-them" : ".scroll, .legend") === null
  && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
WIDTHS = "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_a_full_page_fits_phone_screen_and_paper(chromium: Browser, tmp_path: Path) -> None:
    given = deepcopy(full_size())
    given["rows"][0]["label"] = "an_unusually_long_name_of_a_run_" * 4
    chromium.open(saved(given, tmp_path), width=390, height=844)
    assert chromium.run(WIDTHS) == [390] * 3
    assert chromium.run(BEYOND) == []
    tops = "return Array.from(document.querySelectorAll('.pairs figure'), (e) => e.getBoundingClientRect().top)"
    assert len(set(chromium.run(tops))) == 4
    chromium.resize(1280, 900)
    chromium.wait("document.querySelector('.plot').getBoundingClientRect().width > 500")
    assert chromium.run(WIDTHS) == [1280] * 3
    assert chromium.run(BEYOND) == []
    assert len(set(chromium.run(tops))) == 2
    printed = chromium.pdf()
    assert printed.startswith(b"%PDF") and printed.rstrip().endswith(b"%%EOF")
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\]", printed)
    assert boxes and all((round(float(w)), round(float(h))) == (595, 842) for w, h in boxes)
    # What is printed is as wide as the paper's inside at most.
    chromium.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    chromium.resize(688, 900)
    try:
        assert chromium.run(BEYOND) == []
    finally:
        chromium.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert chromium.console() == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_figures_are_printed_as_copies(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(saved(content(), tmp_path))
    copies = (
        "return Array.from(document.querySelectorAll('canvas.printed'), (e) => [e.width > 200, e.height > 200])"
    )
    chromium.run("dispatchEvent(new Event('beforeprint'))")
    assert chromium.run(copies) == [[True, True]] * 5
    blank = "return Array.from(document.querySelectorAll('canvas.printed'), (e) => e.getContext('2d')"
    filled = f"{blank}.getImageData(0, 0, e.width, e.height).data.some((value) => value > 0))"
    assert chromium.run(filled) == [True] * 5
    chromium.run("dispatchEvent(new Event('afterprint'))")
    assert chromium.run(copies) == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_hostile_texts_do_nothing(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(saved(hostile(), tmp_path))
    assert chromium.run("return [typeof hacked, performance.getEntriesByType('resource').length]") == [
        "undefined",
        0,
    ]
    assert "$$x^2$$" in chromium.run("return document.title")
    assert chromium.console() == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_in_a_notebook_every_frame_works_and_is_as_high_as_its_page(chromium: Browser, tmp_path: Path) -> None:
    contents = [GAPS[name]() for name in ("one-epoch", "no-validation", "diverged", "all-failed", "no-epochs")]
    pages = [report.page(given) for given in contents]
    cells = tmp_path / "notebook.html"
    cells.write_text(f"<!doctype html><meta charset=utf-8><body>{''.join(map(report.frame, pages))}", "utf-8")
    elements = Parsed(cells.read_text("utf-8")).elements
    assert [attributes["srcdoc"] for tag, attributes in elements if tag == "iframe"] == pages
    chromium.resize(900, 700)
    chromium.driver.get(cells.as_uri())
    chromium.wait(
        """Array.from(document.querySelectorAll("iframe")).every((frame) => {
          const page = frame.contentDocument?.documentElement;
          const differs = () => Math.abs(page.getBoundingClientRect().height - frame.clientHeight);
          return page?.dataset.ready === "yes" && differs() < 2;
        })"""
    )
    found = chromium.run(
        """return Array.from(document.querySelectorAll("iframe"), ({ contentDocument: page, clientHeight }) =>
          [page.querySelectorAll(".pairs .plot canvas, .pairs .plot > div").length, clientHeight > 640])"""
    )
    assert found == [[4 if any(row["history"] for row in given["rows"]) else 0, True] for given in contents]
    assert chromium.console() == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_pages_of_other_tasks_work(chromium: Browser, tmp_path: Path) -> None:
    """Curves of the score, the least error first, and what hovering says; nothing reaches beyond a phone."""
    tooltips = """const plot = Bokeh.documents.map((d) => d.roots()[0]).find((plot) => plot.name === arguments[0]);
    const { data } = plot.renderers.find((r) => r.name === "points").data_source;
    return [data.y, data.validation[1], data.training[1], plot.y_range.start]"""
    chromium.open(saved(of_labels(), tmp_path), width=390, height=844)
    assert (chromium.run(WIDTHS), chromium.run(BEYOND)) == ([390] * 3, [])
    f1, validation, training, low = chromium.run(tooltips, "micro_f1 epoch")
    assert f1 == [25, 50, 75, 62.5] and low > 0
    assert (validation, training) == (f"loss 0.6000, micro F1 50.0{SPACE}%", "loss 0.5000")
    assert chromium.console() == []
    chromium.open(saved(of_numbers(), tmp_path), width=390, height=844)
    assert (chromium.run(WIDTHS), chromium.run(BEYOND)) == ([390] * 3, [])
    errors, validation, training, low = chromium.run(tooltips, "mae epoch")
    assert (errors, low) == ([50, 21, 40, 12.5], 0)
    assert (validation, training) == ("loss 0.6000, mean absolute error 21", "loss 0.5000")
    score = chromium.find("#runs th:nth-child(5) button")
    assert chromium.run("return arguments[0].closest('th').getAttribute('aria-sort')", score) == "ascending"
    score.click()
    first = "return document.querySelector('#runs tbody th').textContent"
    assert chromium.run(first) == "torch full"
    assert chromium.console() == []
    chromium.open(saved(content([row("torch", "full"), of_numbers()["rows"][1]]), tmp_path))
    assert chromium.run(tooltips, "mae seconds")[0] == [40, 12.5]
    assert len(chromium.run(tooltips, "loss seconds")[0]) == 5
    assert chromium.console() == []
