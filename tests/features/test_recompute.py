"""Rows computed again: what checksums cannot tell the trunk does; nobody can foretell which rows it looks at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_shared_failures import forge

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import SettingError
from headstart.contract.recipe import PRECISIONS
from headstart.data import Dataset
from headstart.data.draws import drawn
from headstart.features.distances import ARITHMETIC, STRICT_LIMITS, limit_of, wrong_rows
from headstart.models import Model

pytestmark = pytest.mark.neutral


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    root = Path(tmp_path_factory.mktemp("photos"))
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for i in range(9):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return hs.data.folder(folder)


@pytest.fixture(scope="module")
def model() -> Model:
    return hs.model("lenet", classes=["a", "b"])


def swapped(rows: np.ndarray) -> np.ndarray:
    rows[[2, 3]] = rows[[3, 2]]
    return rows


@pytest.mark.parametrize(
    "dtype",
    ["float16", *(pytest.param(dtype, marks=pytest.mark.of("torch")) for dtype in ("float32", "bfloat16"))],
)
def test_rows_exchanged_under_right_checksums(
    dtype: str, data: Dataset, model: Model, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "dtype": dtype}
    hs.extract(model, data, ["relu2", "relu4"], **settings)
    report = hs.verify(model, data, ["relu2", "relu4"], samples=18, batch_size=5, **settings)
    assert report and (report.compared, report.without_features) == (36, 0)
    assert hs.verify(model, data, ["relu2"], samples=5, **settings).compared == 5
    root = tmp_path / "team"
    shutil.move(tmp_path / "cache", root)
    forge(root, swapped)
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", str(root))
    report = hs.verify(model, data, ["relu2", "relu4"], samples=18, **settings)
    assert not report and len(report.differing) == 4
    assert {difference.shard.parent.parent.parent for difference in report.differing} == {root}
    assert {difference.sample for difference in report.differing} == {
        data.source_name(list(data.ids).index(id)) for id in sorted(data.ids)[2:4]
    }


def test_nothing_is_stored_and_nothing_to_compare_is_said(data: Dataset, model: Model, backend: str) -> None:
    report = hs.verify(model, data, backend=backend, device="cpu")
    assert (report.compared, report.without_features, bool(report)) == (0, 18, True)
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(SettingError, match="samples="):
            hs.verify(model, data, samples=wrong, backend=backend)  # type: ignore[arg-type]


@pytest.mark.of("torch")
def test_the_command(
    folder: Path, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[Any, str]:
        monkeypatch.setattr("sys.argv", ["headstart", *arguments])
        try:
            cli.main()
        except SystemExit as left:
            return left.code, "".join(capsys.readouterr())
        return 0, "".join(capsys.readouterr())

    same = ["--data", str(folder), "--model", "lenet", "--backend", backend, "--device", "cpu"]
    assert run("extract", *same)[0] == 0
    figures = tmp_path / "v.json"
    code, told = run("cache", "verify", "--recompute", "18", *same, "--json", str(figures))
    assert code == 0 and "18 stored rows computed again, 0 differ; 0 samples have no features" in told
    forge(tmp_path / "cache", swapped)
    code, told = run("cache", "verify", "--recompute", "18", *same, "--json", str(figures))
    assert code == 1 and told.count("differs: ") == 2 and str(folder) in told
    assert len(json.loads(figures.read_text())["differing"]) == 2
    assert run("cache", "verify")[0] == 0, "every checksum is right"
    for wrong in (
        ["--recompute", "3"],
        ["--recompute", "3", *same, "--repair"],
        same[:2],
        ["--recompute", "0", *same],
    ):
        assert run("cache", "verify", *wrong)[0] == 2


def test_an_extraction_draws_anew(
    data: Dataset, model: Model, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of shared rows, even where they say that this very backend made them."""
    looked_at: list[tuple[int, ...]] = []
    real: Callable[..., Any] = drawn

    def spy(count: int, samples: int) -> Any:
        looked_at.append(tuple(real(count, samples).tolist()))
        return np.array(looked_at[-1])

    hs.extract(model, data, backend=backend, device="cpu", cache=tmp_path / "team")
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", str(tmp_path / "team"))
    monkeypatch.setattr("headstart.features.drift.drawn", spy)
    for i in range(6):
        assert hs.extract(model, data, backend=backend, device="cpu", cache=tmp_path / str(i)).stats.reused == 18
    assert len(looked_at) == 6 and len(set(looked_at)) > 1, "one chance in 3,060 to the fifth that they agree"
    hs.extract(model, data, backend=backend, device="cpu", cache=tmp_path / "0")
    assert len(looked_at) == 6, "once compared is enough"


@pytest.mark.parametrize(
    ("precision", "measured"), [("float32", 1.2e-6), ("tf32", 8.2e-4), ("float16", 9.5e-4), ("bfloat16", 1.5e-2)]
)
def test_what_arithmetic_explains(precision: str, measured: float) -> None:
    """What a GPU gives is right, by its precision, for rows that differ little from each other as well; and ten
    times as much is not, of which bfloat16 allows the least."""
    rng = np.random.default_rng(1)
    fresh = 1 + 1e-2 * rng.normal(size=(8, 64))
    noise = rng.normal(size=fresh.shape)

    def off(relative: float) -> Any:
        length = np.linalg.norm(fresh, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
        return (fresh + relative * length * noise).astype(np.float32)

    limit = limit_of("float32", precision)
    assert not wrong_rows(fresh, off(measured), limit, "float32", precision).any()
    assert wrong_rows(fresh, off(1.2 * limit), limit, "float32", precision).all()
    assert limit <= 0.05 and (precision == "bfloat16" or limit <= 1e-2)
    assert STRICT_LIMITS.keys() == {"float32", "float16", "bfloat16", "uint8"} and ARITHMETIC.keys() == {
        *PRECISIONS
    }


def test_rows_nearly_alike_are_told_apart() -> None:
    """Some trunks give all images nearly the same features: an exchange is then far below any fixed limit."""
    rng = np.random.default_rng(0)
    fresh = 1 + 1e-2 * rng.normal(size=(8, 64)).astype(np.float32)
    stored = fresh.astype(np.float16)
    assert not wrong_rows(fresh, stored, 0.05, "float16", "float32").any()
    assert wrong_rows(fresh, stored[::-1], 0.05, "float16", "float32").all()
    twins = np.repeat(fresh[:1], 8, 0)
    assert not wrong_rows(twins, twins.astype(np.float16), 0.05, "float16", "float32").any()
    stored[3, 5] = np.nan
    assert wrong_rows(fresh, stored, 0.05, "float16", "float32").tolist() == [False] * 3 + [True] + [False] * 4
    assert len({tuple(drawn(1000, 4).tolist()) for _ in range(20)}) > 15 and drawn(3, 8).tolist() == [0, 1, 2]
