"""Row i has the features of sample i: in random configurations (`tox -e faults` runs five times as many), and in
the real framework."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alignment import encoded, run_many

import headstart as hs
from headstart.common.errors import ExtractionInterrupted
from headstart.data.dataset import sample_id
from headstart.store import writer as shard_writer
from headstart.testing import relative_error

pytestmark = pytest.mark.neutral

AT_ONCE = 25


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in range(AT_ONCE, 100, AT_ONCE))]
)
def test_every_row_is_that_of_its_sample(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, interrupts = run_many(range(first, first + AT_ONCE), tmp_path, monkeypatch)
    assert rows > 500
    assert interrupts > 5


@pytest.mark.each
def test_in_the_real_framework(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Duplicates in a class, in both, and in both parts of a split; broken files; shuffled; interrupted where one
    cut has its first batch and the other has not."""
    photos = tmp_path / "photos"
    for i in range(14):
        (photos / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (photos / "ab"[i % 2] / f"{i:02}.img.png").write_bytes(encoded(i))
    for twice in ("a/20.png", "a/21.png", "b/22.png", "b/23.png"):
        shutil.copy(photos / "a" / "02.img.png", photos / twice)
    (photos / "a" / "00.png").write_text("broken")
    (photos / "b" / "24.jpg").write_bytes(encoded(3)[:20])
    data = hs.data.folder(photos, on_error="skip")
    assert len(data.skipped) == 2
    model, cuts = hs.model("lenet", classes=2), ["pool2", "relu4"]
    add, added = shard_writer.ShardWriter.add, 0

    def interrupted(self: Any, ids: Any, rows: Any) -> None:
        nonlocal added
        added += 1
        if added == 2:
            raise KeyboardInterrupt
        add(self, ids, rows)

    settings: Any = {"backend": backend, "device": "cpu", "dtype": "float32", "batch_size": 4, "workers": 2}
    shuffled = data.subset(np.random.default_rng(0).permutation(len(data)))
    train, val = shuffled.split(0.6, seed=1, by="position")
    for part in (train, val, shuffled):
        added = 0
        with monkeypatch.context() as patch:
            patch.setattr(shard_writer.ShardWriter, "add", interrupted)
            if part is not shuffled:  # of which nothing is left to do
                with pytest.raises(ExtractionInterrupted):
                    hs.extract(model, part, cuts, **settings)
        features = hs.extract(model, part, cuts, **settings)
        prepared = []
        for i in range(len(part)):
            path = Path(part.source_name(i))
            assert features.ids[i] == sample_id(path.read_bytes())
            assert features.labels[i] == "ab".index(path.parent.name)
            prepared.append(model.preprocess.apply(part.load(i)[0]))  # type: ignore[union-attr]
        images = model.preprocess.normalise(np.stack(prepared))  # type: ignore[union-attr]
        for cut, expected in hs.forward(model, images, cuts, backend=backend, device="cpu").items():
            assert relative_error(features.numpy(cut), expected) < 1e-5
            rows = features.numpy(cut).reshape(len(part), -1)
            assert len(np.unique(rows, axis=0)) == len(set(part.ids)), "different images, different rows"
