"""HEADSTART_CACHE_MAX: what is deleted to make room, what never is, and what is said where that is too little."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults.campaigns import ENVIRONMENT
from faults.damage import Stored, store

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import DiskSpaceError, SettingError
from headstart.common.sizes import binary_size, parse_nbytes
from headstart.store import FeatureStore, feature_folder

pytestmark = [pytest.mark.neutral, pytest.mark.usefixtures("own_garbage")]

HOUR = 3600.0
Limit = Callable[[int | str], None]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    return lambda text: monkeypatch.setenv("HEADSTART_CACHE_MAX", str(text))


def aged(stored: Stored, seconds: float) -> None:
    """As if it had been used so long ago, by another process."""
    at = time.time() - seconds
    for path in stored.folder.path.rglob("*"):
        os.utime(path, (at, at))
    feature_folder._used_here.pop(stored.folder.path, None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three trunks of equal size, last used one, two and three hours ago; nobody has them open."""
    for hours in (1, 2, 3):
        aged(store(tmp_path, "float32", (50,), [20], hours), hours * HOUR)
    gc.collect(1)
    return tmp_path


def by_age(root: Path) -> list[str]:
    """Keys, the most recently used first."""
    infos = sorted(FeatureStore(root).infos(), key=lambda info: -info.last_used)
    return [info.key for info in infos]


def total(root: Path) -> int:
    return sum(info.nbytes for info in FeatureStore(root).infos())


def test_without_a_limit_nothing_is_deleted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_CACHE_MAX", raising=False)
    assert FeatureStore(root).make_room(1 << 60) is None
    assert len(by_age(root)) == 3


def test_what_fits_deletes_nothing(root: Path, limit: Limit) -> None:
    limit(total(root) + 1000)
    assert FeatureStore(root).make_room(1000) is None
    assert len(by_age(root)) == 3


def test_the_least_recently_used_goes_first(root: Path, limit: Limit) -> None:
    keys, before = by_age(root), total(root)
    limit(before + 1000)
    plan = FeatureStore(root).make_room(1001)
    assert plan is not None and [info.key for info in plan] == [keys[2]]
    assert plan.nbytes == before - total(root) > 0
    assert by_age(root) == keys[:2]
    assert total(root) + 1001 <= before + 1000
    assert FeatureStore(root).make_room(before // 2) is not None
    assert by_age(root) == keys[:1]


def test_what_is_wanted_now_stays(root: Path, limit: Limit) -> None:
    keys = by_age(root)
    limit(total(root))
    assert FeatureStore(root).make_room(1, keep={keys[2]}) is not None
    assert by_age(root) == [keys[0], keys[2]]


def test_what_this_process_has_open_stays(root: Path, limit: Limit) -> None:
    keys = by_age(root)
    infos = {info.key: info for info in FeatureStore(root).infos()}
    stored = store(root, "float32", (50,), [1], 3)  # the oldest's key
    assert stored.folder.key.digest == keys[2]
    aged(stored, 9 * HOUR)
    whole = total(root)
    limit(whole)
    assert [info.key for info in FeatureStore(root).make_room(1) or ()] == [keys[1]]
    with pytest.raises(DiskSpaceError, match=rf"{keys[2][:12]}, tiny é at pool \(.*, in use by this process\)"):
        FeatureStore(root).make_room(whole)
    assert by_age(root) == [keys[0], keys[2]] and infos.keys() >= set(by_age(root))
    del stored
    gc.collect(1)
    assert [info.key for info in FeatureStore(root).make_room(whole) or ()] == [keys[2], keys[0]]


def test_what_another_process_uses_stays_for_ten_minutes(root: Path, limit: Limit) -> None:
    keys = by_age(root)
    use = (
        "import sys; from pathlib import Path; from headstart.common.files import touch; "
        "touch(Path(sys.argv[1]) / 'last_used')"
    )
    folder = FeatureStore(root).path / keys[2]
    subprocess.run([sys.executable, "-P", "-c", use, str(folder)], check=True, env=ENVIRONMENT)
    whole = total(root)
    limit(whole)
    assert [info.key for info in FeatureStore(root).make_room(1) or ()] == [keys[1]]
    with pytest.raises(DiskSpaceError, match="used by another process in the last 10 minutes"):
        FeatureStore(root).make_room(whole)
    assert len(by_age(root)) == 2
    at = time.time() - 601
    for path in folder.iterdir():
        os.utime(path, (at, at))
    assert FeatureStore(root).make_room(whole) is not None
    assert by_age(root) == []


def test_what_this_process_has_used_and_closed_may_go(tmp_path: Path, limit: Limit) -> None:
    first = store(tmp_path, "float32", (50,), [20], 1)
    first.folder.touch()
    first.folder.read(first.ids)
    limit(total(tmp_path))
    del first
    gc.collect(1)
    assert FeatureStore(tmp_path).make_room(1) is not None
    assert by_age(tmp_path) == []


def test_reading_goes_on_being_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that streams for hours keeps what it reads."""
    stored = store(tmp_path, "float32", (50,), [20], 1)
    stored.folder.read(stored.ids)
    aged(stored, HOUR)
    stored.folder.read(stored.ids)
    (info,) = FeatureStore(tmp_path).infos()
    assert time.time() - info.last_used > HOUR - 60  # not at every reading
    monkeypatch.setattr(feature_folder, "TOUCH_SECONDS", 0.0)
    stored.folder.read(stored.ids)
    (info,) = FeatureStore(tmp_path).infos()
    assert time.time() - info.last_used < 60


def test_too_little_deletes_nothing_and_says_all(root: Path, limit: Limit) -> None:
    keys, before = by_age(root), total(root)
    limit("20kB")
    with pytest.raises(DiskSpaceError) as caught:
        FeatureStore(root).make_room(30_000, keep=keys[:1])
    message = str(caught.value)
    assert f"need {binary_size(30_000)}; HEADSTART_CACHE_MAX allows {binary_size(20_000)} at {root}" in message
    assert f"what must stay there takes {binary_size(before / 3)}: {keys[0][:12]}, tiny é at pool" in message
    assert "wanted now" in message
    assert by_age(root) == keys


def test_leftovers_go_before_features(root: Path, limit: Limit) -> None:
    keys = by_age(root)
    left = FeatureStore(root).path / keys[0] / ".partial-x"
    left.write_bytes(bytes(5000))
    os.utime(left, (time.time() - 25 * HOUR,) * 2)
    limit(total(root))
    plan = FeatureStore(root).make_room(5000)
    assert plan is not None and plan.leftovers == (left,) and not plan.folders
    assert by_age(root) == keys


def test_shared_caches_neither_count_nor_go(root: Path, tmp_path: Path, limit: Limit) -> None:
    mine = tmp_path / "mine"
    cache = FeatureStore(mine, shared=[root])
    limit(100_000)
    assert cache.make_room(100_000) is None
    with pytest.raises(DiskSpaceError, match=r"what must stay there takes 0 B\. Raise"):
        cache.make_room(100_001)
    assert len(by_age(root)) == 3


@pytest.mark.parametrize("text", ["lots", "-5GB", "5 parsecs", "nan", "inf"])
def test_a_limit_that_is_no_size(tmp_path: Path, limit: Limit, text: str) -> None:
    limit(text)
    with pytest.raises(SettingError, match=f"HEADSTART_CACHE_MAX: '{text}' is no size"):
        FeatureStore(tmp_path).make_room(1)


@pytest.mark.each
def test_an_extraction_makes_room_for_itself(root: Path, limit: Limit, backend: str) -> None:
    keys = by_age(root)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    data = hs.data.arrays(images, np.arange(8) % 2)
    settings = {"cuts": "relu3", "backend": backend, "device": "cpu", "dtype": "float32", "cache": root}
    model = hs.model("lenet", classes=2)
    needed = 8 * 120 * 4
    limit(total(root) + needed - 1)
    features = hs.extract(model, data, **settings)  # type: ignore[arg-type]
    assert by_age(root) == [features.key().digest, *keys[:2]]
    limit(needed - 1)
    more = hs.data.arrays(255 - images, np.arange(8) % 2)
    with pytest.raises(DiskSpaceError, match=rf"need {binary_size(needed)}; HEADSTART_CACHE_MAX allows"):
        hs.extract(model, more, **settings)  # type: ignore[arg-type]
    assert by_age(root) == [features.key().digest, *keys[:2]]
    assert hs.extract(model, data, **settings).stats.extracted == 0  # type: ignore[arg-type]  # needs no room


def test_gc_on_the_command_line_takes_the_limit(
    root: Path, limit: Limit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(root))
    keys = by_age(root)
    np.testing.assert_equal(len(keys), 3)

    def gc_command(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["headstart", "cache", "gc", *options])
        code: int = 0
        try:
            cli.main()
        except SystemExit as left:
            code = int(left.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    monkeypatch.delenv("HEADSTART_CACHE_MAX", raising=False)
    assert gc_command()[0] == 2 and "HEADSTART_CACHE_MAX" in gc_command()[2]
    limit(total(root) - 1)
    assert gc_command("--yes", "--dry-run")[0] == 2
    for options in ([], ["--dry-run"]):
        code, out, _ = gc_command(*options)
        assert code == 0 and f"would delete {keys[2][:12]}" in out and "nothing was deleted" in out
    assert by_age(root) == keys
    assert gc_command("--yes", "--max-size", "1GB")[1].startswith(
        "0 B freed"
    )  # the option goes before the variable
    assert gc_command("--yes")[0] == 0
    assert by_age(root) == keys[:2]


@pytest.mark.parametrize(
    ("text", "nbytes"), [("50GB", 50 * 10**9), (" 1.5 GiB ", 3 << 29), ("512", 512), ("0", 0)]
)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_nbytes(text) == nbytes
