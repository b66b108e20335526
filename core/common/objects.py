"""Objects behind a URL: a bucket of S3, Google Cloud or Azure, or a folder as `file://`, by the library obstore.

    objects = open_objects("s3://bucket/prefix")
    for entry in objects.entries("features/"): ...
    data = objects.get("features/3f2a.../trunk.json", limit=1 << 20)

Names are relative to the URL, with `/` between their parts. Credentials, endpoints and regions are obstore's own
business: environment variables, profiles, instance roles. None of them is stored here, and no text holds any.

Invariant: what fails is a RemoteError that names the object and the reason. What a server may answer another time
(5xx, a connection that breaks off) has then been tried again by obstore, within `RETRY_SECONDS`. Nothing waits for
ever, in a forked process neither.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import quote, urlsplit

from headstart.common.errors import (
    RemoteDamagedError,
    RemoteError,
    RemoteNotFoundError,
    RemoteRefusedError,
    SettingError,
)
from headstart.common.redact import HIDDEN, redacted
from headstart.common.text import shortened

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az", "file")
INSTALL = "pip install 'headstart[remote]'"
RETRIES = 5
RETRY_SECONDS = 60.0
"""after the first request, within which failed ones are made again"""
CONNECT_SECONDS = 10.0
TIMEOUT_SECONDS = 120.0
"""a request's, its body included"""
PIECE_NBYTES = 1 << 18  # of an object: on a slow line, an interrupt waits for one
PAGE = 1000  # objects that a listing's request answers
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
"""how servers say it"""
CREDENTIALS_OF_MACHINES = ("/latest/api/token", "/latest/meta-data", "/metadata/identity", "/computeMetadata/")
"""what clients ask the machine they run on for when the environment has none"""
CREDENTIALS = {
    "s3": "as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a bucket that everybody "
    "may read",
    "gs": "as GOOGLE_APPLICATION_CREDENTIALS, the path of a service account's key, or GOOGLE_SKIP_SIGNATURE=true "
    "for a bucket that everybody may read",
    "az": "as AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_SKIP_SIGNATURE=true for a "
    "container that everybody may read",
}
"""how the environment says them, by scheme"""
ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""variables that say where the server is, by scheme"""
PANIC = "PanicException"
"""pyo3's, which is no Exception: obstore has met what it did not expect"""
NO_ACCOUNT = "Account must be specified"
NO_NAME = ("Could not parse path", "Encountered object with invalid path")
"""how obstore says that it cannot name an object: one that was asked for, or one that a bucket has"""
UNREADABLE_NAME = (
    "such names, with a part that is empty, '.' or '..', or with control characters, are not read here; rename "
    "the object, or give a folder that does not hold it"
)

REFUSALS = ("status code: 401 ", "status code: 403 ")
"""how obstore says it of a listing, for which it has no errors of their own"""

FORKED = (
    "this process was forked from one that had made requests, and obstore's would wait for ever in it; have "
    "worker processes started by spawn or forkserver: multiprocessing.get_context('spawn'), or "
    "DataLoader(..., multiprocessing_context='spawn')"
)

Result = TypeVar("Result")


class _Process:
    """What this process may do with obstore, whose threads a fork does not take along."""

    has_asked = False
    is_cut_off = False

    @classmethod
    def was_forked(cls) -> None:
        cls.is_cut_off = cls.has_asked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Process.was_forked)


@dataclass(frozen=True)
class Entry:
    """An object, as a listing or a request says of it."""

    name: str
    """relative to the URL that was opened"""
    nbytes: int
    tag: str | None
    """the ETag: another one is another content"""
    modified: float
    """seconds since the epoch, by the server's clock"""


def is_url(text: object) -> bool:
    """Whether this names an object store, or something in one: `s3://bucket/prefix`. What has a scheme that is
    not known is one, too, for `open_objects` to refuse; a path, or `C:\\`, is none."""
    return isinstance(text, str) and "://" in text and not text.startswith(("http://", "https://"))


def without_secrets(url: str) -> str:
    """The URL as it may be shown: no user, no password, no query."""
    parts = urlsplit(url)
    if _is_odd(parts.netloc):  # as of a secret with a slash in it
        return f"{parts.scheme}://{HIDDEN}"
    return redacted(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/"))


def _is_odd(bucket: str) -> bool:
    """Whether a colon stands in a bucket's name: as a rule behind a user."""
    return ":" in bucket and "@" not in bucket


def normal_url(url: str) -> str:
    """The URL with the path as parts of names, none of them empty, "." or "..". What stands in a bucket's URL are
    names as they are: `%20` is no space there. In `file://` it is."""
    parts = urlsplit(url)
    if parts.scheme == "file" or not parts.netloc:
        return url
    start = url.index("://") + len("://")
    bucket, _, path = url[start:].partition("/")
    return url[:start] + bucket + posixpath.normpath("/" + path.lstrip("/")).rstrip("/")


def open_objects(url: str) -> Objects:
    """The objects under a URL, by its `normal_url`. Nothing is requested.

    SettingError for a URL of another kind, RemoteError where obstore is not installed or cannot use what the
    environment says (a region that is none, say)."""
    parts = urlsplit(url)
    if not (parts.query or parts.fragment):
        url = normal_url(url)
    shown = without_secrets(url)
    if parts.scheme not in SCHEMES:
        allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        if "://" not in url:
            folder = f"; a folder of this machine is {Path(url).absolute().as_uri()}" if url else ""
            raise SettingError(f"{url!r} is no URL; expected one that begins with {allowed}{folder}")
        raise SettingError(f"{shown} cannot be opened; expected a URL that begins with {allowed}")
    if parts.query or parts.fragment or "@" in parts.netloc or _is_odd(parts.netloc):
        raise SettingError(
            f"{shown}: a URL holds no credentials and no options here; set them in the environment, as "
            "AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL or AWS_PROFILE for S3"
        )
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise SettingError(f"{shown} names a folder of the machine {parts.netloc}; expected file:///folder")
    if parts.scheme != "file" and not parts.netloc:
        raise SettingError(f"{shown} names no bucket; expected {parts.scheme}://bucket/prefix")
    for variable in ENDPOINTS.get(parts.scheme, ()):
        endpoint = os.environ.get(variable)
        if endpoint is not None and not re.fullmatch(r"https?://\S+", endpoint):
            raise SettingError(
                f"{variable} is {redacted(endpoint)!r}; expected a URL, such as http://127.0.0.1:9000, or no such "
                "variable"
            )
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise RemoteError(shown, f"needs obstore, which is not installed: {INSTALL}") from None
    retrying: Any = {
        "max_retries": RETRIES,
        "retry_timeout": datetime.timedelta(seconds=RETRY_SECONDS),
        "backoff": {
            "init_backoff": datetime.timedelta(milliseconds=100),
            "max_backoff": datetime.timedelta(seconds=5),
            "base": 2,
        },
    }
    timing: Any = {
        "connect_timeout": datetime.timedelta(seconds=CONNECT_SECONDS),
        "timeout": datetime.timedelta(seconds=TIMEOUT_SECONDS),
        "allow_http": True,  # only an endpoint that the environment names is anything but https
    }
    try:
        if parts.scheme == "file":
            from urllib.request import url2pathname  # slow to import

            return Objects(shown, partial(_folder_client, Path(url2pathname(parts.path))))
        bucket = "/".join(url.split("/", 3)[:3])  # from_url takes "%20" for a space, and names hold what they hold
        client = from_url(bucket + quote(url[len(bucket) :]), client_options=timing, retry_config=retrying)
        return Objects(shown, lambda writing: client)
    except (BaseError, ValueError) as error:
        reason = said_by_client(error)
        if NO_ACCOUNT in reason:
            raise RemoteRefusedError(shown, no_credentials(parts.scheme)) from error
        raise RemoteError(shown, reason) from error


class Objects:
    """The objects under one URL. Thread-safe; makes no request before it must."""

    def __init__(self, url: str, client: Callable[[bool], ObjectStore]) -> None:
        """`url`: as it may be shown. `client`: of obstore's, told whether something is going to be written."""
        self.url = url
        self._client = client

    def __repr__(self) -> str:
        return f"Objects({self.url!r})"

    def url_of(self, name: str) -> str:
        """An object's URL, as it may be shown."""
        return f"{self.url}/{name}" if name else self.url

    def entries(self, prefix: str = "", offset: str | None = None) -> Iterator[Entry]:
        """All objects whose names begin with `prefix`, a whole number of parts (`features/3f2a`), in no promised
        order; of a bucket, in that of their names, and with `offset` only those behind it. A request for every
        1,000."""
        import obstore

        with self._said(prefix):
            try:
                for page in obstore.list(self._client(False), prefix or None, offset=offset, chunk_size=PAGE):
                    for meta in page:
                        yield _entry(meta)
            except FileNotFoundError:  # a folder that is not there yet
                return

    def folders(self, prefix: str = "") -> tuple[list[str], list[Entry]]:
        """(names of the "folders" right under `prefix`, the objects right under it)."""
        import obstore

        with self._said(prefix):
            try:
                result = obstore.list_with_delimiter(self._client(False), prefix or None)
            except FileNotFoundError:
                return [], []
            return list(result["common_prefixes"]), [_entry(meta) for meta in result["objects"]]

    def entry(self, name: str) -> Entry:
        """What is known of one object. RemoteNotFoundError where there is none."""
        import obstore

        return self._asked(name, lambda: _entry(obstore.head(self._client(False), name)))

    def get(self, name: str, limit: int) -> bytes:
        """A whole object of at most `limit` bytes. RemoteNotFoundError where there is none."""
        return self.fetch(name, limit)[1]

    def fetch(self, name: str, limit: int) -> tuple[Entry, bytes]:
        """The same, with what the answer says of the object."""
        import obstore

        def read() -> tuple[Entry, bytes]:
            result = obstore.get(self._client(False), name)
            nbytes = result.meta["size"]
            if nbytes > limit:
                raise RemoteError(self.url_of(name), f"has {nbytes} bytes, at most {limit} are read")
            content = bytes(result.bytes())
            if len(content) != nbytes:
                raise RemoteError(self.url_of(name), f"gave {len(content)} of its {nbytes} bytes")
            return _entry(result.meta), content

        return self._asked(name, read)

    def pieces(self, name: str, nbytes: int) -> Iterator[memoryview]:
        """An object of `nbytes` bytes, piece by piece. RemoteDamagedError where it has another size, RemoteError
        where it ends early."""
        import obstore

        with self._said(name):
            result = obstore.get(self._client(False), name)
            if result.meta["size"] != nbytes:
                raise RemoteDamagedError(self.url_of(name), f"has {result.meta['size']} bytes, expected {nbytes}")
            received = 0
            for piece in result.stream(min_chunk_size=PIECE_NBYTES):
                received += len(piece)
                if received > nbytes:
                    break
                yield memoryview(piece)
            if received != nbytes:
                raise RemoteError(self.url_of(name), f"gave {received} bytes, expected {nbytes}")

    def get_range(self, name: str, start: int, nbytes: int) -> bytes:
        """`nbytes` bytes of an object from `start` on. RemoteError where it has fewer."""
        import obstore

        content = self._asked(
            name, lambda: bytes(obstore.get_range(self._client(False), name, start=start, length=nbytes))
        )
        if len(content) != nbytes:
            raise RemoteError(self.url_of(name), f"gave {len(content)} of {nbytes} bytes from {start} on")
        return content

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object whole, by one request: bytes, or what a file holds. An earlier one of that name is
        replaced."""
        import obstore

        # Of an upload in parts, a process that is killed leaves parts that are paid for and that nobody sees; and
        # its last request cannot be made again, where the answer was lost.
        self._asked(name, lambda: obstore.put(self._client(True), name, content, use_multipart=False))

    def delete(self, name: str) -> None:
        """Delete an object. One that is not there is none to delete."""
        import obstore

        with contextlib.suppress(RemoteNotFoundError):
            self._asked(name, lambda: obstore.delete(self._client(False), name))

    def _asked(self, name: str, request: Callable[[], Result]) -> Result:
        with self._said(name):
            return request()

    @contextlib.contextmanager
    def _said(self, name: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        if _Process.is_cut_off:
            raise RemoteError(self.url_of(name), FORKED)
        _Process.has_asked = True
        try:
            yield
        except (BaseError, OSError) as error:
            self._raise(name, error)
        except ValueError as error:  # of a name that obstore does not ask for
            if not any(said in str(error) for said in NO_NAME):
                raise
            self._raise(name, error)
        except BaseException as error:
            if type(error).__name__ != PANIC:
                raise
            raise RemoteError(
                self.url_of(name),
                f"obstore stopped: {said_by_client(error)}; is what the environment says of servers and "
                "credentials as it should be?",
            ) from None

    def _raise(self, name: str, error: Exception) -> NoReturn:
        from obstore.exceptions import NotFoundError, PermissionDeniedError, UnauthenticatedError

        url, reason = self.url_of(name), said_by_client(error)
        if any(asked in str(error) for asked in CREDENTIALS_OF_MACHINES):
            raise RemoteRefusedError(url, no_credentials(urlsplit(url).scheme)) from error
        if any(said in reason for said in NO_NAME):
            raise RemoteError(url, f"{reason}: {UNREADABLE_NAME}") from error
        if any(said in str(error) for said in NO_BUCKET):
            raise RemoteNotFoundError(url, "there is no such bucket") from error
        if isinstance(error, NotFoundError | FileNotFoundError):
            raise RemoteNotFoundError(url, "there is no such object") from error
        refused = isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError)
        if refused or any(status in reason for status in REFUSALS):
            raise RemoteRefusedError(url, f"access was refused ({reason})") from error
        raise RemoteError(url, reason) from error


def _folder_client(folder: Path, writing: bool) -> ObjectStore:
    """FileNotFoundError for a folder that is not there, unless it is made to be written into."""
    from obstore.store import LocalStore

    if not writing and not folder.is_dir():
        raise FileNotFoundError(folder)
    return LocalStore(folder, mkdir=writing)


def no_credentials(scheme: str) -> str:
    """That there are none, and how the environment says them to a store of this kind."""
    return f"no credentials were found; set them in the environment, {CREDENTIALS[scheme]}"


def said_by_client(error: BaseException) -> str:
    """Why a request failed, on one line: what obstore says, without its debugging output."""
    text = " ".join(str(error).split("\n\nDebug source:")[0].split())
    return shortened(redacted(text), 300)


def _entry(meta: Any) -> Entry:
    return Entry(
        name=meta["path"], nbytes=meta["size"], tag=meta["e_tag"], modified=meta["last_modified"].timestamp()
    )
