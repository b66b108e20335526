"""What CONTRIBUTING.md says of how long formats stay: its numbers are those of the code, what nobody has written
yet is refused by name, and an exported file of before is opened.

`head.onnx` is of the recorded run's head, written by 0.1.0.dev710 before any release.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from before.recorded import CLASSES, HERE, unpack

import headstart as hs
from headstart.features.packed import FORMATS, _text
from headstart.store import FeatureFolder, FeatureStore, trunk_key
from headstart.store.keys import FORMAT_VERSION
from headstart.training import saved, saving
from headstart.training.checkpoints import files as checkpoints
from headstart.training.comparison import read_comparison

pytestmark = pytest.mark.neutral
PAGE = HERE.parents[1] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("made"))


def test_the_page_has_the_numbers_of_the_code() -> None:
    rows = re.findall(r"^\| (.+?) \|.*\| ([\d, -]+) \| ([\d, -]+) \| [^|]+\|$", PAGE.read_text(), re.MULTILINE)
    stated = {re.sub(r" \(.*", "", name): (written, read) for name, written, read in rows if written != "-"}
    of_sets = ", ".join(name.rpartition("/")[2] for name in FORMATS)
    assert stated == {
        "the store": (str(FORMAT_VERSION), str(FORMAT_VERSION)),
        "saved runs": (str(saving.FORMAT), f"{saved.FORMAT_BEFORE}, {saving.FORMAT}"),
        "feature sets": (of_sets, of_sets),
        "checkpoints": (str(checkpoints.FORMAT), str(checkpoints.FORMAT)),
    }


def test_a_run_of_a_later_version_is_refused_by_name(made: Path, tmp_path: Path) -> None:
    about = json.loads((made / "run/run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(about | {"format": 999, "headstart": "9.1"}))
    with pytest.raises(
        hs.errors.WeightsError, match=r"format 999, written by headstart 9\.1; this one .* reads 1 and 2"
    ):
        hs.load(tmp_path)


def test_a_feature_set_of_a_later_version_is_refused_by_name(made: Path) -> None:
    path = made / "features/features.json"
    before = path.read_bytes()
    about = json.loads(before) | {"format": "headstart-saved-features/999"}
    del about["checksum"]
    path.write_bytes(_text(about))
    try:
        with pytest.raises(hs.errors.SavedFeaturesError, match="saved-features/999', this version reads"):
            hs.load_features(made / "features")
    finally:
        path.write_bytes(before)


def test_features_of_a_later_version_are_not_damaged(tmp_path: Path) -> None:
    """Two versions share a cache, and the earlier one repairs it."""
    about = {"graph": ["conv"], "weights_digest": "0" * 32, "preprocess": {}, "precision": "float32"}

    def fill() -> FeatureFolder:
        key = trunk_key(**about, dtype="float16", label={"model": "tiny", "cut": "conv"})
        folder = FeatureStore(tmp_path).folder(key)
        with folder.writer((3,), "float16", {"backend": "numpy"}) as out:
            out.add(["0" * 32], np.ones((1, 3), np.float32))
        return folder

    ours = fill()
    with pytest.MonkeyPatch.context() as later:
        later.setattr("headstart.store.keys.FORMAT_VERSION", 999)
        later.setattr("headstart.store.shard.FORMAT", "headstart-features/999")
        theirs = fill()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    store = FeatureStore(tmp_path)
    report = store.verify(repair=True)
    assert (report.shards, report.damaged, report.set_aside) == (1, [], [])
    assert [path for path, _ in report.unreadable] == [theirs.path]
    assert "format 999" in report.unreadable[0][1]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    listed = {info.key: (info.rows, info.damaged, info.nbytes > 0) for info in store.infos()}
    assert listed == {ours.key.digest: (1, (), True), theirs.key.digest: (0, (), True)}

    description = theirs.path / "trunk.json"  # a number that was damaged is none of another version's
    description.write_text(description.read_text().replace(": 999", ": 998"))
    assert theirs.path / "damaged" / "trunk.json" in store.verify(repair=True).set_aside


def test_a_checkpoint_of_a_later_version_is_refused_by_name(tmp_path: Path) -> None:
    checkpoints.write_terms(tmp_path, {})
    path = tmp_path / checkpoints.TRAINING
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 999, "headstart": "9.1"}))
    with pytest.raises(
        hs.errors.CheckpointError, match=r"format 999, written by headstart 9\.1; this one .* reads 2;"
    ):
        checkpoints.read_terms(tmp_path)


def test_a_comparison_may_gain_entries_and_lose_none(made: Path, tmp_path: Path) -> None:
    content = json.loads((made / "compare/compare.json").read_text()) | {"headstart": "9.1", "gained": 1}
    (tmp_path / "compare.json").write_text(json.dumps(content))
    assert len(read_comparison(tmp_path / "compare.json")["rows"]) == 2
    del content["rows"]
    (tmp_path / "compare.json").write_text(json.dumps(content))
    with pytest.raises(hs.errors.SettingError, match=r"\(rows missing, written by headstart 9\.1\)"):
        read_comparison(tmp_path / "compare.json")


def test_an_exported_file_opens(made: Path) -> None:
    """And computes what the run that it is of computed then; features were float16, so it does nearly."""
    pytest.importorskip("onnxruntime", reason="`tox -e torch` has it")
    head = hs.OnnxModel(HERE / "head.onnx")
    assert (head.part, head.cut, head.classes, head.task) == ("head", "relu4", CLASSES, "single")
    features = hs.load_features(made / "features").numpy("relu4").astype(np.float32)
    expected = json.loads((HERE / "expected.json").read_text())["run"]["logits"]
    np.testing.assert_allclose(head.run(features)["logits"], expected, rtol=1e-2, atol=1e-2)
