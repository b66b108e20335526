"""JPEGs that a GPU decodes. Here nvImageCodec's own libjpeg stands for one, behind the same calls: which pictures
it is given, what becomes of what it does not decode, and what is said where there is none."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import headstart
from PIL import Image
from sklearn.datasets import load_sample_image

import headstart as hs
from headstart.common.errors import ImageError, SettingError
from headstart.data import Preprocess, gpu_jpegs, images_at
from headstart.data.decode import WHOLE, Jpegs, decoded
from headstart.data.loader import batches
from headstart.features.trunk_keys import INPUT, key_of

pytestmark = pytest.mark.neutral

BY_GPU = Jpegs(gpu=True)
ORIENTATION = 0x0112


def photograph(orientation: int = 1, mode: str = "RGB", **options: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stream = io.BytesIO()
    image = Image.fromarray(load_sample_image("china.jpg")).convert(mode)
    image.save(stream, "JPEG", exif=exif.tobytes(), **options)
    return stream.getvalue()


def pixels(content: bytes, jpegs: Jpegs = WHOLE) -> np.ndarray:
    return np.asarray(decoded(content, "it", jpegs=jpegs).image)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What is known of this machine's GPU is found out anew."""
    gpu_jpegs._lacking.cache_clear()
    gpu_jpegs._idle.clear()
    yield
    gpu_jpegs._lacking.cache_clear()
    gpu_jpegs._idle.clear()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, forgotten: None) -> list[bytes]:
    """What the GPU is given, one after the other."""
    nvimgcodec = pytest.importorskip("nvidia.nvimgcodec", reason="nvImageCodec is not installed")
    monkeypatch.setattr(gpu_jpegs, "DEVICE", nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY)
    monkeypatch.setattr(gpu_jpegs, "KINDS", ("CPU_ONLY",))
    assert gpu_jpegs._lacking() is None
    pictures, plain = [], gpu_jpegs._decoded

    def noted(encoded: bytes) -> np.ndarray | None:
        pictures.append(encoded)
        return plain(encoded)

    monkeypatch.setattr(gpu_jpegs, "_decoded", noted)
    return pictures


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(given: list[bytes], orientation: int) -> None:
    content = photograph(orientation)
    np.testing.assert_array_equal(pixels(content, BY_GPU), pixels(content))
    assert given == [content]


@pytest.mark.parametrize(
    ("options", "is_given"),
    [
        ({"progressive": True}, True),
        ({"subsampling": 0}, True),
        ({"keep_rgb": True}, False),  # no YCbCr: a decoder that takes it for such has other colours
        ({"mode": "L"}, False),
        ({"mode": "CMYK"}, False),
    ],
)
def test_colours_are_those_of_the_picture(given: list[bytes], options: dict[str, object], is_given: bool) -> None:
    content = photograph(**options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(pixels(content, BY_GPU), pixels(content))
    assert bool(given) == is_given


def test_what_it_does_not_decode_libjpeg_decodes(given: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    content = photograph()
    for instead in (None, np.zeros((8, 8, 3), np.uint8)):  # a preview, perhaps
        monkeypatch.setattr(gpu_jpegs, "_decoded", lambda encoded, instead=instead: instead)
        np.testing.assert_array_equal(pixels(content, BY_GPU), pixels(content))


def test_other_formats_have_one_way(given: list[bytes]) -> None:
    stream = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).save(stream, "PNG")
    np.testing.assert_array_equal(pixels(stream.getvalue(), BY_GPU), load_sample_image("china.jpg"))
    assert given == []


def test_what_is_refused_is_refused_as_ever(given: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    half = photograph()[:20_000]
    with pytest.raises(ImageError, match="breaks off"):
        decoded(half, "it", jpegs=BY_GPU)
    kept = decoded(half, "it", keep=True, jpegs=BY_GPU)
    np.testing.assert_array_equal(kept.image, decoded(half, "it", keep=True).image)
    assert list(kept.remarks)
    monkeypatch.setenv("HEADSTART_MAX_PIXELS", "1000")
    with pytest.raises(ImageError, match="pixels"):
        decoded(photograph(), "it", jpegs=BY_GPU)
    assert given == []


def test_from_many_threads(given: list[bytes], tmp_path: Path) -> None:
    for k in range(1, 9):
        (tmp_path / f"{k}.jpg").write_bytes(photograph(k))
    data = images_at(tmp_path)
    ways = [Preprocess(32, 40, decode=way) for way in ("exact", "gpu")]
    exact, by_gpu = (next(batches(data, way, range(8), 8, workers=4)).images for way in ways)
    np.testing.assert_array_equal(by_gpu, exact)
    assert len(given) == 8
    assert len(gpu_jpegs._idle) <= 4


def test_keys_tell_it_apart() -> None:
    models = [hs.model("lenet", decode=way) for way in ("exact", "scaled", "gpu")]
    for cut in ("fc2", INPUT):
        assert len({key_of(m, cut, precision="float32", dtype="float16").digest for m in models}) == 3
    assert "GPU" in str(Preprocess(32, 32, decode="gpu"))


@pytest.mark.parametrize("installed", [True, False])
def test_where_there_is_none(
    forgotten: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: bool
) -> None:
    """Said before anything is decoded, and never by pixels of libjpeg under a GPU's name."""
    if installed:
        pytest.importorskip("nvidia.nvimgcodec", reason="nvImageCodec is not installed")
        if gpu_jpegs._lacking() is None:
            pytest.skip("here is a GPU that decodes")
    else:
        monkeypatch.setattr(gpu_jpegs, "has_module", lambda name: False)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.jpg").write_bytes(photograph(quality=ord(name) - 20))
    data = images_at(tmp_path)
    said = "finds no GPU here" if installed else r"not installed: pip install 'headstart\[gpu-jpegs\]'"
    with pytest.raises(SettingError, match=said):
        next(batches(data, Preprocess(32, 32, decode="gpu"), [0], 1))
    with pytest.raises(SettingError, match=said):
        decoded(photograph(), "it", jpegs=BY_GPU)
    in_memory = hs.data.arrays(np.stack([load_sample_image("china.jpg")] * 2), [0, 1])
    assert next(batches(in_memory, Preprocess(32, 32, decode="gpu"), [0], 1)).images.any()
    done = headstart("extract", "--data", tmp_path, "--model", "lenet", "--decode", "gpu")
    assert done.code == 2
    assert "--decode gpu" in done.err
