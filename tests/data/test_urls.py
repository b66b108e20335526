"""Data behind a URL are the data of a folder: the same classes, ids, parts, order and remarks."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import urllib.request
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from object_proxy import Request, proxied
from object_server import ObjectServer, served
from PIL import Image

import headstart as hs
from headstart.common.errors import (
    DataError,
    HeadstartError,
    ImageError,
    RemoteError,
    RemoteNotFoundError,
    RemoteRefusedError,
    SettingError,
)
from headstart.common.objects import Objects, open_objects
from headstart.data import Preprocess, batches, bucket, images_at, url_files
from headstart.data.any_files import files_for
from headstart.data.decode import read_file

pytestmark = pytest.mark.neutral


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    pytest.importorskip("moto")
    with served() as server:
        yield server


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each object was read, by its name in the bucket; listings as "list"."""
    counted: Counter[str] = Counter()
    fetch, entries = Objects.fetch, Objects.entries

    def counted_fetch(self: Objects, name: str, limit: int) -> Any:
        counted[name] += 1
        return fetch(self, name, limit)

    def counted_entries(self: Objects, *arguments: Any) -> Any:
        counted["list"] += 1
        return entries(self, *arguments)

    monkeypatch.setattr(Objects, "fetch", counted_fetch)
    monkeypatch.setattr(Objects, "entries", counted_entries)
    return counted


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder beside the test's cache."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def photo(path: Path, seed: int = 0, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return path


def photos(root: Path, *classes: str, count: int = 3) -> Path:
    for k, name in enumerate(classes):
        for i in range(count):
            photo(root / name / f"{i}.png", 10 * k + i)
    return root


def upload(folder: Path, url: str) -> str:
    objects = open_objects(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            objects.put(path.relative_to(folder).as_posix(), path.read_bytes())
    return url


def about(data: Any, place: object) -> dict[str, Any]:
    """What is to be the same of a folder and its copy in a bucket."""

    def there(text: str) -> str:
        return text.replace(str(place), "")

    parts = {name: part.ids for name, part in data.parts.items()}
    return {
        "classes": data.classes,
        "labels": data.labels.tolist(),
        "ids": data.ids,
        "parts": parts,
        "files": [there(data.source_name(i)) for i in range(len(data))],
        "skipped": [(there(path), there(reason)) for path, reason in data.skipped],
        "remarks": [there(line) for _, line in data.remark_lines()],
    }


def opened(path: object, **how: Any) -> tuple[str, Any]:
    """What opening a folder gives, or the error that it raises; and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: Any = about(hs.data.folder(str(path), **how), path)
        except HeadstartError as error:
            result = type(error).__name__, str(error).replace(str(path), "")
    return result, [str(warning.message).replace(str(path), "") for warning in caught]


# The same as of a folder ------------------------------------------------------------------------------------


def test_a_folder_and_its_copy(server: ObjectServer, root: Path) -> None:
    root = photos(root / "photos", "cat", "dog", "élan b")
    photo(root / "cat" / "deep" / "er" / "x.jpg", 70)
    photo(root / "dog" / "no_ending.png", 71).rename(root / "dog" / "no_ending")
    photo(root / "dog" / "moving.gif", 72, save_all=True, append_images=[Image.new("RGB", (6, 6))])
    for litter in ("cat/.DS_Store", "cat/@eaDir/0.png", "Thumbs.db", "__MACOSX/cat/._0.png"):
        (root / litter).parent.mkdir(parents=True, exist_ok=True)
        (root / litter).write_bytes(b"litter")
    photo(root / "beside.jpg")
    url = upload(root, f"{server.url}/photos")
    data = hs.data.folder(url)
    assert data.classes == ("cat", "dog", "élan b")
    local = hs.data.folder(root)
    for i in range(len(data)):
        assert np.array_equal(np.array(data.load(i)[0]), np.array(local.load(i)[0]))
    there, here = about(data, url), about(local, root)
    assert there == here
    assert there["remarks"] and there["skipped"]
    assert data.name == url
    assert [half.ids for half in data.split(0.5, seed=3)] == [half.ids for half in local.split(0.5, seed=3)]
    assert hs.data.folder(url + "/").ids == data.ids
    assert hs.data.open_data(url).ids == data.ids
    assert hs.data.folder(root.as_uri()).ids == data.ids


KINDS = ("jpg", "png", "no ending", "gif", "broken", "text", "page", "empty folder", "two frames")
NAMES = ("cat", "dog", ".hidden", "train", "val", "images", "masks", "Dog", "@eaDir", "fold1", "fold2")


@settings(max_examples=25)
@given(
    tree=st.lists(
        st.tuples(
            st.lists(st.sampled_from(NAMES), min_size=0, max_size=3),
            st.sampled_from(("a", "b", "Thumbs.db", "ü b")),
            st.sampled_from(KINDS),
        ),
        min_size=2,
        max_size=9,
    ),
    sound=st.booleans(),
    skip=st.booleans(),
)
def test_any_tree_and_its_copy(
    server: ObjectServer, tmp_path_factory: pytest.TempPathFactory, tree: Any, sound: bool, skip: bool
) -> None:
    root = tmp_path_factory.mktemp("any") / "photos"
    if sound:
        photos(root, "ant", "bee", count=1)
    for k, (folders, name, kind) in enumerate(tree):
        write(root.joinpath(*folders), name, kind, k)
    url = upload(root, f"{server.url}/any/{root.parent.name}/photos")
    for folder in (path for path in root.rglob("*") if path.is_dir()):
        open_objects(url).put(folder.relative_to(root).as_posix(), b"") if not any(folder.iterdir()) else None
    how = {"on_error": "skip" if skip else "raise"}
    assert opened(url, **how) == opened(root, **how)


def write(folder: Path, name: str, kind: str, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if kind in ("jpg", "png", "gif"):
        photo(folder / f"{name}.{kind}", seed)
    elif kind == "no ending":
        photo(folder / f"{name}x.png", seed).rename(folder / f"{name}x")
    elif kind == "two frames":
        photo(folder / f"{name}.gif", seed, save_all=True, append_images=[Image.new("RGB", (6, 7))])
    elif kind == "broken":
        (folder / f"{name}.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken off")
    elif kind == "empty folder":
        (folder / f"empty {seed}").mkdir(exist_ok=True)
    else:
        (folder / f"{name}.txt").write_text("<html>" if kind == "page" else "some words")


def test_a_split_folder(server: ObjectServer, root: Path) -> None:
    for k, part in enumerate(("training", "valid", "test")):
        photos(root / "split" / part, "cat", "dog", count=3 + k)
    url = upload(root / "split", f"{server.url}/split")
    data = hs.data.folder(url)
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 6, "val": 8, "test": 10}
    assert about(data, url) == about(hs.data.folder(root / "split"), root / "split")
    assert hs.data.folder(f"{url}/valid").ids == data.val.ids


def test_what_stands_for_an_empty_folder_is_no_picture(server: ObjectServer, root: Path) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/markers")
    for name in (
        "cat",
        "dog",
        "dog/none_yet",
        "v1.0",
        "cat/v2.0",
        "cat_$folder$",
        "dog/some_$folder$",
        "_SUCCESS",
    ):
        open_objects(url).put(name, b"")
    for name in ("v1.0/0.png", "cat/v2.0/1.png"):
        open_objects(url).put(name, (root / "cat" / "0.png").read_bytes())
    assert hs.data.folder(url).classes == ("cat", "dog", "v1.0")
    open_objects(url).put("bird", b"")
    with pytest.raises(DataError, match="no usable image in its class folder 'bird'"):
        hs.data.folder(url)


def test_formats_that_are_told_by_content_are_looked_at_together(
    server: ObjectServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(20):
        photo(root / "ab"[i % 2] / f"{i}.png", i).rename(root / "ab"[i % 2] / str(i))
    url = upload(root, f"{server.url}/told")
    ranges = []
    get_range = Objects.get_range
    monkeypatch.setattr(Objects, "get_range", lambda *asked: (ranges.append(asked[1]), get_range(*asked))[1])
    assert about(hs.data.folder(url), url) == about(hs.data.folder(root), root)
    assert len(ranges) == len(set(ranges)) == 20


# Reads ------------------------------------------------------------------------------------------------------


def test_an_unchanged_bucket_is_not_read_again(server: ObjectServer, root: Path, reads: Counter[str]) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/again")
    first = hs.data.folder(url).ids
    assert reads.pop("list") == 1
    assert set(reads.values()) == {1} and len(reads) == 6
    reads.clear()
    assert hs.data.folder(url).ids == first
    assert reads == {"list": 1}
    photo(root / "cat" / "1.png", 99)
    upload(root / "cat", f"{url}/cat")  # all of them anew: only one has other bytes
    reads.clear()
    changed = hs.data.folder(url).ids
    assert reads == {"list": 1, "again/cat/1.png": 1}
    assert [a == b for a, b in zip(first, changed, strict=True)] == [True, False, True, True, True, True]
    assert changed == hs.data.folder(root).ids


def test_pictures_that_were_decoded_once_are_not_read_again(
    server: ObjectServer, root: Path, reads: Counter[str]
) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/decoded")
    open_objects(url).put("cat/broken.jpg", b"\xff\xd8\xff\xe0")
    data = hs.data.folder(url, on_error="skip")
    assert [(left.path, type(left).__name__) for left in data.skipped] == [(f"{url}/cat/broken.jpg", "Skipped")]
    reads.clear()
    assert hs.data.folder(url, on_error="skip").ids == data.ids
    assert reads == {"list": 1, "decoded/cat/broken.jpg": 1}


@pytest.mark.parametrize("tag", [None, 'W/"abc"'])
def test_without_a_tag_that_promises_something_an_object_is_read_again(
    server: ObjectServer, root: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch, tag: str | None
) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/untagged")
    monkeypatch.setattr(bucket, "Known", lambda nbytes, _: KNOWN(nbytes, tag))
    for _ in range(2):
        reads.clear()
        assert hs.data.folder(url).ids == hs.data.folder(root).ids
        assert reads.total() == 7


KNOWN = bucket.Known


def test_batches_are_those_of_the_folder(server: ObjectServer, root: Path, reads: Counter[str]) -> None:
    url = upload(photos(root, "cat", "dog", count=12), f"{server.url}/batches")
    order = np.random.default_rng(0).permutation(24)
    ready = Preprocess(8, 8)
    data, local = hs.data.folder(url), hs.data.folder(root)
    asked: dict[str, Any] = {"batch_size": 5, "workers": 3}
    pairs = list(zip(batches(data, ready, order, **asked), batches(local, ready, order, **asked), strict=True))
    for there, here in pairs:
        assert np.array_equal(there.images, here.images) and there.ids == here.ids
    reads.pop("list")
    assert set(reads.values()) == {1} and len(reads) == 24
    for _ in zip(range(2), batches(data, ready, order, **asked), strict=False):  # left before its end
        pass


# What goes wrong --------------------------------------------------------------------------------------------


def test_a_url_is_taken_by_the_names_in_it(server: ObjectServer, root: Path) -> None:
    """What stands in it is no escape, and parts that are empty or dots are none."""
    for n, name in enumerate(("my photos", "my%20photos", "m\u00fc+nchen [1]")):
        upload(photos(root / str(n), "cat", "dog", count=n + 1), f"{server.url}/named/{name}")
    for n, name in enumerate(("my photos/", "my%20photos//", "/x/..//m\u00fc+nchen [1]/.")):
        data = hs.data.folder(f"{server.url}/named/{name}")
        assert len(data) == 2 * (n + 1) and data.ids == hs.data.folder(root / str(n)).ids


def test_an_object_that_cannot_be_named_is_said(server: ObjectServer, root: Path) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/unnamed")
    odd = urllib.request.Request(f"{server.endpoint}/photos/unnamed/cat//3.png", b"", method="PUT")
    urllib.request.urlopen(odd, timeout=30).close()
    with pytest.raises(RemoteError, match=r'"unnamed/cat//3.png" contained empty path segment: such names'):
        hs.data.folder(url)
    assert len(images_at(f"{url}/dog")) == 3
    with pytest.raises(RemoteError, match=r"^s3://photos/unnamed/a\x00b: .*such names, with a part that is empty"):
        hs.data.folder(f"{url}/a\0b")


def test_what_is_not_there(server: ObjectServer, root: Path) -> None:
    with pytest.raises(DataError, match=r"s3://photos/none does not exist.*folder a class"):
        hs.data.folder(f"{server.url}/none")
    with pytest.raises(RemoteNotFoundError, match=r"^s3://nobucket/photos: there is no such bucket$"):
        hs.data.folder("s3://nobucket/photos")
    url = upload(photos(root, "cat", "dog"), f"{server.url}/there")
    with pytest.raises(DataError, match="is one image"):
        hs.data.folder(f"{url}/cat/0.png")
    upload(root / "cat", f"{server.url}/one/cat")
    with pytest.raises(DataError, match="only one class folder, 'cat'"):
        hs.data.folder(f"{server.url}/one")
    with pytest.raises(DataError, match=r"there is no such file or folder"):
        images_at(f"{server.url}/none.png")
    with pytest.raises(DataError, match="tars are read from this machine only"):
        hs.data.webdataset(f"{url}/a-{{00..10}}.tar")


def test_an_object_that_goes_after_the_listing(server: ObjectServer, root: Path) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/going")
    data = hs.data.folder(url)
    open_objects(url).delete("cat/1.png")
    with pytest.raises(ImageError, match=r"s3://photos/going/cat/1\.png: is not there any more"):
        _ = data.ids
    with pytest.raises(ImageError, match=r"is not there any more.*on_error"):
        data.load(1)


def test_what_goes_meanwhile_can_be_passed_over(
    server: ObjectServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/gone")
    entries = Objects.entries

    def deleting(self: Objects, *asked: Any) -> Any:
        listed = list(entries(self, *asked))
        self.delete("gone/cat/1.png")
        return iter(listed)

    monkeypatch.setattr(Objects, "entries", deleting)
    data = hs.data.folder(url, on_error="skip")
    assert [(type(left).__name__, left.path) for left in data.skipped] == [("Unread", f"{url}/cat/1.png")]
    assert len(data) == 5


def test_an_object_that_changes_after_it_was_read(server: ObjectServer, root: Path) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/changing")
    data = hs.data.folder(url)
    before = data.ids
    open_objects(url).put("cat/1.png", photo(root / "cat" / "1.png", 88).read_bytes())
    with pytest.raises(DataError, match=r"changing/cat/1\.png was changed since it was first read"):
        data.load(1)
    after = hs.data.folder(url).ids
    assert after[1] != before[1] and after == hs.data.folder(root).ids


def test_an_object_that_changes_before_it_is_read(server: ObjectServer, root: Path) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/early")
    before, ids = (root / "cat" / "1.png").read_bytes(), hs.data.folder(root).ids
    data = hs.data.folder(url)
    open_objects(url).put("cat/1.png", (root / "dog" / "0.png").read_bytes())
    assert data.ids[1] == ids[3]
    open_objects(url).put("cat/1.png", before)
    assert hs.data.folder(url).ids == ids


def test_an_object_too_large_for_a_picture_is_not_asked_for(
    server: ObjectServer, root: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/large")
    open_objects(url).put("cat/large.jpg", bytes(5000))
    monkeypatch.setattr(url_files, "MAX_NBYTES", 4999)
    data = hs.data.folder(url, on_error="skip")
    assert [(left.path, left.reason) for left in data.skipped] == [
        (f"{url}/cat/large.jpg", "has 5,000 bytes; an encoded image at a URL may have 4,999")
    ]
    assert "large/cat/large.jpg" not in reads


@pytest.mark.parametrize("fault", ["cut", "drop", "500", "503"])
def test_what_breaks_off_once_is_tried_again(server: ObjectServer, root: Path, fault: str) -> None:
    url = upload(photos(root, "cat", "dog"), f"{server.url}/once")
    failed: set[str] = set()

    def rule(request: Request) -> str | None:
        first = request.path not in failed
        failed.add(request.path)
        return fault if first and request.path.endswith("/1.png") else None

    with proxied(server.endpoint, rule) as proxy:
        assert hs.data.folder(url).ids == hs.data.folder(root).ids
        assert len(proxy.faults) == 2


@pytest.mark.parametrize("fault", ["cut", "500", "short", "403", "gone"])
def test_what_cannot_be_fetched_is_named_or_passed_over(
    server: ObjectServer, root: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.common.objects.RETRIES", 1)
    url = upload(photos(root, "cat", "dog"), f"{server.url}/faults")
    with proxied(server.endpoint, lambda request: fault if request.path.endswith("cat/1.png") else None):
        data = hs.data.folder(url)
        with pytest.raises(
            ImageError, match=r"^s3://photos/faults/cat/1\.png: (cannot be read|is not there any)"
        ) as e:
            _ = data.ids
        assert "\n" not in str(e.value) and "test-secret-value" not in str(e.value)
        with pytest.raises(ImageError, match="on_error"):
            data.load(1)
        left = hs.data.folder(url, on_error="skip")
    assert [(type(gone).__name__, gone.path) for gone in left.skipped] == [("Unread", f"{url}/cat/1.png")]
    assert hs.data.folder(url).ids == hs.data.folder(root).ids  # nothing wrong was kept


def test_refusals_name_no_secret(server: ObjectServer, root: Path) -> None:
    for url, reason in {
        "s3://key:verysecret@photos/x": "holds no credentials",
        "s3://photos/x?X-Amz-Signature=verysecret": "holds no credentials",
        "s3:///x": "names no bucket",
    }.items():
        with pytest.raises(SettingError, match=reason) as caught:
            hs.data.folder(url)
        assert "verysecret" not in str(caught.value)
    with pytest.raises(DataError, match="give the URL as text"):
        hs.data.folder(Path("s3://photos/x"))
    with pytest.raises(DataError, match="is an address that is not read here"):
        hs.data.folder("abfs://photos/x")


def test_without_credentials(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # Clients then ask the machine that they run on, which has none here.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"{server.endpoint}/nobucket")
    with pytest.raises(RemoteRefusedError, match=r"^s3://photos/x: no credentials were found; set them in"):
        hs.data.folder("s3://photos/x")


# Tables -----------------------------------------------------------------------------------------------------


def test_tables_and_what_they_name(server: ObjectServer, root: Path, reads: Counter[str]) -> None:
    root = photos(root / "set", "cat", "dog")
    rows = [(f"{name}/{i}.png", name, f"p{i}") for name in ("cat", "dog") for i in range(3)]
    (root / "labels.csv").write_text("file,label,who\n" + "".join(f"{f},{c},{p}\n" for f, c, p in rows))
    url = upload(root, f"{server.url}/tables/set")
    local = hs.data.table(root / "labels.csv", group="who")
    data = hs.data.table(f"{url}/labels.csv", group="who")
    assert about(data, url) == about(local, root)
    assert data.groups == local.groups
    assert hs.data.open_data(f"{url}/labels.csv").ids == data.ids
    absolute = root / "absolute.csv"
    absolute.write_text("file,label\n" + "".join(f"{url}/{f},{c}\n" for f, c, _ in rows))
    assert hs.data.table(absolute).ids == data.ids
    mixed = [f"{url}/{f}" if i % 2 else str(root / f) for i, (f, _, _) in enumerate(rows)]
    both = hs.data.table({"file": mixed, "label": [c for _, c, _ in rows]})
    assert both.ids == data.ids and both.source_name(1) == f"{url}/cat/1.png"
    elsewhere = root / "elsewhere.csv"
    elsewhere.write_bytes((root / "labels.csv").read_bytes())
    reads.clear()
    assert hs.data.table(elsewhere, root=url).ids == data.ids
    assert not reads  # folders are listed one by one, and nothing is read
    up = [f"../set/{f}" for f, _, _ in rows]
    assert hs.data.table({"file": up, "label": [c for _, c, _ in rows]}, root=url).ids == data.ids
    assert images_at(f"{url}/labels.csv").ids == data.ids
    # As an operating system takes them, and no server does.
    for rewritten in (
        "cat/../{0}",
        "cat//../{0}",
        "./{0}",
        f"{url}/cat/.././/{{0}}",
        f"{server.url}//tables/set/{{0}}",
    ):
        odd = {"file": [rewritten.format(f) for f, _, _ in rows], "label": [c for _, c, _ in rows]}
        assert hs.data.table(odd, root=url).ids == data.ids, rewritten


def test_tables_in_parquet_and_of_cells(server: ObjectServer, root: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    photos(root, "cat", "dog")
    names = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3)]
    labels = [name.split("/")[0] for name in names]
    parquet.write_table(pyarrow.table({"file": names, "label": labels}), root / "names.parquet")
    cells = [(root / name).read_bytes() for name in names]
    parquet.write_table(pyarrow.table({"image": cells, "label": labels}), root / "cells.parquet")
    url = upload(root, f"{server.url}/parquet")
    for table in ("names.parquet", "cells.parquet"):
        assert hs.data.table(f"{url}/{table}").ids == hs.data.table(root / table).ids


def test_files_of_many_folders_are_listed_at_once(
    server: ObjectServer, root: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(photos(root, "a", "b", "c", count=1), f"{server.url}/many")
    monkeypatch.setattr(url_files, "SINGLY", 2)
    paths = [f"{url}/{name}/{i}.png" for name in "abcd" for i in range(2)]
    assert files_for(paths).there(paths) == [True, False, True, False, True, False, False, False]
    assert reads == {"list": 1}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("cat/0.png,cat\ncat/9.png,dog\n", r"not there, the first: s3://.*/cat/9\.png \(row 2\)"),
        ("cat/0,cat\ndog/0,dog\n", "There is a 0.png: write the names with their suffix"),
        ("/etc/passwd,cat\ndog/0.png,dog\n", "expected a name relative to s3://"),
        ("../../../x.png,cat\ndog/0.png,dog\n", r"s3://photos/x\.png"),
        ("https://example.org/x.png,cat\ndog/0.png,dog\n", "not there"),
    ],
)
def test_rows_that_name_no_object(server: ObjectServer, root: Path, rows: str, reason: str) -> None:
    url = upload(photos(root, "cat", "dog", count=1), f"{server.url}/rows")
    open_objects(url).put("t.csv", f"file,label\n{rows}".encode())
    with pytest.raises(DataError, match=reason):
        hs.data.table(f"{url}/t.csv")


def test_tables_that_are_none(server: ObjectServer) -> None:
    with pytest.raises(RemoteNotFoundError, match=r"s3://photos/none\.csv: there is no such object"):
        hs.data.table(f"{server.url}/none.csv")
    with patch("headstart.data.table_file.available_memory", return_value=20):
        open_objects(server.url).put("large.csv", b"file,label\na,b\n")
        with pytest.raises(DataError, match="has 15 bytes, more than half"):
            hs.data.table(f"{server.url}/large.csv")


# Pictures to classify, processes ----------------------------------------------------------------------------


def test_pictures_to_classify(server: ObjectServer, root: Path) -> None:
    photos(root, "cat", "dog")
    url = upload(root, f"{server.url}/classify")
    ids = hs.data.folder(root).ids
    assert images_at(url).ids == ids
    assert images_at([f"{url}/cat", root / "dog"]).ids == ids
    assert images_at(f"{url}/cat/1.png").ids == ids[1:2]
    open_objects(url).put("cat/notes.txt", b"words")
    with pytest.raises(ImageError, match=r"cat/notes\.txt: is not an image"):
        images_at(url)
    left = images_at(url, on_error="skip", examine=False)
    assert left.ids == ids and [gone.path for gone in left.skipped] == [f"{url}/cat/notes.txt"]


def test_another_process_opens_the_bucket_anew(server: ObjectServer, root: Path) -> None:
    photos(root, "cat", "dog")
    url = upload(root, f"{server.url}/process")
    data = hs.data.folder(url)
    encoded = pickle.dumps(data)
    assert b"test-secret-value" not in encoded
    (root / "data.pickle").write_bytes(encoded)
    code = "import pickle, sys; data = pickle.load(open(sys.argv[1], 'rb')); print(data.load(2)[1], *data.ids)"
    command = [sys.executable, "-c", code, str(root / "data.pickle")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [data.ids[2], *data.ids]
    assert data.load(2)[1] == data.ids[2]
    several = images_at([f"{url}/cat/0.png", root / "dog" / "0.png", f"{url}/dog/1.png"])
    assert pickle.loads(pickle.dumps(several)).ids == (data.ids[0], data.ids[3], data.ids[4])


def test_reading_a_local_file_asks_no_bucket(root: Path) -> None:
    path = photo(root / "a.png")
    assert files_for([str(path), "s3://photos/x.png"]).read(str(path)) == read_file(path)


def test_iterating_reads_ahead(server: ObjectServer, root: Path, reads: Counter[str]) -> None:
    data = hs.data.folder(upload(photos(root, "cat", "dog"), f"{server.url}/iterating"))
    for there, here in zip(data, hs.data.folder(root), strict=True):
        assert np.array_equal(there.image, here.image) and there[1:] == here[1:]
    assert reads.total() == 7
    for _ in data:
        break
    assert not any(thread.name.startswith("headstart-fetch") for thread in threading.enumerate())
