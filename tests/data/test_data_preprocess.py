"""Preprocessing by hand (for torchvision's, see parity/test_preprocess.py), and augmentation's draws."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from headstart.common.errors import DataWarning, SettingError
from headstart.data import Augment, Crop, Preprocess, folder

pytestmark = pytest.mark.neutral

IDS = [f"{i:032x}" for i in range(200)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def test_known_crop_without_resizing() -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    cut = Preprocess(4, 8).apply(Image.fromarray(values))
    np.testing.assert_array_equal(cut, values[2:6, 4:8])
    assert cut.dtype == np.uint8
    assert cut.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_opened_file_is_turned_as_predict_turns_it(tmp_path: Path, orientation: int, kind: str) -> None:
    """And what a data set has turned is not turned again."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / f"x.{kind.lower()}"
    noise(80, 60).save(path, kind, exif=exif)
    preprocess = Preprocess(48, 48)
    with Image.open(path) as image:
        expected = preprocess.apply(ImageOps.exif_transpose(image))
    with Image.open(path) as image:
        assert np.array_equal(preprocess.apply(image), expected)
    loaded = folder(tmp_path, classes=["a"]).load(0)[0]
    assert np.array_equal(preprocess.apply(loaded), expected)
    assert np.array_equal(preprocess.apply(ImageOps.exif_transpose(loaded)), expected)
    rows = preprocess.allocate(1)
    preprocess.fill(rows, 0, loaded)
    assert np.array_equal(rows[0], expected)


def test_grey_of_16_bits_is_scaled(tmp_path: Path) -> None:
    grey = np.asarray(noise(80, 60).convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(Preprocess(48, 48).apply(image), Preprocess(48, 48).apply(Image.fromarray(grey)))


def test_empty_box_means_the_central_crop() -> None:
    image, p = noise(40, 30), Preprocess(16, 20)
    np.testing.assert_array_equal(p.apply(image, Crop(0, 0, 0, 0, True)), p.apply(image)[:, ::-1])


def test_affine_maps_bytes_to_normalised() -> None:
    p = Preprocess(2, 2, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    scale, shift = p.affine()
    assert scale.dtype == shift.dtype == np.float32
    np.testing.assert_allclose(255 * scale + shift, [1, 3, 1], rtol=1e-6)
    np.testing.assert_allclose(0 * scale + shift, [-1, -1, 0])
    out = p.normalise(np.full((1, 2, 2, 3), 255, np.uint8))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[0, 0, 0], [1, 3, 1], rtol=1e-6)
    with pytest.raises(SettingError, match="float32"):
        p.normalise(np.zeros((1, 2, 2, 3), np.float32))


def test_channels_in_reverse_scaled_and_shifted() -> None:
    """Keras' "caffe": blue first, its mean taken away, and nothing divided."""
    means = (103.939, 116.779, 123.68)
    p = Preprocess(2, 2, mean=means, std=(1, 1, 1), channels="bgr", scale=1)
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3) * 10
    expected = pixels[..., ::-1].astype(np.float32) - np.float32(means)
    np.testing.assert_allclose(p.normalise(pixels), expected, atol=1e-5)
    np.testing.assert_array_equal(p.apply(Image.fromarray(pixels[0])), pixels[0])  # images stay R, G, B
    assert Preprocess(2, 2, scale=1 / 255) == Preprocess(2, 2)


def test_padding_is_torchvisions() -> None:
    """A resized side below the crop's is surrounded with black, an odd pixel more right and below."""
    values = np.random.default_rng(0).integers(1, 256, (5, 20, 3), np.uint8)
    made = Preprocess(8, 5, pad=True).apply(Image.fromarray(values))
    np.testing.assert_array_equal(made[1:6], values[:, 6:14])
    assert not made[:1].any() and not made[6:].any()
    narrow = Preprocess(8, 5, pad=True).apply(Image.fromarray(values[:, :6]))
    np.testing.assert_array_equal(narrow[1:6, 1:7], values[:, :6])
    assert narrow.sum() == values[:, :6].sum()
    with pytest.raises(SettingError, match="pad=True"):
        Preprocess(8, 5)
    assert Preprocess(8, 5, pad=True).with_size(16) == Preprocess(16, 10, pad=True)


@pytest.mark.parametrize("shape", [(20, 5), (5, 20), (33, 32), (16, 16), (3000, 2), (300_000, 1)])
@pytest.mark.parametrize("resize", [12, 16])
def test_squashed_images_are_those_of_a_resize_of_both_sides(shape: tuple[int, int], resize: int) -> None:
    image, p = noise(*shape), Preprocess(12, resize, "bicubic", squash=True)
    corner = (resize - 12) // 2
    both = image.resize((resize, resize), Image.Resampling.BICUBIC)
    expected = np.asarray(both.crop((corner, corner, corner + 12, corner + 12)))
    np.testing.assert_array_equal(p.apply(image), expected)
    assert str(p).startswith("12 px of 16, squashed, bicubic" if resize == 16 else "12 px, squashed, bicubic")
    crop = Crop(0, 0, 1, 1, True)
    np.testing.assert_array_equal(p.apply(image, crop), replace(p, squash=False).apply(image, crop))


@pytest.mark.parametrize(
    ("left_over", "usual", "floored"), [(1, 0, 0), (2, 1, 1), (3, 2, 1), (4, 2, 2), (7, 4, 3)]
)
def test_a_crop_between_two_pixels(left_over: int, usual: int, floored: int) -> None:
    image = noise(8 + left_over, 8)
    for p, left in ((Preprocess(8, 8), usual), (Preprocess(8, 8, floor=True), floored)):
        np.testing.assert_array_equal(p.apply(image), np.asarray(image)[:, left : left + 8])


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, "divide both by 255"),
        ({"mean": (0, 0, 0), "std": (58.4, 57.1, 57.4)}, "divide both by 255"),
        ({"mean": (0.485, 0.456, 0.406), "scale": 1}, "multiply both by 255"),
    ],
)
def test_mean_and_deviation_of_other_units_are_warned_of(said: dict[str, Any], mend: str) -> None:
    with pytest.warns(DataWarning, match=mend):
        Preprocess(32, 32, **said)


def test_mean_and_deviation_that_are_meant() -> None:
    for mean, std, scale in (
        (0, 1, 1),
        (103.9, 1, 1),
        (123.7, 58.4, 1),
        (0, 1, 1 / 255),
        (1, 1, 1 / 127.5),
        (0.5, 0.5, 1 / 255),
    ):
        Preprocess(32, 32, mean=(mean,) * 3, std=(std,) * 3, scale=scale)


def test_what_is_usual_is_not_written() -> None:
    """Keys and records of before stay what they were."""
    usual = {"size", "resize", "interpolation", "mean", "std"}
    assert Preprocess(8, 8).as_dict().keys() == usual
    assert repr(Preprocess(8, 8)).endswith("std=(0.229, 0.224, 0.225))")
    p = Preprocess(8, 6, channels="bgr", scale=0.02, pad=True, squash=True, floor=True)
    assert p.as_dict().keys() == usual | {"channels", "scale", "pad", "squash", "floor"}
    assert Preprocess.from_dict(json.loads(json.dumps(p.as_dict()))) == p
    assert "channels='bgr', scale=0.02, pad=True, squash=True, floor=True" in repr(p)


def test_large_crops_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image, p, crop = noise(60, 40), Preprocess(16, 20), Crop(5, 6, 50, 39, False)
    usual = p.apply(image), p.apply(image, crop)
    monkeypatch.setattr("headstart.data.preprocess.LARGE", 0)
    np.testing.assert_array_equal(p.apply(image), usual[0])
    np.testing.assert_array_equal(p.apply(image, crop), usual[1])


def test_endless_strip_needs_no_endless_memory() -> None:
    # resized as it is, this would be 64 x 128,000,000 pixels
    strip = Image.fromarray(np.arange(2_000_000, dtype=np.uint32).astype(np.uint8).reshape(1, -1)).convert("RGB")
    assert Preprocess(56, 64).apply(strip).shape == (56, 56, 3)


@pytest.mark.parametrize("size", [(700, 20), (20, 700), (1003, 7), (7, 1003), (5, 41), (3000, 1), (257, 32)])
def test_strips_are_resized_whole(size: tuple[int, int]) -> None:
    """As torchvision does it: the shorter side to `resize`, the longer in proportion, truncated; the middle."""
    image, short = noise(*size), min(size)
    width, height = (24 if side == short else int(24 * side / short) for side in size)
    for name, method in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        left, top = round((width - 20) / 2), round((height - 20) / 2)
        expected = image.resize((width, height), method).crop((left, top, left + 20, top + 20))
        np.testing.assert_array_equal(Preprocess(20, 24, name).apply(image), np.asarray(expected))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 24),
    st.integers(0, 9),
    st.sampled_from(["bilinear", "bicubic"]),
)
def test_any_image_gives_the_square(w: int, h: int, size: int, more: int, interpolation: str) -> None:
    p = Preprocess(size, size + more, interpolation)
    assert p.apply(noise(w, h)).shape == (size, size, 3)
    flat = Image.new("RGB", (w, h), (9, 120, 250))
    assert (p.apply(flat) == [9, 120, 250]).all()  # no border ever gets in


def test_dict_round_trip_is_json() -> None:
    p = Preprocess(224, 256, "bicubic", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])  # type: ignore[arg-type]
    assert p.mean == (0.5, 0.5, 0.5)
    again = Preprocess.from_dict(json.loads(json.dumps(p.as_dict())))
    assert again == p
    assert hash(again) == hash(p)


def test_from_dict_names_what_is_wrong() -> None:
    settings_ = Preprocess(8, 8).as_dict()
    with pytest.raises(SettingError, match=r"'sise'.*did you mean 'size'"):
        Preprocess.from_dict(settings_ | {"sise": 3})
    del settings_["std"]
    with pytest.raises(SettingError, match="lack std"):
        Preprocess.from_dict(settings_)


def test_with_size_scales_in_proportion() -> None:
    p = Preprocess(224, 256, "bicubic")
    assert p.with_size(64) == Preprocess(64, 73, "bicubic")
    assert p.with_size(224) == p
    assert Preprocess(10, 10).with_size(3).resize == 3
    with pytest.raises(SettingError, match="positive"):
        p.with_size(0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": 8.0},
        {"size": True},
        {"resize": 7},
        {"interpolation": "cubic"},
        {"mean": (0.5,)},
        {"channels": "rbg"},
        {"channels": "BGR"},
        {"scale": 0},
        {"scale": True},
        {"scale": "1/255"},
        {"pad": 1},
        {"squash": "yes"},
        {"floor": None},
        {"mean": 0.5},
        {"std": (0.1, 0.0, 0.1)},
        {"std": (0.1, float("nan"), 0.1)},
    ],
)
def test_wrong_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Preprocess(**({"size": 8, "resize": 8} | wrong))  # type: ignore[arg-type]


@given(
    st.integers(0, 2**40),
    st.integers(0, 1000),
    st.sampled_from(IDS),
    st.integers(1, 3000),
    st.integers(1, 3000),
)
def test_crop_lies_inside_and_repeats(seed: int, epoch: int, sample: str, width: int, height: int) -> None:
    crop = Augment().draw(seed, epoch, sample, width, height)
    assert 0 <= crop.left < crop.right <= width
    assert 0 <= crop.top < crop.bottom <= height
    assert crop == Augment().draw(seed, epoch, sample, width, height)


def test_crops_have_the_area_and_aspect_asked_for() -> None:
    crops = [Augment(crop=(0.2, 0.6)).draw(0, 0, id, 400, 400) for id in IDS]
    widths = np.array([c.right - c.left for c in crops])
    heights = np.array([c.bottom - c.top for c in crops])
    areas, aspects = widths * heights / 160_000, widths / heights
    assert 0.195 < areas.min() < 0.25
    assert 0.55 < areas.max() < 0.605
    assert 0.74 < aspects.min() < 0.8
    assert 1.25 < aspects.max() < 1.35
    assert 60 < sum(c.flip for c in crops) < 140
    lefts = np.array([c.left / (400 - w) for c, w in zip(crops, widths, strict=True)])
    assert abs(lefts.mean() - 0.5) < 0.08  # no side is preferred


def test_draws_differ_by_seed_epoch_and_sample() -> None:
    draw = Augment().draw
    drawn = {draw(s, e, i, 500, 500) for s in (0, 1) for e in (0, 1) for i in IDS[:5]}
    assert len(drawn) == 20


def test_strip_falls_back_to_a_central_crop() -> None:
    crop = Augment(crop=(0.9, 1.0)).draw(0, 0, IDS[0], 1000, 100)
    assert crop[:4] == (433, 0, 566, 100)


def test_same_draw_in_another_process() -> None:
    # a hash of a str would differ from process to process
    code = f"from headstart.data import Augment; print(tuple(Augment().draw(3, 7, {IDS[9]!r}, 640, 480)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str(tuple(Augment().draw(3, 7, IDS[9], 640, 480)))


def test_flip_only_leaves_the_box_empty() -> None:
    crops = {Augment(crop=None).draw(0, 0, id, 9, 9) for id in IDS}
    assert crops == {Crop(0, 0, 0, 0, True), Crop(0, 0, 0, 0, False)}
    assert not any(Augment(flip=False).draw(0, 0, id, 9, 9).flip for id in IDS)


def test_parse() -> None:
    assert Augment.parse("flip,crop") == Augment.parse("crop, flip") == Augment()
    assert Augment.parse("flip") == Augment(crop=None)
    assert Augment.parse("crop") == Augment(flip=False)
    assert Augment.parse("none") is Augment.parse(None) is Augment.parse(Augment(False, None)) is None
    assert Augment.parse(Augment(crop=(0.5, 1))) == Augment(crop=(0.5, 1.0))
    for wrong in ("flop", "", "none,flip"):
        with pytest.raises(SettingError):
            Augment.parse(wrong)


@pytest.mark.parametrize("wrong", [(0.5,), (0.0, 1.0), (0.9, 0.3), (0.5, 1.5), 0.5, "ab"])
def test_wrong_crop_range(wrong: object) -> None:
    with pytest.raises(SettingError, match=r"augment\.crop"):
        Augment(crop=wrong)  # type: ignore[arg-type]


def test_negative_seed_is_refused() -> None:
    with pytest.raises(SettingError, match="seed is -1"):
        Augment().draw(-1, 0, IDS[0], 9, 9)
