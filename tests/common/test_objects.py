"""Objects behind a URL, on a real server of S3's protocol and in a folder."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from headstart.common.errors import RemoteError, RemoteNotFoundError, RemoteRefusedError, SettingError
from headstart.common.objects import Objects, is_url, normal_url, open_objects, without_secrets

pytestmark = pytest.mark.neutral


@pytest.fixture(params=["s3", "file"])
def objects(request, tmp_path_factory) -> Objects:
    name = tmp_path_factory.mktemp("objects")
    if request.param == "file":
        return open_objects(name.as_uri())
    return open_objects(f"{request.getfixturevalue('bucket')}/{name.name}")


def test_what_is_put_is_listed_and_read(objects, tmp_path):
    assert list(objects.entries()) == []
    assert objects.folders() == ([], [])
    content = bytes(range(256)) * 40_000
    file = tmp_path / "shard"
    file.write_bytes(content)
    objects.put("features/aa/one.bin", b"12345")
    objects.put("features/bb/two.bin", file)
    assert sorted((entry.name, entry.nbytes) for entry in objects.entries()) == [
        ("features/aa/one.bin", 5),
        ("features/bb/two.bin", len(content)),
    ]
    assert [entry.name for entry in objects.entries("features/aa")] == ["features/aa/one.bin"]
    assert sorted(objects.folders("features")[0]) == ["features/aa", "features/bb"]
    assert objects.get("features/aa/one.bin", limit=5) == b"12345"
    assert b"".join(objects.pieces("features/bb/two.bin", len(content))) == content
    assert objects.get_range("features/bb/two.bin", 255, 3) == b"\xff\x00\x01"
    tag = objects.entry("features/aa/one.bin").tag
    objects.put("features/aa/one.bin", b"67")
    assert objects.get("features/aa/one.bin", limit=5) == b"67"
    assert objects.entry("features/aa/one.bin").tag != tag
    objects.delete("features/aa/one.bin")
    objects.delete("features/aa/one.bin")
    with pytest.raises(RemoteNotFoundError, match=r"features/aa/one.bin: there is no such object"):
        objects.get("features/aa/one.bin", limit=5)


def test_a_folder_that_is_not_there_yet_holds_nothing_and_is_made_by_writing(tmp_path):
    folder = tmp_path / "a team's" / "cache"
    objects = open_objects(folder.as_uri())
    assert list(objects.entries()) == list(objects.entries("features")) == []
    assert objects.folders() == ([], [])
    with pytest.raises(RemoteNotFoundError):
        objects.get("one", limit=5)
    assert not folder.exists()
    objects.put("deep/one", b"1")
    assert (folder / "deep" / "one").read_bytes() == b"1"


def test_sizes_are_held_to(objects):
    objects.put("five", b"12345")
    with pytest.raises(RemoteError, match=r"five: has 5 bytes, at most 4 are read"):
        objects.get("five", limit=4)
    with pytest.raises(RemoteError, match=r"five: has 5 bytes, expected 6"):
        list(objects.pieces("five", 6))
    with pytest.raises(RemoteError, match=r"five: "):
        objects.get_range("five", 3, 3)
    with pytest.raises(RemoteError, match=r"five: "):
        objects.get_range("five", 9, 3)


def test_what_is_refused_says_where_and_why(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(RemoteError, match=r"s3://photos/some/thing: .*") as refused:
        monkeypatch.setattr("headstart.common.objects.RETRIES", 0)
        open_objects(f"{bucket}/some").get("thing", limit=5)
    assert "test-secret-value" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_permission_is_an_error_of_its_own(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may do everything")
    tmp_path.chmod(0o500)
    with pytest.raises(RemoteRefusedError, match="access was refused"):
        open_objects(tmp_path.as_uri()).put("one", b"1")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/photos", r"ftp://host/photos cannot be opened; expected a URL that begins with s3://, gs://"),
        ("/team/a b", r"^'/team/a b' is no URL; expected .*; a folder of this machine is file:///team/a%20b$"),
        ("", r"^'' is no URL; expected one that begins with s3://, gs://, az://, file://$"),
        ("file://photos/x", r"file://photos/x names a folder of the machine photos; expected file:///folder"),
        ("s3:///photos", r"names no bucket; expected s3://bucket/prefix"),
        ("s3://key:secret@bucket/photos", r"s3://bucket/photos: a URL holds no credentials"),
        ("s3://key:abcdefgh/i+j@bucket/photos", r"^s3://\*\*\*: a URL holds no credentials"),
        ("s3://bucket/photos?secret=abcdefgh", r"s3://bucket/photos: a URL holds no credentials"),
    ],
)
def test_urls_that_are_none(url, said):
    with pytest.raises(SettingError, match=said) as refused:
        open_objects(url)
    assert "abcdefgh" not in str(refused.value) and "key:secret" not in str(refused.value)


def test_a_bucket_has_names_and_no_escapes(bucket):
    """`open_objects` and data sets take a URL for the same place."""
    photos = open_objects(bucket)
    for name in ("a b", "a%20b", "a+b", "\u00e9"):
        photos.put(f"names/{name}/one", name.encode())
    for url in ("names/a b", "names/a%20b/", "/names//a+b", "names/./x/../\u00e9"):
        objects = open_objects(f"{bucket}/{url}")
        assert [entry.name for entry in objects.entries()] == ["one"]
        assert objects.get("one", limit=9).decode() == objects.url.rpartition("/")[2]
    assert normal_url("s3://b/../c//") == "s3://b/c" and normal_url("s3://b//") == "s3://b"
    assert normal_url("file:///a//b%20c/") == "file:///a//b%20c/"


@pytest.mark.parametrize("name", ["a/../b", "./a", "a//b", "a\0b"])
def test_names_that_no_object_has_here(objects, name):
    for ask in (
        lambda: objects.entry(name),
        lambda: objects.get(name, 9),
        lambda: objects.get_range(name, 0, 9),
        lambda: objects.put(name, b"1"),
        lambda: objects.folders(name),
        lambda: list(objects.entries(name)),
        lambda: list(objects.pieces(name, 9)),
    ):
        with pytest.raises(RemoteError, match=r"such names, with a part that is empty, '\.' or '\.\.'"):
            ask()


@pytest.mark.parametrize(
    ("url", "said"), [("gs://x/y", "GOOGLE_APPLICATION_"), ("az://x/y", "AZURE_STORAGE_ACCOUNT_N")]
)
def test_each_kind_of_store_has_credentials_of_its_own(url, said, monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("headstart.common.objects.RETRIES", 0)
    monkeypatch.setattr("headstart.common.objects.CONNECT_SECONDS", 0.5)
    with pytest.raises(
        RemoteRefusedError, match=f"no credentials were found; set them in the environment, as {said}"
    ):
        open_objects(url).get("one", limit=9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_told_and_does_not_wait_for_ever(objects):
    """obstore's threads stay with the parent: a request of the child's would never end."""
    objects.put("one", b"1")
    for ask in (
        lambda: objects.get("one", 1),
        lambda: list(objects.entries()),
        lambda: open_objects(objects.url).entry("one"),
    ):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(20)
            try:
                ask()
                said = "an answer"
            except RemoteError as error:
                said = error.reason
            os.write(writer, said.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read().decode()
        assert os.waitpid(child, 0)[1] == 0
        assert "forked from one that had made requests" in said and "multiprocessing_context='spawn'" in said
    assert objects.get("one", 1) == b"1"


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:9000", "localhost", "http://127.0.0.1:1 "])
@pytest.mark.parametrize(
    ("url", "variable"),
    [
        *(("s3://x/y", name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")),
        *(("gs://x/y", "GOOGLE_BASE_URL"), ("az://x/y", "AZURE_STORAGE_ENDPOINT")),
    ],
)
def test_an_endpoint_that_is_no_url_is_named(url, variable, endpoint, monkeypatch):
    monkeypatch.setenv(variable, endpoint)
    with pytest.raises(SettingError, match=rf"^{variable} is '{endpoint}'; expected a URL"):
        open_objects(url)


def test_where_obstore_panics_it_is_an_error_as_any_other(bucket, monkeypatch):
    """Its panics are no Exceptions: nothing would catch them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a\nb")
    with pytest.raises(RemoteError, match=r"^s3://photos/one: obstore stopped: .*; is what the environment says"):
        open_objects(bucket).get("one", limit=1)


def test_what_is_a_url():
    assert is_url("s3://bucket/photos") and is_url("file:///photos") and is_url("ftp://host/photos")
    assert not is_url("photos") and not is_url("C:\\photos") and not is_url(None)
    assert not is_url("https://example.org/photos.tar.gz")
    assert without_secrets("s3://key:secret@bucket/photos/?token=1") == "s3://bucket/photos"


def test_without_obstore_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    with pytest.raises(
        RemoteError, match=r"needs obstore, which is not installed: pip install 'headstart\[remote\]'"
    ):
        open_objects("s3://bucket/photos")
