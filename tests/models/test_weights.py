"""Published weights from a hub on this machine, weights that users bring, and pickles of all kinds: what is used
is what was meant, whole, and nothing in it was run."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pickle
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from hostile import hostile_files
from hub_server import HubServer, keep_apart, local_hub
from huggingface_hub import constants, file_download
from PIL import Image
from safetensors.numpy import save

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import BackendError, DownloadError, SettingError, UnknownNameError, WeightsError
from headstart.data.preprocess import Preprocess
from headstart.models import ARCHITECTURES, hub, imported, pickles, pins
from headstart.models.architecture import Hub, Pickled
from headstart.models.importing import import_weights
from headstart.models.layouts import SAME, by_rules
from headstart.models.layouts import published as published_names
from headstart.models.listing import WeightsSummary, weights_summary
from headstart.models.pins import Pin
from headstart.models.weights import class_names, hub_files

pytestmark = pytest.mark.neutral

REPO, FILE = "lab/lenet.test", "model.safetensors"
PREPROCESS = Preprocess(32, 36, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def state_dict(seed: int = 0, classes: int = 10) -> dict[str, np.ndarray]:
    return dict(hs.model("lenet", classes=classes, seed=seed).params)


def published(seed: int = 0, classes: int = 10) -> bytes:
    return save(state_dict(seed, classes), {"format": "pt"})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def load(**arguments: Any) -> hs.models.Model:  # type: ignore[name-defined]
    return hs.model("lenet", weights="published", **arguments)


def lenet_with(monkeypatch: pytest.MonkeyPatch, **rows: Any) -> None:
    """Let lenet have these published weights."""
    monkeypatch.setitem(ARCHITECTURES, "lenet", replace(ARCHITECTURES["lenet"], weights=rows))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_apart(monkeypatch, tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one repository, whose file is lenet's published weights."""
    with local_hub(monkeypatch) as server:
        server.add(REPO, {FILE: published()})
        lenet_with(monkeypatch, published=Hub(REPO, PREPROCESS))
        yield server


def cache(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "models--lab--lenet.test"


def left(tmp_path: Path, folder: str) -> list[str]:
    return sorted(path.name for path in (cache(tmp_path) / folder).glob("*"))


# --- the hub: what is fetched, and when


def test_published_weights(server: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = load()
    assert same(model.params, state_dict())
    assert model.preprocess == PREPROCESS
    assert model.weights == "published"
    assert not model.fresh
    assert not model.named_classes, "ten outputs are not ImageNet's"
    assert server.sent() == len(published())
    assert capfd.readouterr() == ("", "")
    # in huggingface_hub's own layout, where others find it
    commit = server.repos[REPO].main
    path = cache(tmp_path) / "snapshots" / commit / FILE
    assert huggingface_hub.try_to_load_from_cache(REPO, FILE, revision=commit) == str(path)
    assert path.resolve().name == sha256(published())
    assert left(tmp_path, "blobs") == [sha256(published())]
    # and what the first use meant is written down
    table = json.loads((tmp_path / "data/weights/pins.json").read_text())
    assert table == {f"{REPO}/{FILE}": {"revision": commit, "sha256": sha256(published())}}


def test_a_second_use_asks_nobody(server: HubServer) -> None:
    load()
    asked = len(server.requests)
    load()
    assert len(server.requests) == asked


def test_what_huggingface_hub_has_downloaded_is_used(server: HubServer) -> None:
    huggingface_hub.hf_hub_download(REPO, FILE)
    sent = server.sent()
    assert same(load().params, state_dict())
    assert server.sent() == sent


def test_huggingface_hub_uses_what_was_downloaded_here(server: HubServer) -> None:
    load()
    sent = server.sent()
    assert sha256(Path(huggingface_hub.hf_hub_download(REPO, FILE)).read_bytes()) == sha256(published())
    assert server.sent() == sent


def test_a_token_goes_to_the_hub_and_no_further(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    load()
    assert {r.path.startswith("/bytes/"): r.authorized for r in server.requests} == {False: True, True: False}


def test_main_may_move(server: HubServer, tmp_path: Path) -> None:
    load()
    server.add(REPO, {FILE: published(seed=1)})
    assert same(load().params, state_dict())
    for path in sorted(cache(tmp_path).rglob("*"), reverse=True):  # nor for who has lost the file
        path.unlink() if not path.is_dir() or path.is_symlink() else path.rmdir()
    assert same(load().params, state_dict())
    row = ARCHITECTURES["lenet"].weights["published"]
    assert isinstance(row, Hub)
    before, after = hub.update(row)
    assert (before.sha256, after.sha256) == (sha256(published()), sha256(published(seed=1)))
    assert same(load().params, state_dict(seed=1))


def test_one_repository_pins_no_other(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.add("lab/other", {"sub/w.safetensors": published(seed=2)})
    other = Hub("lab/other", PREPROCESS, file="sub/w.safetensors")
    lenet_with(monkeypatch, published=Hub(REPO, PREPROCESS), other=other)
    load()
    assert same(hs.model("lenet", weights="other").params, state_dict(seed=2))
    table = json.loads((tmp_path / "data/weights/pins.json").read_text())
    assert sorted(table) == [f"{REPO}/{FILE}", "lab/other/sub/w.safetensors"]


# --- the hub: what breaks


def test_a_broken_connection_is_resumed(server: HubServer, tmp_path: Path) -> None:
    server.breaks_off = [50_000, 70_000]
    assert same(load().params, state_dict())
    assert [request.range for request in server.gets()] == [None, "bytes=50000-", "bytes=120000-"]
    assert server.sent() == len(published()), "no byte came twice"
    assert left(tmp_path, "blobs") == [sha256(published())]


def test_what_came_is_kept_for_the_next_attempt(server: HubServer, tmp_path: Path) -> None:
    server.breaks_off = [60_000, *[0] * hub.ATTEMPTS]
    with pytest.raises(DownloadError, match=r"lab/lenet\.test.*what came is kept, try again"):
        load()
    (partial,) = left(tmp_path, "blobs")
    assert partial == f"{sha256(published())}.headstart.incomplete"
    assert (cache(tmp_path) / "blobs" / partial).stat().st_size == 60_000
    assert not left(tmp_path, "snapshots")
    assert not (tmp_path / "data/weights/pins.json").exists()
    server.breaks_off = []
    assert same(load().params, state_dict())
    assert server.gets()[-1].range == "bytes=60000-"
    assert server.sent() == len(published())
    assert left(tmp_path, "blobs") == [sha256(published())]


def test_a_server_that_knows_no_ranges(server: HubServer) -> None:
    server.breaks_off, server.knows_ranges = [50_000], False
    assert same(load().params, state_dict())
    assert server.sent() == 50_000 + len(published())


def test_a_server_that_knows_no_ranges_and_never_comes_to_the_end(server: HubServer) -> None:
    server.breaks_off, server.knows_ranges = [50_000] * 99, False
    with pytest.raises(DownloadError, match="what came is kept"):
        load()
    assert len(server.gets()) == hub.ATTEMPTS


def test_a_partial_file_that_is_too_long_or_of_something_else(server: HubServer, tmp_path: Path) -> None:
    partial = cache(tmp_path) / "blobs" / f"{sha256(published())}.headstart.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(len(published()) + 1))
    assert same(load().params, state_dict())
    server.repos.clear()
    server.add(REPO, {FILE: published(seed=3)})
    partial = partial.with_name(f"{sha256(published(seed=3))}.headstart.incomplete")
    partial.write_bytes(bytes(1000))
    (tmp_path / "data/weights/pins.json").unlink()
    with pytest.raises(DownloadError, match="they were removed"):
        load()
    assert same(load().params, state_dict(seed=3))


@pytest.mark.parametrize("kind", ["changed", "short", "long"])
def test_other_bytes_than_announced_are_never_used(server: HubServer, tmp_path: Path, kind: str) -> None:
    content = published()
    other = {"changed": content[:-1] + b"!", "short": content[:-9], "long": content + b"!"}[kind]
    server.other_bytes[sha256(content)] = other
    text = {
        "changed": f"sha256 {sha256(other)}, expected {sha256(content)}; they were removed",
        "short": f"ends before the {len(content)} bytes announced; what came was removed",
        "long": f"gave more than the {len(content)} bytes announced",
    }[kind]
    with pytest.raises(DownloadError, match=text):
        load()
    assert not [name for name in left(tmp_path, "blobs") if not name.endswith(".incomplete")]
    assert not left(tmp_path, "snapshots")
    assert not (tmp_path / "data/weights/pins.json").exists()
    server.other_bytes.clear()
    assert same(load().params, state_dict())


def test_a_missing_repository(server: HubServer) -> None:
    server.repos.clear()
    with pytest.raises(DownloadError, match=r"has no repository lab/lenet\.test.*HF_TOKEN.*by hand"):
        load()


def test_a_missing_file(server: HubServer) -> None:
    server.repos[REPO].commits[server.repos[REPO].main] = {"README.md": b""}
    with pytest.raises(DownloadError, match=r"lab/lenet\.test has no file model\.safetensors at main"):
        load()


def test_a_missing_commit(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    lenet_with(monkeypatch, published=Hub(REPO, PREPROCESS, revision="a" * 40, sha256="b" * 64))
    with pytest.raises(DownloadError, match=f"no commit {'a' * 40}"):
        load()


def test_a_gated_repository(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos[REPO].gated = True
    with pytest.raises(DownloadError, match=r"Accept their terms at http.*/lab/lenet\.test.*HF_TOKEN"):
        load()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert same(load().params, state_dict())


@pytest.mark.parametrize("fails", [[503], [500, 502], [429]])
def test_a_hub_that_is_busy_for_a_while(server: HubServer, fails: list[int]) -> None:
    server.fails = fails
    assert same(load().params, state_dict())


def test_a_store_that_is_busy_for_a_while(server: HubServer) -> None:
    row = ARCHITECTURES["lenet"].weights["published"]
    assert isinstance(row, Hub)
    found = hub.resolve(row)
    server.fails = [503, 503]
    hub._obtain(row, found, len(published()))
    assert server.sent() == len(published())


def test_a_hub_that_stays_broken(server: HubServer) -> None:
    server.fails = [503] * 99
    with pytest.raises(DownloadError, match=r"the hub answered 503.*try again"):
        load()


def test_a_hub_that_refuses(server: HubServer) -> None:
    server.fails = [403]
    with pytest.raises(DownloadError, match=r"the hub answered 403 .*HF_TOKEN"):
        load()
    assert len(server.requests) == 1, "asking again would not help"


def test_an_answer_that_is_no_hubs(server: HubServer) -> None:
    server.fails = [200]
    with pytest.raises(DownloadError, match="does HF_ENDPOINT point to a hub"):
        load()


# --- the hub: without a network


def unplug(server: HubServer, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        server.__exit__()


@pytest.mark.parametrize("how", ["no-network", "offline"])
def test_a_copy_is_used_without_a_network(server: HubServer, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    load()
    unplug(server, how, monkeypatch)
    assert same(load().params, state_dict())


@pytest.mark.parametrize("how", ["no-network", "offline"])
def test_a_copy_of_others_is_used_without_a_network(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """And pins what it is, so that it stays the one that is used."""
    huggingface_hub.hf_hub_download(REPO, FILE)
    with monkeypatch.context() as without:
        without.setattr(constants, "HF_HUB_OFFLINE", True)
        assert same(load().params, state_dict())
    commit = server.repos[REPO].main
    server.add(REPO, {FILE: published(seed=1)})
    assert same(load().params, state_dict())
    table = json.loads((tmp_path / "data/weights/pins.json").read_text())
    assert table == {f"{REPO}/{FILE}": {"revision": commit, "sha256": sha256(published())}}
    unplug(server, how, monkeypatch)
    assert same(load().params, state_dict())


@pytest.mark.parametrize(("how", "text"), [("no-network", "cannot be reached"), ("offline", "HF_HUB_OFFLINE")])
def test_no_network_and_no_copy(server: HubServer, monkeypatch: pytest.MonkeyPatch, how: str, text: str) -> None:
    unplug(server, how, monkeypatch)
    with pytest.raises(DownloadError, match=text) as caught:
        load()
    assert REPO in str(caught.value)


def test_a_damaged_copy_is_replaced(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    blob = cache(tmp_path) / "blobs" / sha256(published())
    for damaged in (published()[:-5], published()[:-5] + bytes(5), b""):
        blob.write_bytes(damaged)
        assert same(load().params, state_dict())
        assert blob.read_bytes() == published()
    blob.write_bytes(b"damaged")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"was damaged \(sha256 .*\) and is removed; .*HF_HUB_OFFLINE"):
        load()
    assert not blob.exists()


def test_a_damaged_copy_of_others_is_not_used(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(huggingface_hub.hf_hub_download(REPO, FILE)).resolve().write_bytes(b"damaged")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        load()
    assert not (tmp_path / "data/weights/pins.json").exists()


def test_a_copy_that_is_something_else_is_left_alone(server: HubServer, tmp_path: Path) -> None:
    """A sound file under the pinned commit, but another one: it is not ours to remove."""
    load()
    path = cache(tmp_path) / "snapshots" / server.repos[REPO].main / FILE
    other = cache(tmp_path) / "blobs" / sha256(b"other")
    other.write_bytes(b"other")
    path.unlink()
    path.symlink_to(other)
    with pytest.raises(DownloadError, match=r"is pinned to .*; it is not used\. Remove it"):
        load()
    assert other.exists()


def test_a_snapshot_that_lies_is_not_used(server: HubServer, tmp_path: Path) -> None:
    path = cache(tmp_path) / "snapshots" / server.repos[REPO].main / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(published(seed=1))
    with pytest.raises(DownloadError, match=rf"{path} has sha256 {sha256(published(seed=1))}"):
        load()
    assert path.read_bytes() == published(seed=1)


def test_what_hub_files_link_to_is_neither_removed_nor_written(server: HubServer, tmp_path: Path) -> None:
    """A damaged copy that stands elsewhere, a link in a partial's place, and a folder that is a link."""
    load()
    snapshot = cache(tmp_path) / "snapshots" / server.repos[REPO].main / FILE
    blob = cache(tmp_path) / "blobs" / sha256(published())
    elsewhere = tmp_path / "elsewhere" / blob.name
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"damaged")
    for link in (snapshot, blob):
        blob.unlink(missing_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(elsewhere)
        partial = blob.with_name(f"{blob.name}.headstart.incomplete")
        partial.symlink_to(elsewhere)
        assert same(load().params, state_dict())
        assert blob.is_file() and not blob.is_symlink() and elsewhere.read_bytes() == b"damaged"
    behind = tmp_path / "behind"
    blob.parent.rename(behind)
    blob.parent.symlink_to(behind)
    blob.write_bytes(b"damaged")
    before = sorted(behind.iterdir())
    with pytest.raises(DownloadError, match="blobs is a link, and nothing behind links is deleted"):
        load()
    assert sorted(behind.iterdir()) == before and blob.read_bytes() == b"damaged"


# --- pins


def test_a_pin_of_the_row_decides(server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = server.repos[REPO].main
    server.add(REPO, {FILE: published(seed=1)})
    lenet_with(monkeypatch, published=Hub(REPO, PREPROCESS, revision=old, sha256=sha256(published())))
    assert same(load().params, state_dict())
    assert not (tmp_path / "data/weights/pins.json").exists()
    row = ARCHITECTURES["lenet"].weights["published"]
    assert isinstance(row, Hub)
    with pytest.raises(SettingError, match="pinned by this release"):
        hub.update(row)


@pytest.mark.parametrize("revision", [True, False], ids=["commit", "any-commit"])
def test_a_hub_with_another_file_than_pinned_is_not_asked_for_it(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, revision: bool
) -> None:
    commit = server.repos[REPO].main if revision else None
    lenet_with(monkeypatch, published=Hub(REPO, PREPROCESS, revision=commit, sha256="0" * 64))
    with pytest.raises(DownloadError, match=f"but pinned is sha256 {'0' * 64}.*not downloaded"):
        load()
    assert not server.gets()


def test_a_pinned_content_is_known_under_any_commit(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    huggingface_hub.hf_hub_download(REPO, FILE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    lenet_with(monkeypatch, published=Hub(REPO, PREPROCESS, revision="a" * 40, sha256=sha256(published())))
    assert same(load().params, state_dict())


def test_the_table_in_the_package_goes_before_what_was_seen(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load()
    commit = server.add(REPO, {FILE: published(seed=1)})
    monkeypatch.setattr(pins, "shipped_pins", lambda: tmp_path / "pins.json")
    pins.write_pins(tmp_path / "pins.json", {f"{REPO}/{FILE}": Pin(commit, sha256(published(seed=1)))})
    assert same(load().params, state_dict(seed=1))


@pytest.mark.parametrize(
    "content", ["", "[]", '{"x": 3}', '{"x": {"revision": "main"}}', '{"x": {"digest": "0"}}']
)
def test_a_table_that_cannot_be_read(server: HubServer, tmp_path: Path, content: str) -> None:
    (tmp_path / "data/weights").mkdir(parents=True)
    (tmp_path / "data/weights/pins.json").write_text(content)
    with pytest.raises(WeightsError, match=r"pins\.json: not a table of pinned weights"):
        load()


def test_pins_fill_each_other_but_never_contradict() -> None:
    one, two = Pin("a" * 40, None), Pin(None, "b" * 64)
    assert one.filled(two) == Pin("a" * 40, "b" * 64)
    assert one.filled(Pin("c" * 40, "b" * 64)) == one
    assert Pin().filled(one) == one
    for wrong in ({"revision": "main"}, {"sha256": "a" * 40}, {"revision": "g" * 40}):
        with pytest.raises(SettingError, match="hex digits"):
            Pin(**wrong)


def test_the_shipped_pins_are_of_files_that_exist() -> None:
    shipped = pins.read_pins(pins.shipped_pins())
    assert shipped.keys() <= hub_files().keys(), "a pin that no architecture asks for"
    assert all(pin.sha256 for pin in shipped.values())


# --- the hub: places


def test_a_disk_without_room(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(DownloadError, match=r"are to come, and 1000 B are free in .*HF_HOME"):
        load()
    assert not server.gets()


def test_a_disk_that_fills_up(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def full(*_: Any) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            if count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        yield advance

    with monkeypatch.context() as filling:
        filling.setattr(hub, "track", full)
        with pytest.raises(DownloadError, match=r"the disk of .* is full; what came is kept"):
            load()
    assert same(load().params, state_dict())
    assert server.gets()[-1].range is not None


def test_a_cache_without_links_holds_one_copy(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the setting that says so (HF_HUB_DISABLE_SYMLINKS) is younger than huggingface_hub 1.0
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda *_: False)
    for _ in range(2):
        assert same(load().params, state_dict())
    path = cache(tmp_path) / "snapshots" / server.repos[REPO].main / FILE
    assert not path.is_symlink()
    assert left(tmp_path, "blobs") == []
    path.write_bytes(b"damaged")
    assert same(load().params, state_dict())
    assert len(server.gets()) == 2


def test_a_place_for_pins_that_cannot_be_written(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HEADSTART_DATA", str(tmp_path / "file"))
    with pytest.raises((DownloadError, WeightsError), match=r"file.*"):
        load()


def test_a_cache_that_cannot_be_written(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"lab/lenet\.test.*file"):
        load()


# --- the hub: real processes

CLIENT = """
import sys
from dataclasses import replace
import headstart as hs
from headstart.data.preprocess import Preprocess
from headstart.models import ARCHITECTURES
from headstart.models.architecture import Hub
row = Hub("lab/lenet.test", Preprocess(32, 32))
ARCHITECTURES["lenet"] = replace(ARCHITECTURES["lenet"], weights={"published": row})
print(float(hs.model("lenet", weights="published").params["conv1.weight"].sum()))
print(sorted({"torch", "keras", "tensorflow", "jax"} & {*sys.modules}))
"""


def client(server: HubServer, tmp_path: Path) -> subprocess.Popen[str]:
    """A process that uses the published weights."""
    environment = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}
    return subprocess.Popen([sys.executable, "-c", CLIENT], env=environment, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out


def expected() -> str:
    return f"{float(state_dict()['conv1.weight'].sum())}\n[]\n"


def test_a_killed_client_begins_where_it_ended(server: HubServer, tmp_path: Path) -> None:
    import threading

    server.pause = threading.Event()
    killed = client(server, tmp_path)
    assert server.paused.wait(30)
    blobs = tmp_path / "home/hub/models--lab--lenet.test/blobs"
    while not sum(path.stat().st_size for path in blobs.glob("*")) > 50_000:
        time.sleep(0.01)
    killed.kill()
    killed.communicate(timeout=30)
    server.pause.set()
    server.pause = None
    assert [path.suffix for path in blobs.iterdir()] == [".incomplete"]
    have = next(blobs.iterdir()).stat().st_size
    assert finished(client(server, tmp_path)) == expected()
    assert server.gets()[-1].range == f"bytes={have}-"
    assert server.gets()[-1].sent == len(published()) - have


@pytest.mark.slow("keras", "jax")  # core downloads
@pytest.mark.each  # which the clients do not import
def test_two_clients_at_once_download_once(server: HubServer, tmp_path: Path) -> None:
    clients = [client(server, tmp_path) for _ in range(2)]
    assert [finished(process) for process in clients] == [expected()] * 2
    assert server.sent() == len(published())


@pytest.mark.each  # where it is installed
def test_nothing_of_the_hub_is_imported_before_it_is_asked(tmp_path: Path) -> None:
    code = "import sys, headstart as hs; hs.model('lenet'); hs.model('resnet18_half', weights='tinyimagenet')"
    code += (
        "; print([n for n in sys.modules if n.startswith(('huggingface_hub', 'httpx', 'torch', 'jax', 'keras'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


# --- classes


def test_a_file_without_a_classifier_asks_for_classes(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    lenet_with(monkeypatch, published=Hub(REPO, PREPROCESS, classes=None))
    with pytest.raises(SettingError, match=r"lab/lenet\.test.* has no classifier; pass classes="):
        load()
    model = load(classes=["a", "b"])
    assert model.fresh == {"fc3.weight", "fc3.bias"}
    assert np.array_equal(model.params["fc2.weight"], state_dict()["fc2.weight"])


def test_imagenets_thousand_have_names(server: HubServer) -> None:
    server.add(REPO, {FILE: published(classes=1000)})
    model = load()
    assert model.named_classes
    assert model.classes == class_names("imagenet")
    assert len(model.classes) == 1000
    assert not load(classes=1000).named_classes


def test_weights_of_another_architecture(server: HubServer) -> None:
    server.add(REPO, {FILE: save(dict(hs.model("resnet18_half", classes=3).params))})
    with pytest.raises(WeightsError, match=r"^lab/lenet\.test/model\.safetensors does not fit the model; missing"):
        load(classes=3)


# --- the command line


class Console:
    """`headstart` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: object, code: int = 0) -> str:
        """Standard output, or where `code` is not 0 standard error."""
        self.monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        self.capsys.readouterr()
        left_with: Any = 0
        try:
            cli.main()
        except SystemExit as leave:
            left_with = leave.code or 0
        out, err = self.capsys.readouterr()
        assert left_with == code, err
        return err if code else out


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    return Console(capsys, monkeypatch)


def listed(console: Console, tmp_path: Path) -> list[dict[str, Any]]:
    console("weights", "ls", "lenet", "--json", tmp_path / "ls.json")
    rows: list[dict[str, Any]] = json.loads((tmp_path / "ls.json").read_text())
    return rows


def test_commands_for_published_weights(server: HubServer, console: Console, tmp_path: Path) -> None:
    row = {"model": "lenet", "weights": "published", "from": REPO, "here": False, "pinned": None}
    assert listed(console, tmp_path) == [row]
    path = Path(console("weights", "fetch", "lenet").strip())
    assert sha256(path.read_bytes()) == sha256(published())
    assert listed(console, tmp_path) == [row | {"here": True, "pinned": "first use"}]
    assert f"{REPO} is up to date" in console("weights", "update", "lenet")
    commit = server.add(REPO, {FILE: published(seed=1)})
    assert f"-> {commit} (sha256 {sha256(published(seed=1))}" in console("weights", "update", "lenet")
    assert "unknown published weights 'x' for lenet" in console(
        "weights", "fetch", "lenet", "--weights", "x", code=2
    )
    assert "shipped" not in console("weights", "update", "resnet18_half", code=2)
    out = console("weights", "ls")
    assert "tinyimagenet" in out
    assert REPO in out


def test_the_maintainers_table(
    server: HubServer, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`weights pin` asks for commit and sha256 of every row, and compares names and shapes from the headers."""
    rows = dict(hub_files())
    monkeypatch.setattr("headstart.models.weights.hub_files", lambda: {k: rows[k] for k in rows if REPO in k})
    table = tmp_path / "pins.json"
    out = console("weights", "pin", "--out", table)
    assert "1 files are pinned" in out
    assert "1 are new" in out
    commit = server.repos[REPO].main
    assert pins.read_pins(table) == {f"{REPO}/{FILE}": Pin(commit, sha256(published()))}
    assert server.sent() < len(published()), "only the header"
    # a moved main moves no pin, unless it is asked to
    moved = server.add(REPO, {FILE: save(dict(hs.model("lenet", classes=5).params) | {"x": np.zeros(3)})})
    assert "0 are new" in console("weights", "pin", "--out", table)
    assert pins.read_pins(table)[f"{REPO}/{FILE}"].revision == commit
    err = console("weights", "pin", "--out", table, "--moved", code=1)
    assert "left over: x" in err
    assert pins.read_pins(table)[f"{REPO}/{FILE}"].revision == moved
    console("weights", "pin", "--out", table, "--no-check")
    # and what cannot be asked keeps its pin
    server.repos.clear()
    assert "no repository" in console("weights", "pin", "--out", table, code=1)
    assert pins.read_pins(table)[f"{REPO}/{FILE}"].revision == moved


@pytest.mark.slow("keras", "jax")  # core reads the weights
@pytest.mark.each
def test_predict_with_a_model_as_it_is(
    server: HubServer, console: Console, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    server.add(REPO, {FILE: published(classes=1000)})
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    model = load()
    ready = model.preprocess.normalise(np.stack([model.preprocess.apply(Image.fromarray(p)) for p in pixels]))
    logits = hs.forward(model, ready, device="cpu")["logits"]
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for images in (files, list(pixels), pixels, ready):
        np.testing.assert_allclose(hs.predict(model, images, device="cpu"), logits, rtol=1e-3, atol=1e-4)
    assert hs.predict(model, []).shape == (0, 1000)

    arguments = ["predict", "--model", "lenet", "--weights", "published", "--device", "cpu", "--top", 2]
    out = console(*arguments, "--json", tmp_path / "p.json", *files)
    named = json.loads((tmp_path / "p.json").read_text())
    best = logits.argsort(1)[:, ::-1][:, :2]
    assert [[name for name, _ in row["classes"]] for row in named] == [[model.classes[k] for k in b] for b in best]
    assert sum(share for _, share in named[0]["classes"]) < 1
    assert model.classes[best[0, 0]].split()[0] in out
    # the first published weights are the default; a size that does not fit is said
    assert json.loads((tmp_path / "p.json").read_text()) == named
    assert "images of one size" in console("predict", "--model", "lenet", "--size", 64, files[0], code=2)
    assert "--decode go with --model" in console("predict", "--run", "x", "--size", 64, files[0], code=2)


# --- weights of one's own: safetensors


def kept(file: Path, **settings: Any) -> Path:
    return import_weights(file, "lenet", **settings)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(published(seed=4))
    return path


def test_import(mine: Path, tmp_path: Path) -> None:
    path = kept(mine)
    assert path == tmp_path / "data/weights/imported/lenet/mine.safetensors"
    about = pickles.provenance(path)
    assert (about["source"], about["source_sha256"]) == (str(mine), sha256(published(seed=4)))
    model = hs.model("lenet", weights="mine")
    assert same(model.params, state_dict(seed=4))
    assert (model.weights, model.named_classes) == ("mine", False)
    assert model.preprocess == ARCHITECTURES["lenet"].preprocess
    mine.unlink()
    assert hs.model("lenet", weights="mine", classes=3).fresh == {"fc3.weight", "fc3.bias"}
    assert weights_summary(ARCHITECTURES["lenet"], "mine") == WeightsSummary(
        "lenet", "mine", source=str(mine), here=True, pinned="import"
    )
    with pytest.raises(UnknownNameError, match=r"unknown weights 'mein' for lenet; expected one of mine, none"):
        hs.model("lenet", weights="mein")
    with pytest.raises(UnknownNameError):
        hs.model("resnet18", weights="mine")


@pytest.mark.parametrize("prefix", ["module.", "module.model.", "_orig_mod.", "state_dict."])
def test_prefixes_are_taken_off(tmp_path: Path, prefix: str) -> None:
    file = tmp_path / "wrapped.safetensors"
    file.write_bytes(save({f"{prefix}{name}": value for name, value in state_dict(5).items()}))
    kept(file, name="wrapped")
    assert same(hs.model("lenet", weights="wrapped").params, state_dict(5))
    assert same(hs.model("lenet", weights=file).params, state_dict(5))


def test_any_of_an_architectures_layouts_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timm = by_rules("timm", (r"conv1\.(.*)", r"stem.\1"), (r"fc3\.(.*)", r"head.\1", lambda s: (*s, 1, 1)))
    monkeypatch.setitem(
        ARCHITECTURES,  # type: ignore[arg-type]
        "lenet",
        replace(ARCHITECTURES["lenet"], layouts=(SAME, timm)),
    )
    theirs = {n.replace("conv1.", "stem.").replace("fc3.", "head."): v for n, v in state_dict(6).items()}
    file = tmp_path / "timm.safetensors"
    file.write_bytes(save(theirs | {"head.weight": theirs["head.weight"][:, :, None, None]}
                          | {"head.bias": theirs["head.bias"][:, None, None]}))  # fmt: skip
    path = kept(file)
    assert same(hs.model("lenet", weights="timm").params, state_dict(6))
    from safetensors.numpy import load_file

    assert load_file(path).keys() == state_dict().keys(), "kept with the architecture's own names"


def test_preprocessing_and_classes_of_ones_own(mine: Path) -> None:
    names = [f"c{i}" for i in range(10)]
    settings = {"size": 32, "resize": 48, "interpolation": "bicubic", "mean": [0, 0, 0], "std": [1, 1, 1]}
    kept(mine, name="a", classes=names, preprocess=settings)
    model = hs.model("lenet", weights="a")
    assert model.classes == tuple(names)
    assert model.named_classes
    assert model.preprocess == Preprocess(32, 48, "bicubic", (0, 0, 0), (1, 1, 1))
    # what a kept file says is the default of what comes from it
    again = kept(Path(str(imported.find("lenet", "a"))), name="b", preprocess={"mean": [0.5, 0, 0]})
    assert hs.model("lenet", weights="b").classes == tuple(names)
    assert hs.model("lenet", weights="b").preprocess.mean == (0.5, 0, 0)
    assert again.name == "b.safetensors"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"classes": ["a", "b"]}, r"2 classes are named, and the classifier in .* has 10 outputs"),
        ({"classes": ["a"] * 10}, "'a' twice"),
        ({"preprocess": {"size": 64}}, "one size"),
        ({"preprocess": {"std": [0, 0, 0]}}, "std"),
        ({"preprocess": {"interpolation": "cubic"}}, "interpolation 'cubic'"),
        ({"name": "../up"}, "name '../up'"),
        ({"name": ".hidden"}, "name '.hidden'"),
        ({"name": ""}, "name ''"),
        ({"name": "none"}, "'none' is taken"),
    ],
)
def test_settings_that_cannot_be(mine: Path, tmp_path: Path, settings: dict[str, Any], text: str) -> None:
    with pytest.raises((SettingError, ValueError), match=text):
        kept(mine, **settings)
    assert not list((tmp_path / "data").rglob("*.safetensors"))


def test_a_name_is_taken_once(mine: Path, server: HubServer, tmp_path: Path) -> None:
    kept(mine)
    with pytest.raises(SettingError, match=r"called 'mine' already.*--replace"):
        kept(mine)
    mine.write_bytes(published(seed=7))
    kept(mine, replace=True)
    assert same(hs.model("lenet", weights="mine").params, state_dict(seed=7))
    with pytest.raises(SettingError, match="'published' is taken by lenet's published weights"):
        kept(mine, name="published")


def test_a_trunk_without_a_classifier(tmp_path: Path) -> None:
    trunk = {name: value for name, value in state_dict(8).items() if not name.startswith("fc3.")}
    file = tmp_path / "trunk.safetensors"
    file.write_bytes(save(trunk))
    kept(file)
    with pytest.raises(SettingError, match="has no classifier; pass classes="):
        hs.model("lenet", weights="trunk")
    assert np.array_equal(hs.model("lenet", weights="trunk", classes=2).params["fc2.bias"], trunk["fc2.bias"])
    with pytest.raises(SettingError, match="has no outputs"):
        kept(file, name="x", classes=["a"])


def test_positions_are_kept_at_the_size_they_were_trained_with(tmp_path: Path) -> None:
    large = hs.model("vit_tiny_patch16_224", classes=3, size=256, seed=1)
    file = tmp_path / "large.safetensors"
    file.write_bytes(save(published_names(large.graph, large.params, ARCHITECTURES[large.name].layouts[0])))
    with pytest.raises(WeightsError, match=r"has 257 positions, and vit_tiny_patch16_224 has 197 .*--size"):
        import_weights(file, large.name)
    import_weights(file, large.name, preprocess={"size": 256})
    model = hs.model(large.name, weights="large")
    assert model.preprocess.size == 256
    assert same(model.params, large.params)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "resnet.safetensors"
    file.write_bytes(save(dict(hs.model("resnet18_half", classes=3).params)))
    with pytest.raises(WeightsError, match=r"resnet\.safetensors does not fit the model; missing: .*left over"):
        kept(file)
    assert not list((tmp_path / "data").rglob("*.safetensors"))


@pytest.mark.parametrize("suffix", ["safetensors", "safetensors.part", "incomplete"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999, 1.0])
def test_half_a_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    """The whole of it, too, as long as its name says that it is not."""
    file = tmp_path / f"half.{suffix}"
    file.write_bytes(published()[: int(share * len(published()))])
    if share == 1.0 and suffix == "safetensors":
        assert same(hs.model("lenet", weights=file).params, state_dict())
        return
    for use in (lambda: kept(file, name="half"), lambda: hs.model("lenet", weights=file)):
        with pytest.raises(WeightsError, match="is it complete"):
            use()
    assert imported.names("lenet") == []


def test_the_index_of_several_files_is_told(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"fc.weight": "model-00001-of-00002.safetensors"}}))
    for use in (lambda: kept(index, name="parts"), lambda: hs.model("lenet", weights=index)):
        with pytest.raises(WeightsError, match=r"the index of weights .* write those into one \.safetensors file"):
            use()


def test_commands_for_ones_own(console: Console, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(f"class {i}" for i in range(10)) + "\n")
    (tmp_path / "names.json").write_text(json.dumps([f"c{i}" for i in range(10)]))
    options = ["--model", "lenet", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "--interpolation", "bicubic"]
    out = console("weights", "import", mine, *options, "--classes", tmp_path / "names.txt")
    assert "use it with --model lenet --weights mine" in out
    model = hs.model("lenet", weights="mine")
    assert model.classes[3] == "class 3"
    assert model.preprocess == Preprocess(32, 32, "bicubic", (0.5,) * 3, (0.2,) * 3)
    console("weights", "import", mine, "--model", "lenet", "--name", "b", "--classes", tmp_path / "names.json")
    console("weights", "import", mine, "--model", "lenet", "--name", "c", "--classes", "a,b,c,d,e,f,g,h,i,j")
    assert [hs.model("lenet", weights=name).classes[1] for name in "bc"] == ["c1", "b"]
    usual = hs.model("lenet", weights="c").preprocess
    console("weights", "import", mine, "--model", "lenet", "--name", "d", "--squash", "--resize", "40")
    assert hs.model("lenet", weights="d").preprocess == replace(usual, resize=40, squash=True)
    console("weights", "rm", "d", "--model", "lenet", "--yes")
    assert [row["weights"] for row in listed(console, tmp_path)] == ["b", "c", "mine"]
    for arguments, text in (
        (["import", mine, "--model", "lenet"], "called 'mine' already"),
        (["import", mine, "--model", "lenet", "--name", "x", "--mean", "a"], "--mean 'a'"),
        (["import", mine, "--model", "resnet9"], "unknown model 'resnet9'"),
        (["import", tmp_path / "nowhere.pth", "--model", "lenet"], "no such weight file"),
        (["rm", "mien", "--model", "lenet"], "did you mean 'mine'"),
        (["rm", "../lenet/mine", "--model", "lenet"], "unknown imported weights"),
    ):
        err = console("weights", *arguments, code=2)
        assert err.startswith("error: ")
        assert text in err
        assert len(err.splitlines()) == 1
    assert "nothing was removed, add --yes" in console("weights", "rm", "mine", "--model", "lenet")
    assert imported.names("lenet") == ["b", "c", "mine"]
    console("weights", "rm", "mine", "--model", "lenet", "--yes")
    assert imported.names("lenet") == ["b", "c"]


def test_imported_weights_behind_links_stay(console: Console, mine: Path, tmp_path: Path) -> None:
    kept = import_weights(mine, "lenet")
    elsewhere = tmp_path / "elsewhere"
    kept.parent.rename(elsewhere)
    kept.parent.symlink_to(elsewhere)
    before = (elsewhere / kept.name).read_bytes()
    err = console("weights", "rm", "mine", "--model", "lenet", "--yes", code=2)
    assert "lenet is a link" in err and len(err.splitlines()) == 1
    with pytest.raises(WeightsError, match=r"cannot be written: .*lenet is a link"):
        import_weights(mine, "lenet", classes=[str(i) for i in range(10)], replace=True)
    assert (elsewhere / kept.name).read_bytes() == before
    kept.parent.unlink()
    kept.parent.mkdir()
    for replaced in (True, False):
        kept.unlink(missing_ok=True)
        kept.symlink_to(elsewhere / kept.name)
        if replaced:
            import_weights(mine, "lenet", classes=[str(i) for i in range(10)], replace=True)
            assert not kept.is_symlink()
        else:
            console("weights", "rm", "mine", "--model", "lenet", "--yes")
            assert not kept.exists()
        assert (elsewhere / kept.name).read_bytes() == before


# --- pickles, without torch


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize(
    "file", ["weights.pth", "weights.pt", "weights.bin", "weights.ckpt", "weights.PKL", "weights"]
)
def test_a_pickle_is_not_read_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a pickle reader was called")

    monkeypatch.setattr(pickles, "convert", never)
    path = tmp_path / file
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(WeightsError, match=r"pickle.*--allow-pickle"):
        kept(path, name="x")
    with pytest.raises(WeightsError, match=r"pickle|cannot be read as safetensors"):
        hs.model("lenet", weights=path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("found", "text"),
    [("2.9.1+cu128", r"torch 2\.9\.1\+cu128 can run whatever it holds.*'torch>=2\.10'"), (None, "not installed")],
)
def test_a_torch_that_cannot_be_trusted_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str | None, text: str
) -> None:
    monkeypatch.setattr(pickles, "find_spec", lambda name: found)
    monkeypatch.setattr(pickles, "version", lambda name: found)
    monkeypatch.setattr(pickles, "ask_child", lambda *_: pytest.fail("it was read"))
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(BackendError, match=text):
        kept(path, allow_pickle=True)
    lenet_with(monkeypatch, published=Pickled("http://127.0.0.1:9/lenet.pth", "00", PREPROCESS))
    with pytest.raises(BackendError, match=text):  # and nothing is downloaded for it
        load()


def test_hostile_pickles_are_hostile(tmp_path: Path) -> None:
    """Against a reader without restrictions, each does what it says: else the tests below prove nothing."""
    canary, spare = tmp_path / "canary", tmp_path / "spare"
    spare.write_text("x")
    Path(f"{spare}.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    files = {title: file.program for title, file in hostile_files(canary, spare).items() if file.program}
    assert len(files) > 60
    (tmp_path / "files.pickle").write_bytes(pickle.dumps(files))
    script = f"""
import os, pickle, time
canary, dead = {str(canary)!r}, []
for title, program in pickle.load(open({str(tmp_path / "files.pickle")!r}, "rb")).items():
    try:
        pickle.loads(program)
    except Exception:
        pass
    until = time.monotonic() + 5
    paths = canary, canary + ".profile"
    while not (made := [path for path in paths if os.path.lexists(path)]) and time.monotonic() < until:
        time.sleep(0.001)
    dead += [title] * (not made)
    for path in made:
        os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
print(dead)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


# --- pickles, with torch


def old_torch() -> bool:
    """Whether it is one that headstart lets read no pickle."""
    try:
        return [int(part) for part in version("torch").split(".")[:2]] < [2, 10]
    except PackageNotFoundError:
        return False


READS_PICKLES = pytest.mark.skipif(
    old_torch(), reason="this torch reads pickles with a known hole, and is refused"
)


class Reader:
    """The child that reads pickles, kept for the next file: to import torch takes seconds."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.deaths = 0

    def __call__(self, job: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, "-P", "-c", pickles.CHILD]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**job, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], 60)[0]:
            self.close()
            return {"error": "not done after 60 seconds"}
        line = self.process.stdout.readline()
        if not line:
            self.deaths += 1
            return {"error": f"its reader ended with code {self.process.wait(10)}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="module")
def one_reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


@pytest.fixture
def reader(one_reader: Reader, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(pickles, "ask_child", one_reader)
    return one_reader


HOSTILE = hostile_files(Path("/nowhere"), Path("/nowhere"))


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What no pickle is to make."""
    return tmp_path_factory.mktemp("canary") / "canary"


@pytest.fixture(scope="module")
def hostile(canary: Path) -> Mapping[str, Any]:
    """Made once for all: among them are files of 200,000 levels."""
    spare = canary.with_name("spare")
    spare.write_text("x")
    Path(f"{spare}.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
    return hostile_files(canary, spare)


@READS_PICKLES
@pytest.mark.of("torch")
@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_pickle_runs_nothing(
    tmp_path: Path, canary: Path, hostile: Mapping[str, Any], reader: Reader, title: str
) -> None:
    for i, (content, suffix) in enumerate(hostile[title].files):
        path = tmp_path / f"hostile{i}{suffix}"
        path.write_bytes(content)
        with pytest.raises(WeightsError) as caught:
            kept(path, allow_pickle=True)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 900
        assert "likely succeed" not in str(caught.value), "torch's advice to read it all the same"
    assert sorted(p.name for p in canary.parent.iterdir()) == ["spare", "spare.py"], "nothing was touched"
    assert not list((tmp_path / "data").rglob("*.safetensors"))
    assert not list((tmp_path / "data/weights").glob(".*")), "nor left"


@pytest.mark.of("torch")
def test_no_hostile_pickle_ended_the_reader(one_reader: Reader) -> None:
    assert one_reader.deaths == 0


def torch_files(folder: Path) -> dict[str, Path]:
    """lenet's state dict as people save it."""
    import torch

    plain = {name: torch.from_numpy(value.copy()) for name, value in state_dict(9).items()}
    counters = {"bn.num_batches_tracked": torch.tensor(7)}
    average = {"n_averaged": torch.tensor(7)}
    parameters = {name: torch.nn.Parameter(value) for name, value in plain.items()}
    base = torch.zeros(4, *plain["fc2.weight"].shape)
    base[2] = plain["fc2.weight"]
    written = {
        "plain.pth": plain,
        "state_dict.pt": {"state_dict": plain, "epoch": 3, "lr": 0.1, "name": "x"},
        "model.bin": {"model": plain, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        "twice.ckpt": {"model": {"state_dict": {f"module.{name}": value for name, value in plain.items()}}},
        "averaged.pth": {
            "state_dict": {name: torch.zeros_like(value) for name, value in plain.items()},
            "state_dict_ema": {f"module.{name}": value for name, value in plain.items()} | average,
        },
        "parameters.pth": parameters,
        "counters.pth": plain | counters,
        "view.pth": plain | {"fc2.weight": base[2]},
        "transposed.pth": plain | {"fc2.weight": plain["fc2.weight"].t().contiguous().t()},
    }
    for file, content in written.items():
        torch.save(content, folder / file)
    torch.save(plain, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return {path.stem: path for path in sorted(folder.iterdir())}


@READS_PICKLES
@pytest.mark.of("torch")
def test_pickles_as_people_save_them(tmp_path: Path, reader: Reader) -> None:
    (tmp_path / "saved").mkdir()
    files = torch_files(tmp_path / "saved")
    assert len(files) == 10
    for name, path in files.items():
        kept(path, allow_pickle=True)
        assert same(hs.model("lenet", weights=name).params, state_dict(9)), name
        about = pickles.provenance(imported.find("lenet", name) or path)
        assert about["source_sha256"] == sha256(path.read_bytes())


@READS_PICKLES
@pytest.mark.of("torch")
def test_pickles_that_hold_no_plain_tensors(tmp_path: Path, reader: Reader) -> None:
    import torch

    for content, text in (
        (torch.nn.Linear(2, 2), r"asks for torch\.nn\.modules\.linear\.Linear, which"),
        ([torch.zeros(2)], "holds list"),
        ({"a": {"b": torch.zeros(2)}}, "'a' is dict, not a tensor"),
        ({"a": torch.zeros(2), 3: torch.zeros(2)}, "not a tensor"),
        ({"a": torch.zeros(2), "epoch": 3}, "'epoch' is int, not a tensor"),
        ({"a": torch.eye(3).to_sparse()}, "no plain tensor"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "no plain tensor"),
        ({"a": torch.zeros(1).expand(100_000)}, "claim 100000 numbers"),
        ({}, "holds dict"),
        ({"fc.weight": torch.zeros(2)}, "does not fit the model"),
    ):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(WeightsError, match=text):
            kept(tmp_path / "odd.pth", allow_pickle=True)


@READS_PICKLES
@pytest.mark.of("torch")
def test_pickles_read_by_a_child_of_its_own(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one, from the command line; and what becomes of one that takes too long."""
    import torch

    path = tmp_path / "mine.pth"
    torch.save({name: torch.from_numpy(value) for name, value in state_dict(10).items()}, path)
    arguments = ["weights", "import", path, "--model", "lenet", "--allow-pickle"]
    console(*arguments)
    assert same(hs.model("lenet", weights="mine").params, state_dict(10))
    monkeypatch.setattr(pickles, "SECONDS", 0.05)
    err = console(*arguments, "--name", "late", code=2)
    assert "not done after 0 seconds" in err
    assert imported.names("lenet") == ["mine"]


@READS_PICKLES
@pytest.mark.of("torch")
def test_published_pickles_are_converted_once(
    server: HubServer, tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    torch.save({name: torch.from_numpy(v) for name, v in state_dict(11, 1000).items()}, tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()
    digits = sha256(content)[:8]
    server.files[f"/files/lenet-{digits}.pth"] = content
    row = Pickled(f"{server.store}/files/lenet-{digits}.pth", digits, PREPROCESS)
    lenet_with(monkeypatch, published=row)
    assert weights_summary(ARCHITECTURES["lenet"], "published").here is False
    model = load()
    assert same(model.params, state_dict(11, 1000))
    assert model.preprocess == PREPROCESS
    assert model.classes == class_names("imagenet")
    target = tmp_path / f"data/weights/lenet-{digits}.safetensors"
    about = pickles.provenance(target)
    assert (about["source"], about["source_sha256"]) == (row.url, sha256(content))
    assert weights_summary(ARCHITECTURES["lenet"], "published").here is True
    # from now on neither torch nor the network is needed
    server.__exit__()
    monkeypatch.setattr(pickles, "find_spec", lambda name: None)
    assert same(load().params, model.params)
    target.write_bytes(target.read_bytes()[:1000])  # but what is damaged is made again
    with pytest.raises(BackendError, match="not installed"):
        load()
    monkeypatch.undo()


@READS_PICKLES
@pytest.mark.of("torch")
def test_a_published_pickle_with_another_digest_is_not_read(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pickles, "ask_child", lambda *_: pytest.fail("it was read"))
    server.files["/files/lenet.pth"] = pickle.dumps(Bomb(tmp_path / "exploded"))
    lenet_with(monkeypatch, published=Pickled(f"{server.store}/files/lenet.pth", "00000000", PREPROCESS))
    with pytest.raises(DownloadError, match="expected 00000000; they were removed"):
        load()
    assert not (tmp_path / "exploded").exists()
