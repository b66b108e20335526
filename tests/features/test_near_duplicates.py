"""Pictures that are nearly the same are found by their features: all pairs, whatever the blocks, and no others."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import headstart
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity

import headstart as hs
from headstart.common.errors import SettingError
from headstart.data.annotations import single
from headstart.features import near_duplicates as module
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.near_duplicates import near_duplicates

THRESHOLD = 0.9


class Folder:
    """Rows by id, as a store gives them."""

    def __init__(self, rows: dict[str, np.ndarray], digest: str = "x") -> None:
        self._rows, self.key = rows, SimpleNamespace(digest=digest)
        self.most = 0

    def read(self, ids: list[str]) -> np.ndarray:
        self.most = max(self.most, len(ids))
        return np.stack([self._rows[id] for id in ids])


def features(ids: list[str], folder: Folder) -> FeatureSet:
    about = single(np.zeros(len(ids), np.int64), ["a", "b"])
    return FeatureSet("x", ids, about, {"cut": [folder]}, ExtractionStats(0, 0, 0.0, ()))  # type: ignore[list-item]


def rows_of(n: int, shape: tuple[int, ...], seed: int) -> tuple[list[str], Folder, np.ndarray]:
    """Rows of which a third is near another one; float16, as stored."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, *shape))
    for i in range(n // 3):
        rows[rng.integers(n)] = rows[i] * rng.uniform(0.1, 9) + rng.normal(0, rng.uniform(0, 0.6), shape)
    rows[n - 1] = 0  # near nothing
    rows = rows.astype(np.float16)
    ids = [f"{k:08x}{0:024x}" for k in rng.permutation(n)]
    flat = rows.astype(np.float64).reshape(n, -1, shape[-1]).mean(1)
    return ids, Folder(dict(zip(ids, rows, strict=True))), cosine_similarity(flat)


@pytest.mark.neutral
@pytest.mark.parametrize("shape", [(24,), (2, 3, 24)])
@pytest.mark.parametrize("blocks", [(1, 1), (7, 3), (16, 50), (500, 500)])
def test_all_pairs_and_no_others(
    shape: tuple[int, ...], blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_NBYTES", blocks[0] * 24 * 4)
    monkeypatch.setattr(module, "AT_ONCE", blocks[1])
    model = hs.model("lenet", weights=None, classes=2)
    ids, folder, cosines = rows_of(90, shape, 0)
    cuts = [range(60), range(60, 80), range(80, 90)]
    names = ("training", "validation", "test")
    of = {id: name for name, rows in zip(names, cuts, strict=True) for id in [ids[i] for i in rows]}
    parts = [features([ids[i] for i in rows] + [ids[0]], folder) for rows in cuts]  # a copy in each, which is none
    result = near_duplicates(model, *parts, threshold=THRESHOLD, cut="cut")
    close = {(i, j) for i, j in np.argwhere(cosines >= THRESHOLD).tolist() if i < j}
    assert np.abs(cosines - THRESHOLD).min() > 1e-5, "rounding would decide"
    expected = sorted(cosines[i, j] for i, j in close)[::-1]
    assert len(result) == len(close) > 20 and result.samples == 90
    np.testing.assert_allclose([pair.cosine for pair in result.pairs], expected, atol=2e-6)
    counts: dict[tuple[str, str], int] = {}
    for i, j in close:
        kind = (of[ids[i]], of[ids[j]])
        counts[kind] = counts.get(kind, 0) + 1
    assert result.counts == counts and result.across == sum(n for kind, n in counts.items() if len(set(kind)) > 1)
    told = {(pair.first[-9:-1], pair.second[-9:-1], *pair.parts) for pair in result.pairs}
    assert {frozenset(pair[:2]) for pair in told} == {frozenset((ids[i][:8], ids[j][:8])) for i, j in close}
    assert folder.most <= max(blocks)


@pytest.mark.neutral
def test_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = hs.model("lenet", weights=None, classes=2)
    rows = {f"{k:08x}{0:024x}": np.eye(8)[k // 2] + (k % 2) * 0.1 for k in range(16)}
    result = near_duplicates(model, features(list(rows), Folder(rows)))
    assert result.counts == {("training", "training"): 8}
    first, *pairs = result.lines()
    assert first == "near duplicates (cosine of 0.95 or more): 8 pairs of 16 pictures, 8 within training"
    assert len(pairs) == 4 and pairs[0].startswith("cosine 0.97") and "so many that" in pairs[3]
    monkeypatch.setattr(module, "MOST_PAIRS", 2)
    few = near_duplicates(model, features(list(rows), Folder(rows)), threshold=0.5)
    assert len(few.pairs) == 2 and len(few) >= 8
    none = near_duplicates(model, features(list(rows)[::2], Folder(rows)))
    assert none.lines() == ["near duplicates (cosine of 0.95 or more): none among 8 different pictures"]
    for wrong in (0, 1.5, float("nan"), True, "much"):
        with pytest.raises(SettingError, match="threshold is"):
            near_duplicates(model, features(list(rows), Folder(rows)), threshold=wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="differing trunks"):
        near_duplicates(model, *(features(list(rows)[k:], Folder(rows, str(k))) for k in (0, 1)))
    with pytest.raises(SettingError, match="which are pixels"):
        near_duplicates(model, features(list(rows), Folder(rows)), cut="input")


def picture(seed: int) -> Image.Image:
    """Coarse shapes in colours, and some grain."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 255, (4, 5, 3), np.uint8)).resize(
        (160, 128), Image.Resampling.BICUBIC
    )
    return Image.fromarray((np.asarray(shapes) + rng.normal(0, 4, (128, 160, 3))).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **how)
    return file.getvalue()


def photographs(root: Path) -> Path:
    """Two classes of six pictures each; in val three of them again, and two others."""
    for k in range(12):
        path = root / "train" / "ab"[k % 2] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved(picture(k), quality=95))
    again = {
        "a/encoded.jpg": saved(picture(0), quality=60),
        "b/smaller.jpg": saved(picture(3).resize((144, 115)), quality=92),
        "a/cropped.jpg": saved(picture(4).crop((3, 2, 157, 126)), quality=92),
        "a/new.jpg": saved(picture(90), quality=95),
        "b/other.jpg": saved(picture(91), quality=95),
    }
    for name, content in again.items():
        path = root / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_pictures_that_were_saved_again(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    root = photographs(tmp_path / "photos")
    data = hs.data.folder(root)
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=data.classes)
    result = hs.near_duplicates(model, data, device="cpu")
    expected = {("0.jpg", "encoded.jpg"), ("3.jpg", "smaller.jpg"), ("4.jpg", "cropped.jpg")}
    assert {(Path(pair.first).name, Path(pair.second).name) for pair in result.pairs} == expected
    assert result.counts == {("training", "validation"): 3} and result.samples == 17
    figures = tmp_path / "figures.json"
    words = (
        "fit",
        "--data",
        root,
        "--model",
        "resnet18_half",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--json",
        figures,
    )
    done = headstart(*words, "--near-duplicates")
    assert done.code == 0 and "3 pairs of 17 pictures, 3 between training and validation" in done.err, done.err
    said, warned = (done.err.index(text) for text in ("12 to train on, 5 to validate", "near duplicates (cosine"))
    assert said < warned and done.err.count("17 images") == 1, "behind what is said of the data"
    about = json.loads(figures.read_text())
    assert about["near_duplicates"] == json.loads(json.dumps(result.as_dict()))
    assert about["data"]["train"] == 12, "nothing is left out"
    done = headstart(*words, "--near-threshold", "2")
    assert done.code == 2 and done.err.count("\n") == 1 and "threshold is 2.0" in done.err
