"""What goes wrong with a shared cache, at whatever moment, stops nobody: the rows are computed anew, and training
gives what it gives without that cache. Damage, other shapes, NaN, exchanged rows, errors of reading, and a share
that goes away before, between or in the middle of epochs."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from dim_and_red import dim_and_red
from faults.damage import flip

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import MissingFeaturesError, StoreWarning
from headstart.data import Dataset
from headstart.features.coverage import explain
from headstart.models import Model
from headstart.store import FeatureStore, open_shard, shard, snapshot
from headstart.store import writer as shard_writer
from headstart.store.shard import row_checksums, write_shard

CUT = "relu4"
ROW_NBYTES = 84 * 4
SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
STREAMED = {"memory": 36 * ROW_NBYTES, "epochs": 4, "batch_size": 4, "cut": CUT}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dim_and_red()


@pytest.fixture(scope="module")
def model() -> Model:
    return hs.model("lenet", classes=["dim", "red"])


@pytest.fixture(scope="module")
def made(data: Dataset, model: Model, backend: str, tmp_path_factory: Any) -> Path:
    """A team's cache, in shards of ten rows."""
    root = Path(tmp_path_factory.mktemp("made")) / "team"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_writer, "SHARD_NBYTES", 10 * ROW_NBYTES)
        hs.extract(model, data, CUT, backend=backend, cache=root, **SETTINGS)
    return root


@pytest.fixture
def team(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "team"
    shutil.copytree(made, root)
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", str(root))
    return root


@pytest.fixture
def extract(data: Dataset, model: Model, backend: str) -> Callable[[], Any]:
    return lambda: hs.extract(model, data, CUT, backend=backend, **SETTINGS)


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("features/*/*.safetensors"))


def rot(root: Path) -> None:
    """A bit of a row in every shard; the files' times are put back."""
    for path in shards(root):
        status = path.stat()
        flip(path, 8 * open_shard(path).data_start + 77)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def forge(root: Path, change: Callable[[np.ndarray], np.ndarray], provenance: Any = None) -> None:
    """Other rows in every shard, under right checksums and right names."""
    for path in shards(root):
        old = open_shard(path)
        rows = np.empty((len(old), *old.row_shape), old.dtype)
        assert old.read_into(rows, np.arange(len(old)), np.arange(len(old))).all()
        rows = np.ascontiguousarray(change(rows))
        path.unlink()
        write_shard(
            path.parent,
            key_digest=old.key_digest,
            ids=old.ids,
            checksums=row_checksums(rows.reshape(len(rows), -1).view(np.uint8)),
            blocks=[rows],
            provenance=old.provenance if provenance is None else provenance,
        )


def one_nan(rows: np.ndarray) -> np.ndarray:
    rows[3, 5] = np.nan
    return rows


AT_REST: dict[str, Callable[[Path], Any]] = {
    "bits": rot,
    "gone": shutil.rmtree,
    "features gone": lambda root: shutil.rmtree(root / "features"),
    "shards gone": lambda root: [path.unlink() for path in shards(root)],
    "another shape": lambda root: forge(root, lambda rows: rows[:, :21].reshape(-1, 7, 3)),
    "another dtype": lambda root: forge(root, lambda rows: rows.astype(np.float16)),
    "bfloat16": lambda root: forge(root, lambda rows: rows.astype(ml_dtypes.bfloat16)),
    "NaN": lambda root: forge(root, one_nan),
    "infinity": lambda root: forge(root, lambda rows: np.where(np.arange(84) == 7, -np.inf, rows)),
    "exchanged rows": lambda root: forge(root, lambda rows: np.roll(rows, 1, axis=0)),
    "another trunk": lambda root: next(root.glob("features/*/trunk.json")).write_text('{"digest": "0"}'),
    "deep trunk.json": lambda root: next(root.glob("features/*/trunk.json")).write_text("[" * 100_000),
    "a folder for trunk.json": lambda root: [
        (path.unlink(), path.mkdir()) for path in root.glob("features/*/trunk.json")
    ],
    "pipes": lambda root: [(path.unlink(), os.mkfifo(path)) for path in shards(root)],
    "links to a device": lambda root: [(path.unlink(), path.symlink_to("/dev/zero")) for path in shards(root)],
}


def undisturbed(
    share: Path | None, data: Dataset, model: Model, backend: str, tmp_path: Path, **settings: Any
) -> Any:
    """The order in which features are streamed follows from where they lie: with the same shards, or with none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE_SHARED", "" if share is None else str(share))
        return hs.fit(model, data, backend=backend, cache=tmp_path / "alone", **SETTINGS, **settings)


@contextmanager
def warned_at_most_once_a_text() -> Iterator[None]:
    with pytest.warns(StoreWarning) as said:
        yield
    texts = [str(warning.message) for warning in said]
    assert len(texts) == len(set(texts)) <= 3, texts


@pytest.mark.of("torch")  # what follows is core's; that training goes on is tested in every backend
@pytest.mark.parametrize("fault", AT_REST)
def test_what_is_wrong_beforehand_is_computed(
    fault: str, team: Path, made: Path, extract: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = extract().numpy()
    shutil.rmtree(os.environ["HEADSTART_CACHE"])
    AT_REST[fault](team)
    silent = fault in ("features gone", "shards gone", "pipes")  # as if there never had been any
    with monkeypatch.context() if silent else warned_at_most_once_a_text():
        features = extract()
    assert features.stats.extracted == 48 and np.allclose(features.numpy(), right, rtol=1e-5, atol=1e-6)
    if fault != "gone":
        assert extract().stats.extracted == 0  # without a warning: what is there is not complained about


@pytest.mark.of("torch")
@pytest.mark.parametrize("fault", ["bits", "gone", "shards gone", "NaN", "exchanged rows"])
def test_what_goes_wrong_between_extraction_and_reading(
    fault: str, team: Path, made: Path, extract: Callable[[], Any]
) -> None:
    first, second = extract(), extract()
    right = first.numpy()
    assert first.stats.extracted == 0
    AT_REST[fault](team)
    with warned_at_most_once_a_text():
        assert np.allclose(second.numpy(), right, rtol=1e-5, atol=1e-6)
    assert len(FeatureStore(shared=[]).infos()) == 1 and FeatureStore(shared=[]).infos()[0].rows == 48
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is another reader, that says so for itself
        assert np.allclose(first.numpy(), right, rtol=1e-5, atol=1e-6)


@pytest.mark.of("torch")
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("when", ["before", "reading", "streaming"])
def test_errors_of_reading(
    code: int,
    when: str,
    team: Path,
    made: Path,
    data: Dataset,
    model: Model,
    backend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the share's files and folders, from some moment on."""
    failing = when == "before"
    opened, scandir = shard.opened, os.scandir

    @contextmanager
    def open_(path: Path) -> Iterator[int]:
        if failing and path.is_relative_to(team):
            raise OSError(code, os.strerror(code), str(path))
        with opened(path) as handle:
            yield handle

    def scan(path: Any) -> Any:
        if failing and Path(path).is_relative_to(team):
            raise OSError(code, os.strerror(code), str(path))
        return scandir(path)

    monkeypatch.setattr(shard, "opened", open_)
    if code != errno.EIO:  # a disk that fails here and there, and a share that is away
        monkeypatch.setattr(snapshot.os, "scandir", scan)
    features = None if when == "before" else hs.extract(model, data, CUT, backend=backend, **SETTINGS)
    seen = []

    def on_epoch(_: str, record: Any) -> None:
        nonlocal failing
        failing = True
        seen.append(record.step_losses)

    share = made if when == "streaming" else None
    expected = undisturbed(share, data, model, backend, tmp_path, **STREAMED)
    with warned_at_most_once_a_text():
        if when == "reading":
            failing = True
            assert features is not None and features.numpy().shape == (48, 84)
        run = hs.fit(model, data, backend=backend, **SETTINGS, **STREAMED, on_epoch=on_epoch)
    np.testing.assert_allclose(seen, [record.step_losses for record in expected.history], rtol=1e-4)
    assert "pool" in str(run.settings["features"]), run.settings["features"]


@pytest.mark.parametrize(
    ("fault", "memory"),
    [
        ("bits", STREAMED["memory"]),
        *(
            pytest.param(*more, marks=pytest.mark.slow("keras", "jax"))  # the store is the same for all
            for more in [("bits", None), ("gone", None), ("gone", STREAMED["memory"])]
        ),
    ],
)
def test_training_goes_on(
    fault: str,
    memory: int | None,
    team: Path,
    made: Path,
    data: Dataset,
    model: Model,
    backend: str,
    tmp_path: Path,
) -> None:
    """Streamed: what happens in the middle of an epoch; in memory: between two stages of reading."""
    settings = STREAMED | {"memory": memory}
    expected = undisturbed(made, data, model, backend, tmp_path, **settings)
    train, val = hs.extract(model, data, CUT, backend=backend, **SETTINGS), None
    losses = []

    def on_epoch(_: str, record: Any) -> None:
        losses.append(record.step_losses)
        if len(losses) == 1:
            AT_REST[fault](team)

    if memory is None:
        AT_REST[fault](team)
        on_epoch = lambda _, record: losses.append(record.step_losses)  # noqa: E731
    with warned_at_most_once_a_text():
        hs.fit(model, train, val, backend=backend, device="cpu", **settings, on_epoch=on_epoch)
    np.testing.assert_allclose(losses, [record.step_losses for record in expected.history], rtol=1e-4)


@pytest.mark.of("torch")
def test_sweeps_and_plans_go_on(team: Path, data: Dataset, model: Model, backend: str, tmp_path: Path) -> None:
    train, val = data.split(0.75)
    for what in ("sweep", "plan"):
        shutil.rmtree(team)
        shutil.rmtree(os.environ["HEADSTART_CACHE"], ignore_errors=True)
        hs.extract(model, data, [CUT, "pool2"], backend=backend, cache=team, **SETTINGS)
        rot(team)
        with pytest.warns(StoreWarning):
            if what == "sweep":
                found = hs.sweep(
                    model, train, val, grid={"lr": [0.01, 0.1]}, cut=CUT, epochs=1, backend=backend, **SETTINGS
                )
                assert len(found.table()) == 2
            else:
                plan = hs.plan(model, data, backend=backend, **SETTINGS)
                assert next(row for row in plan.rows if row.cut == "pool2").extraction_seconds > 0


@pytest.mark.of("torch")
@pytest.mark.parametrize("backend_name", ["[/x]", "\x1b[2J[bold]", "x" * 60_000, {"a": [1]}, None])
def test_whatever_a_provenance_says(
    backend_name: Any,
    team: Path,
    data: Dataset,
    extract: Callable[[], Any],
    model: Model,
    monkeypatch: Any,
    capsys: Any,
) -> None:
    provenance = {"backend": backend_name, "versions": ["[/]\x1b]0;", {"[/x]": "\n"}]}
    forge(team, lambda rows: rows, provenance)
    features = extract()
    assert features.stats.extracted == 0
    assert all(len(maker) <= 40 and maker.isprintable() and "[" not in maker for maker in features.stats.made_by)
    assert "48" in str(next(iter(explain(model, data, CUT, dtype="float32"))))
    key = features.key().digest
    for command in (["ls"], ["info", key], ["verify"]):
        monkeypatch.setattr("sys.argv", ["headstart", "cache", *command])
        cli.main()
    told = capsys.readouterr()
    assert "\x1b[2J" not in told.out + told.err


def test_without_the_images_it_is_an_error(team: Path, extract: Callable[[], Any]) -> None:
    """Nothing is retried for ever."""
    features = extract()
    folder = features.folder()
    folder._restorers.clear()
    shutil.rmtree(team)
    with pytest.raises(MissingFeaturesError, match="extract them first"):
        features.numpy()
