"""`headstart cache` with a URL: what it says, what it writes as JSON, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import headstart
from faults.damage import flip, several

from headstart.common.errors import RemoteRefusedError
from headstart.common.objects import Objects

pytestmark = pytest.mark.neutral


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "team").as_uri()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The own cache: four trunks, of eight shards."""
    several(tmp_path / "cache")
    return tmp_path / "cache"


def test_push_and_pull(url, cache, tmp_path, monkeypatch) -> None:
    key = next(path.name for path in (cache / "features").iterdir() if len(list(path.glob("*.safetensors"))) == 1)
    planned = headstart("cache", "push", url, "--dry-run")
    assert (planned.code, planned.err) == (0, "")
    assert f"would push 8 shards (39.7 kB) to {url}; 0 were there already" in planned.out
    assert not (tmp_path / "team").exists()
    some = headstart("cache", "push", key[:5], url)
    assert f"pushed 1 shard (5.1 kB) to {url}; 0 were there already" in some.out and key[:12] in some.out
    rest = headstart("cache", "push", url, "--json", tmp_path / "figures.json")
    assert f"pushed 7 shards (34.6 kB) to {url}; 1 was there already" in rest.out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["moved"], figures["complete"], len(figures["trunks"])) == (7, True, 4)

    damaged = min((tmp_path / "team").rglob("*.safetensors"))
    flip(damaged, 8 * 4100)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "elsewhere"))
    pulled = headstart("cache", "pull", url, "--json", tmp_path / "figures.json")
    assert pulled.code == 1
    assert "pulled 7 shards" in pulled.out and "0 were here already" in pulled.out
    (line,) = pulled.err.splitlines()
    assert line.startswith(f"not pulled: {damaged.as_uri()}: ")
    (failure,) = [failure for trunk in read(tmp_path)["trunks"] for failure in trunk["failures"]]
    assert failure[0] == damaged.as_uri()
    flip(damaged, 8 * 4100)
    assert headstart("cache", "pull", url).code == 0
    assert "pulled 0 shards (0 B)" in headstart("cache", "pull", url).out


def read(folder: Path) -> Any:
    return json.loads((folder / "figures.json").read_text())


def test_it_is_looked_at_and_verified(url, cache, tmp_path) -> None:
    headstart("cache", "push", url)
    keys = sorted(path.name for path in (cache / "features").iterdir())
    listing = headstart("cache", "ls", url, "--json", tmp_path / "figures.json")
    assert listing.code == 0 and all(key[:12] in listing.out for key in keys) and f" in {url}" in listing.out
    assert [trunk["key"] for trunk in read(tmp_path)] == keys
    info = headstart("cache", "info", keys[0][:6], url, "--json", tmp_path / "figures.json")
    assert info.code == 0 and keys[0] in info.out and read(tmp_path)["spec"]["preprocess"] == {"size": 224}
    sound = headstart("cache", "verify", url, "--json", tmp_path / "figures.json")
    assert sound.code == 0 and "116 rows in 8 shards verified, 0 damaged" in sound.out
    damaged = min((tmp_path / "team").rglob("*.safetensors"))
    flip(damaged, 8 * 4100)
    result = headstart("cache", "verify", damaged.parent.name[:5], url, "--json", tmp_path / "figures.json")
    assert result.code == 1 and f"damaged: {damaged.as_uri()}: " in result.out
    assert [where for where, _ in read(tmp_path)["damaged"]] == [damaged.as_uri()]


def test_gc_shows_first_and_deletes_when_told(url, cache, tmp_path) -> None:
    headstart("cache", "push", url)
    young = headstart("cache", "gc", url)
    assert (young.code, young.out) == (0, f"nothing in {url} is older than 7d\n")
    key = min(path.name for path in (cache / "features").iterdir())
    shown = headstart("cache", "gc", key[:5], url, "--grace", "0")
    assert shown.code == 0 and f"would delete {key[:12]}  tiny" in shown.out and "trunk.json" in shown.out
    assert shown.out.endswith(f"nothing was deleted in {url}; add --yes to do it\n")
    done = headstart("cache", "gc", key[:5], url, "--grace", "0", "--yes", "--json", tmp_path / "figures.json")
    assert done.code == 0 and f"deleting {key[:12]}" in done.out and f"freed in {url}" in done.out
    assert read(tmp_path)["deleted"] is True
    assert len(headstart("cache", "ls", url).out.splitlines()) == 3 + 3 + 2
    assert "nothing to delete" not in headstart("cache", "gc", url, "--grace", "0", "--max-size", "1GB").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("push", "received no URLs; expected one, such as s3://bucket/prefix"),
        ("pull s3://a/b s3://c/d", "received 2 URLs; expected one"),
        ("push zz {url}", "unknown trunk key 'zz'"),
        ("pull zz {url}", "unknown trunk key 'zz'"),
        ("push ftp://host/x", "ftp://host/x cannot be opened; expected a URL that begins with s3://"),
        ("ls photos", "'photos' is no URL; expected one, such as s3://bucket/prefix"),
        ("info zz {url}", "unknown trunk key 'zz'"),
        ("verify a b {url}", "received 2 keys: a, b; expected one, or none"),
        ("verify {url} --repair", "--repair is for the own cache; leave out the URL"),
        ("gc {url} --grace soon", "'soon' is no span of time"),
        ("gc --grace 7d --max-size 1GB", "--grace is for a store behind a URL"),
        ("gc 3f2a", "received no URLs; expected one"),
        ("gc {url} --data digits", "--data is for the own cache; expected it without a URL"),
        ("push s3://name:secret@bucket/x", "s3://bucket/x: a URL holds no credentials"),
    ],
)
def test_mistakes_are_one_line(words, said, url) -> None:
    result = headstart("cache", *words.format(url=url).split())
    assert result.code == 2 and result.err.startswith(f"error: {said}") and result.err.count("\n") == 1
    assert "secret" not in result.err


def test_a_place_that_cannot_be_written_is_named(url, cache, tmp_path) -> None:
    (tmp_path / "team").write_bytes(b"no folder")
    result = headstart("cache", "push", url)
    assert result.code == 1 and "pushed 0 shards (0 B)" in result.out
    *failures, untried = result.err.splitlines()
    assert len(failures) == 4 and all(line.startswith(f"not pushed: {url}/features/") for line in failures)
    assert untried == "not tried: 8 shards; the same command goes on with them"


def test_no_permission_is_one_line(url, cache, monkeypatch) -> None:
    def refuse(self: Objects, name: str, content: bytes) -> None:
        raise RemoteRefusedError(self.url_of(name), "access was refused (planted)")

    monkeypatch.setattr(Objects, "put", refuse)
    result = headstart("cache", "push", url)
    assert result.code == 2 and result.err.count("\n") == 1
    assert result.err.startswith(f"error: {url}/features/") and "access was refused (planted)" in result.err
