"""JPEGs that are decoded at a part of their size: what comes out is nearly what the whole picture gives, wherever
its edges lie, and never under the same key."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from commands import headstart
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from sklearn.datasets import load_sample_image

import headstart as hs
from headstart.common.errors import ImageError, UnknownNameError
from headstart.data import Augment, Preprocess, images_at
from headstart.data.decode import EXTENT, Jpegs, decoded, extent_of
from headstart.data.loader import batches
from headstart.features.trunk_keys import INPUT, key_of

pytestmark = pytest.mark.neutral

WIDTH, HEIGHT = 611, 421  # no multiples of 2: the last column and row of half of it lie beyond the edge
ORIENTATION = 0x0112


def photograph(name: str = "china.jpg", subsampling: int = 2, orientation: int = 1, **options: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stream = io.BytesIO()
    image = Image.fromarray(load_sample_image(name)).crop((0, 0, WIDTH, HEIGHT))
    image.save(stream, "JPEG", quality=95, subsampling=subsampling, exif=exif.tobytes(), **options)
    return stream.getvalue()


def prepared(content: bytes, preprocess: Preprocess) -> np.ndarray:
    image = decoded(content, "it", jpegs=preprocess.jpegs()).image
    return preprocess.apply(image).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [26, 56, 104])
def test_it_is_nearly_the_whole_pictures(side: int, orientation: int) -> None:
    content = photograph(orientation=orientation)
    exact, scaled = (prepared(content, Preprocess(side, side, decode=way)) for way in ("exact", "scaled"))
    difference = np.abs(exact - scaled)
    assert 0 < difference.mean() < 1.5
    assert np.percentile(difference, 99) < 8
    moved = np.abs(exact[:, 1:] - exact[:, :-1]).mean()  # what a shift by a pixel would be
    assert difference.mean() < moved / 8


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
def test_of_every_kind_of_jpeg(options: dict[str, int]) -> None:
    content = photograph("flower.jpg", **options)
    exact, scaled = (prepared(content, Preprocess(64, 70, "bicubic", decode=way)) for way in ("exact", "scaled"))
    assert 0 < np.abs(exact - scaled).mean() < 1.5


@pytest.mark.parametrize(
    ("enough", "size"),
    [(52, (77, 53)), (53, (153, 106)), (105, (153, 106)), (106, (306, 211)), (210, (306, 211)), (211, (611, 421))],
)
def test_as_many_pixels_are_kept_as_are_enough(enough: int, size: tuple[int, int]) -> None:
    image = decoded(photograph(), "it", jpegs=Jpegs(enough)).image
    assert image.size == size
    extent = extent_of(image)
    if size == (WIDTH, HEIGHT):
        assert extent is None
        np.testing.assert_array_equal(np.asarray(image), np.asarray(decoded(photograph(), "it").image))
    else:
        assert extent is not None
        assert (extent.width, extent.height) == (WIDTH, HEIGHT)


def test_other_formats_are_decoded_whole() -> None:
    pixels = load_sample_image("china.jpg")
    stream = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text(EXTENT, "(1, 1, (0, 0, 1, 1))")  # whoever made the file says so
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=text)
    way = Preprocess(32, 32, decode="scaled")
    np.testing.assert_array_equal(np.asarray(decoded(stream.getvalue(), "it", jpegs=Jpegs(64)).image), pixels)
    np.testing.assert_array_equal(
        prepared(stream.getvalue(), way), prepared(stream.getvalue(), Preprocess(32, 32))
    )


def test_what_is_refused_is_refused_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    half = photograph()[:20_000]
    with pytest.raises(ImageError, match="breaks off"):
        decoded(half, "it", jpegs=Jpegs(60))
    kept = decoded(half, "it", keep=True, jpegs=Jpegs(60))
    assert kept.image.size == (153, 106)
    assert list(kept.remarks)
    monkeypatch.setenv("HEADSTART_MAX_PIXELS", str(WIDTH * HEIGHT - 1))
    with pytest.raises(ImageError, match="pixels"):
        decoded(photograph(), "it", jpegs=Jpegs(60))


def test_ways_to_decode_have_names() -> None:
    with pytest.raises(UnknownNameError, match=r"exact.*scaled.*gpu"):
        Preprocess(32, 32, decode="half")
    assert Preprocess(32, 32).as_dict().keys() == Preprocess(32, 32, decode="exact").as_dict().keys()
    scaled = Preprocess(32, 32, decode="scaled")
    assert Preprocess.from_dict(scaled.as_dict()) == scaled
    assert scaled.with_size(64).decode == "scaled"


def test_keys_tell_them_apart() -> None:
    models = [hs.model("lenet", decode=way) for way in (None, "exact", "scaled")]
    for cut in ("fc2", INPUT):
        usual, exact, scaled = (key_of(m, cut, precision="float32", dtype="float16").digest for m in models)
        assert usual == exact != scaled


@given(st.floats(0.05, 1), st.integers(64, 900), st.integers(64, 900), st.integers(0, 50))
def test_random_crops_keep_what_they_need(low: float, width: int, height: int, seed: int) -> None:
    """Of the shorter side a crop never takes less than `narrowest` says, but for rounding."""
    augment = Augment(crop=(low, 1.0))
    assert augment.narrowest is not None
    crop = augment.draw(seed, 0, "a sample", width, height)
    assert min(crop.right - crop.left, crop.bottom - crop.top) >= augment.narrowest * min(width, height) - 1
    assert Augment(crop=None).narrowest is None


def test_random_crops_of_scaled_pictures(tmp_path: Path) -> None:
    """Enough is kept for the smallest crop, and crops are those of the picture that was decoded."""
    (tmp_path / "one.jpg").write_bytes(photograph())
    data, augment = images_at(tmp_path / "one.jpg"), Augment(flip=True, crop=(0.35, 1.0))
    exact, scaled = (
        np.concatenate(
            [
                batch.images.astype(int)
                for epoch in range(20)
                for batch in batches(data, Preprocess(32, 32, decode=way), [0], 1, augment=augment, epoch=epoch)
            ]
        )
        for way in ("exact", "scaled")
    )
    assert (exact != scaled).any()
    assert np.abs(exact - scaled).mean() < 4  # boxes are rounded to other pixels
    assert Preprocess(32, 32, decode="scaled").jpegs(augment.narrowest) == Jpegs(125)


# --- as it is used


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in ("china", "flower"):
        for turn in range(1, 7):
            target = tmp_path / "photographs" / name / f"{turn}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(photograph(f"{name}.jpg", orientation=turn))
    return tmp_path / "photographs"


@pytest.mark.slow("keras", "jax")  # core decodes
@pytest.mark.each
def test_a_run_predicts_as_it_was_trained(photographs: Path, tmp_path: Path, backend: str) -> None:
    data = hs.data.folder(photographs)
    features, runs = {}, {}
    for way in ("exact", "scaled"):
        model = hs.model("resnet18_half", weights="tinyimagenet", classes=data.classes, size=64, decode=way)
        features[way] = hs.extract(model, data, backend=backend).numpy().reshape(len(data), -1).astype(np.float64)
        runs[way] = hs.fit(model, data, mode="cached", epochs=2, backend=backend)
    a, b = features["exact"], features["scaled"]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert (a != b).any()
    assert cosine.min() > 0.995
    runs["scaled"].save(tmp_path / "run")
    again = hs.load(tmp_path / "run", backend=backend)
    assert again.model.preprocess.decode == "scaled"
    files = sorted(photographs.rglob("*.jpg"))
    np.testing.assert_allclose(again.predict(files), runs["scaled"].predict(data), rtol=1e-4, atol=1e-5)
    assert hs.extract(again.model, data, backend=backend).stats.extracted == 0
    runs["scaled"].export(tmp_path / "scaled.onnx")
    exported = hs.OnnxModel(tmp_path / "scaled.onnx")  # the file says how to decode, too
    np.testing.assert_allclose(exported.predict(files), runs["scaled"].predict(data), rtol=1e-3, atol=1e-3)
    in_memory = [Image.open(io.BytesIO(file.read_bytes())) for file in files]  # decoded already, and whole
    assert not np.allclose(exported.predict(in_memory), runs["scaled"].predict(data), rtol=1e-3, atol=1e-3)


@pytest.mark.slow("keras", "jax")  # core decodes
@pytest.mark.each
def test_the_command_line_names_it(photographs: Path, backend: str) -> None:
    about = ["--data", photographs, "--model", "resnet18_half", "--size", "64"]
    assert headstart("extract", *about, "--decode", "scaled", "--backend", backend).code == 0
    all_there = "all 12 samples have features"
    assert all_there in headstart("cache", "explain", *about, "--decode", "scaled").out
    assert all_there not in headstart("cache", "explain", *about).out
    wrong = headstart("extract", *about, "--decode", "half", "--backend", backend)
    assert wrong.code == 2
    assert "exact" in wrong.err
