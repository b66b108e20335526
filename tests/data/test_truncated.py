"""JPEGs that break off, as camera traps leave them: refused, or kept where somebody said so."""

from __future__ import annotations

import io
import logging
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import ImageError, UnknownNameError
from headstart.data import Dataset, decode
from headstart.data.decode import decoded
from headstart.data.remarks import KEPT


def jpeg(seed: int = 0, **options: Any) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def half(seed: int = 0, share: float = 0.6, **options: Any) -> bytes:
    encoded = jpeg(seed, **options)
    return encoded[: int(share * len(encoded))]


def by_pillow(encoded: bytes, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What Pillow makes of it where it may load half pictures."""
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


@pytest.mark.neutral
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_what_is_kept_is_what_pillow_fills_in(
    share: float, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = half(share=share, **options)
    with pytest.raises(
        ImageError, match=r'breaks off: .*get it again, or take .*truncated="keep" \(--truncated keep\)'
    ):
        decode(encoded, "x")
    image, remarks = decoded(encoded, "x", keep=True)
    assert remarks == [KEPT]
    np.testing.assert_array_equal(np.asarray(image), by_pillow(encoded, monkeypatch))
    whole = np.asarray(decode(jpeg(**options), "x"), int)
    if not options:  # rows that are there are the picture's, and below them there is one grey
        top = slice(max(0, int(48 * share) - 24))
        np.testing.assert_array_equal(np.asarray(image)[top], whole[top])
        assert share > 0.9 or len(np.unique(np.asarray(image)[-1].reshape(-1, 3), axis=0)) == 1


@pytest.mark.neutral
def test_whole_pictures_are_the_same_and_other_formats_stay_refused() -> None:
    image, remarks = decoded(jpeg(), "x", keep=True)
    assert list(remarks) == []
    np.testing.assert_array_equal(np.asarray(image), np.asarray(decode(jpeg(), "x")))
    for kind in ("PNG", "WEBP", "GIF", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(stream, kind)
        with pytest.raises(ImageError, match=r"breaks off: .*get it again$"):
            decode(stream.getvalue()[: len(stream.getvalue()) // 2], "x", truncated="keep")
    with pytest.raises(ImageError):
        decode(half(share=0.02), "x", truncated="keep")  # nothing of its pixels is there
    with pytest.raises(UnknownNameError, match=r"truncated 'grey'.*raise, keep"):
        decode(jpeg(), "x", truncated="grey")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    for k, name in enumerate(("fox", "owl")):
        (tmp_path / "trap" / name).mkdir(parents=True)
        for i in range(6):
            content = half(10 * k + i) if i == 5 else jpeg(10 * k + i)
            (tmp_path / "trap" / name / f"{i}.jpg").write_bytes(content)
    return tmp_path / "trap"


def rows(trap: Path) -> dict[str, list[Any]]:
    files = sorted(trap.rglob("*.jpg"))
    return {"image": [str(path) for path in files], "label": [path.parent.name for path in files]}


def contents(trap: Path) -> dict[str, list[Any]]:
    named = rows(trap)
    return named | {"image": [Path(path).read_bytes() for path in named["image"]]}


def tar_of(trap: Path) -> Path:
    path = trap.parent / "t.tar"
    if path.exists():  # a tar that is written anew is another one to who has it open
        return path
    with tarfile.open(path, "w") as tar:
        for i, (content, label) in enumerate(zip(*contents(trap).values(), strict=True)):
            for suffix, data in (("jpg", content), ("txt", label.encode())):
                member = tarfile.TarInfo(f"{i}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def hub(trap: Path) -> Any:
    library = pytest.importorskip("datasets")
    cells = [{"bytes": content, "path": None} for content in contents(trap)["image"]]
    features = library.Features({"image": library.Image(), "label": library.Value("string")})
    return library.Dataset.from_dict({"image": cells, "label": rows(trap)["label"]}, features=features)


DOORS: dict[str, Callable[..., Dataset]] = {
    "folder": lambda trap, **how: hs.data.folder(trap, **how),
    "table of files": lambda trap, **how: hs.data.table(rows(trap), **how),
    "table of bytes": lambda trap, **how: hs.data.table(contents(trap), **how),
    "tar": lambda trap, **how: hs.data.webdataset(tar_of(trap), **how),
    "hugging face": lambda trap, **how: hs.data.huggingface(hub(trap), **how),
    "pairs of paths": lambda trap, **how: hs.data.wrap(list(zip(*rows(trap).values(), strict=True)), **how),
    "pairs of bytes": lambda trap, **how: hs.data.wrap(list(zip(*contents(trap).values(), strict=True)), **how),
    "to predict": lambda trap, **how: hs.data.images_at(trap, **how),
}


@pytest.mark.neutral
@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_the_option(door: str, trap: Path) -> None:
    data = DOORS[door](trap)
    with pytest.raises(ImageError, match=r"--truncated keep"):
        list(data)
    kept = DOORS[door](trap, truncated="keep")
    assert kept.ids == data.ids, "the bytes are the same"
    assert [np.asarray(sample.image).shape for sample in kept] == [(48, 64, 3)] * 12
    ((_, line),) = kept.remark_lines()
    assert line.startswith("2 pictures break off and were kept, what is missing of them grey (")
    assert len(DOORS[door](trap, on_error="skip")) == 10
    skipping = DOORS[door](trap, on_error="skip", truncated="keep")
    assert len(skipping) == 12 and len(skipping.remark_lines()) == 1
    again = DOORS[door](trap, on_error="skip")
    assert len(again) == 10, "that one was kept once is no word for the next time"
    with pytest.raises(UnknownNameError, match="truncated 'yes'"):
        DOORS[door](trap, truncated="yes")


@pytest.mark.of("torch")
def test_features_of_kept_pictures_are_those_of_what_was_kept(
    trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    model = hs.model("resnet18_half", weights=None, classes=2, size=32)
    with pytest.raises(ImageError, match="truncated"):
        hs.extract(model, hs.data.folder(trap), backend="torch")
    kept = hs.data.folder(trap, truncated="keep")
    features = hs.extract(model, kept, backend="torch")
    pixels = [np.asarray(sample.image) for sample in kept]
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "other"))
    plain = hs.extract(model, hs.data.arrays(pixels, kept.labels), backend="torch")
    cut = features.cuts[0]
    np.testing.assert_allclose(
        features.folder(cut).read(features.ids), plain.folder(cut).read(plain.ids), rtol=1e-3, atol=1e-3
    )


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["headstart", *map(str, words)])
    code: Any = 0
    try:
        cli.main()
    except SystemExit as left:
        code = left.code or 0
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.of("torch")
def test_the_command_says_it_once(
    trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADSTART_BACKEND", "torch")
    fit = [
        "fit", "--data", trap, "--model", "resnet18_half", "--size", 32, "--epochs", 2, "--batch-size", 4,
        "--out", tmp_path / "run",
    ]  # fmt: skip
    code, said = run(monkeypatch, capsys, *fit)
    lines = said.splitlines()
    assert code == 2 and [line.partition(":")[0] for line in lines] == ["model", "trap", "error"]
    assert "--truncated keep" in lines[2]
    code, said = run(monkeypatch, capsys, *fit, "--truncated", "keep")
    assert code == 0
    assert said.count("break off and were kept") == 1 and "warning: trap: 2 pictures break off" in said
    predict = ["predict", "--run", tmp_path / "run", trap / "fox" / "5.jpg", "--truncated", "keep"]
    code, said = run(monkeypatch, capsys, *predict)
    assert code == 0 and "1 picture breaks off and was kept" in said
    for k, path in enumerate(sorted(trap.rglob("*.jpg"))):  # others, of which the run has seen none
        path.write_bytes(half(100 + k))
    evaluate = ["evaluate", "--run", tmp_path / "run", "--data", trap]
    assert run(monkeypatch, capsys, *evaluate, "--truncated", "keep")[0] == 0
    logging.getLogger("headstart").setLevel(logging.NOTSET)
