"""Weights on the Hugging Face hub: how the file that is meant gets here.

* Which file that is, by commit and digest, is in `headstart.models.pins`.
* Files are kept in huggingface_hub's own cache. timm and others find there what headstart has downloaded, and
  headstart what they have.
* Invariant: a file gets its name in that cache once its bytes have the digest, never before. Until then it is
  called `<sha256>.headstart.incomplete`, and the next attempt goes on where it ends. huggingface_hub's own
  download begins again after an interrupt, and does not verify digests.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from headstart.common.download import digest
from headstart.common.errors import DownloadError, HeadstartError, SettingError
from headstart.common.places import expanded
from headstart.common.progress import track
from headstart.common.removal import BehindLinkError, begun, continued, delete
from headstart.common.sizes import binary_size
from headstart.models.architecture import Hub
from headstart.models.pins import Pin, pinned, record, stated

MAIN = "main"
# Answers of a hub that is busy or broken, which may be better a moment later.
PASSING = (408, 429, 500, 502, 503, 504)
ATTEMPTS = 4  # one after the other, without a byte of progress
RETRY_SECONDS = 1.0  # before the second; doubled with each

T = TypeVar("T")


class _UnreachableError(DownloadError):
    """No answer, or none that says anything of the file; a copy that is here already may be used."""


def fetch(published: Hub) -> Path:
    """The path of the file in huggingface_hub's cache, downloaded into it if need be. Its bytes have the
    digest that it is pinned to.

    A pinned copy that is here is used without asking anybody. Raises DownloadError.
    """
    pin = pinned(published)
    path, note = _cached(published, pin)
    if path is not None:
        return path
    try:
        answered, nbytes = _ask(published, pin)
    except DownloadError as error:
        if isinstance(error, _UnreachableError) and (local := _from_before(published, pin)) is not None:
            path, answered = local
            record(published, answered)
            return path
        raise DownloadError(f"{note}{error}") from error
    path = _obtain(published, answered, nbytes)
    if not pin.complete:
        record(published, answered)
    return path


def update(published: Hub) -> tuple[Pin, Pin]:
    """Fetch what the hub's `main` holds now, and hold on to that; returns the pins before and after.

    Raises SettingError where the release of headstart states the pin, DownloadError.
    """
    if stated(published).sha256 is not None:
        raise SettingError(
            f"{published.repo} is pinned by this release of headstart; a newer release may pin another"
        )
    before = pinned(published)
    found, nbytes = _ask(published, Pin(published.revision))
    _obtain(published, found, nbytes)
    record(published, found)
    return before, found


def here(published: Hub) -> bool:
    """Whether the cache holds the file of `published`; its content is not verified."""
    pin = pinned(published)
    return any(path.is_file() for path in _places(published, pin)) or (
        pin.sha256 is None and _main(published) is not None
    )


def resolve(published: Hub, pin: Pin | None = None) -> Pin:
    """What the hub says of the file now, or of `pin`, without downloading it."""
    return _ask(published, pin or Pin(published.revision, published.sha256))[0]


def shapes(published: Hub, pin: Pin) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in the file at `pin`, from its header alone."""
    from huggingface_hub import HfApi

    with _errors(published, str(pin.revision)):
        header = HfApi().parse_safetensors_file_metadata(published.repo, published.file, revision=pin.revision)
    return {name: tuple(tensor.shape) for name, tensor in header.tensors.items()}


# ---- the cache


def _folder(published: Hub) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return expanded(constants.HF_HUB_CACHE).resolve() / repo_folder_name(repo_id=published.repo, repo_type="model")


def _places(published: Hub, pin: Pin) -> list[Path]:
    """Where the cache has the file if it has it: by commit, and by content, which other commits share."""
    folder, places = _folder(published), []
    if pin.revision is not None:
        places.append(folder / "snapshots" / pin.revision / published.file)
    if pin.sha256 is not None:
        places.append(folder / "blobs" / pin.sha256)
    return places


def _cached(published: Hub, pin: Pin) -> tuple[Path | None, str]:
    """(the cached file with the pinned digest, or None; what was wrong with a copy that is now removed).

    A blob is called by its digest, so one with other bytes is damaged, and nobody else can want it.
    """
    note = ""
    if pin.sha256 is None:
        return None, note
    for path in _places(published, pin):
        if not path.is_file():
            continue
        if (sha256 := digest(path)) == pin.sha256:
            return path, note
        blob = _folder(published) / "blobs" / pin.sha256
        if path.is_symlink() and path.readlink().name != pin.sha256:
            raise DownloadError(_not_pinned(published, path, sha256, pin))
        for damaged in (path, blob) if blob.exists() and blob.samefile(path) else (path,):
            _delete(damaged)  # of links themselves, where they lead out of the cache
        note = f"{path} was damaged (sha256 {sha256}, not {pin.sha256}) and is removed; "
    return None, note


def _delete(path: Path) -> None:
    """Delete a file of the cache; DownloadError where it lies behind a link, or cannot be deleted."""
    from huggingface_hub import constants

    try:
        delete(path, expanded(constants.HF_HUB_CACHE).resolve())
    except BehindLinkError as error:
        raise DownloadError(
            f"{path} is not what it should be, and stays: {error.filename} is a link, and nothing behind links is "
            "deleted. Remove it by hand, or name the place that the link leads to (HF_HUB_CACHE)"
        ) from error
    except OSError as error:
        raise DownloadError(
            f"{path} is not what it should be, and cannot be deleted ({error.strerror or error}); remove it by "
            "hand"
        ) from error


def _not_pinned(published: Hub, path: Path, found: str, pin: Pin) -> str:
    return (
        f"{path} has sha256 {found}, but {published.repo} is pinned to {pin.sha256}; it is not used. "
        "Remove it to have the pinned file there"
    )


def _main(published: Hub) -> Path | None:
    """The copy that the cache knows as the repository's `main`, by whomever it was downloaded."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(published.repo, published.file, revision=MAIN)
    return Path(path) if isinstance(path, str) else None


def _from_before(published: Hub, pin: Pin) -> tuple[Path, Pin] | None:
    """A copy of the wanted commit, or of `main`, that was here before the first use, and what it pins."""
    if pin.sha256 is not None:
        return None
    path = next((p for p in _places(published, pin) if p.is_file()), None) or _main(published)
    if path is None or (pin.revision is not None and pin.revision not in path.parts):
        return None
    found, blob = digest(path), path.resolve().name
    if len(blob) == 64 and found != blob:
        return None  # damaged: better none
    return path, Pin(path.parents[len(Path(published.file).parts) - 1].name, found)


# ---- the network


def _ask(published: Hub, pin: Pin) -> tuple[Pin, int]:
    """The pin completed with what the hub says, and the file's size; DownloadError where the two differ."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    revision = pin.revision or MAIN
    with _errors(published, revision):
        url = hf_hub_url(published.repo, published.file, revision=revision)
        about = _patiently(lambda: get_hf_file_metadata(url))
    try:
        answered = Pin(about.commit_hash, about.etag)
    except SettingError:
        answered = Pin()
    if not answered.complete or not about.size:
        raise DownloadError(
            f"{url} does not answer as a file with a sha256 in a repository of the hub (commit "
            f"{about.commit_hash}, etag {about.etag}, {about.size} bytes); does HF_ENDPOINT point to a hub?"
        )
    if pin.filled(answered) != answered:
        raise DownloadError(
            f"the hub gives {url} as sha256 {answered.sha256} of commit {answered.revision}, but pinned is sha256 "
            f"{pin.sha256} of commit {pin.revision or 'any'}; it is not downloaded"
        )
    return answered, about.size


def _obtain(published: Hub, pin: Pin, nbytes: int) -> Path:
    """Download the file of a complete pin into the cache, unless its bytes are there; returns its path."""
    from huggingface_hub import hf_hub_download, hf_hub_url
    from huggingface_hub.utils import WeakFileLock

    assert pin.sha256 is not None
    folder = _folder(published)
    blob = folder / "blobs" / pin.sha256
    # huggingface_hub takes the same lock, so its downloads and ours wait for each other. Where a file system's
    # locks do nothing, two may write one partial file; its digest is wrong then, and it is not used.
    lock = folder.parent / ".locks" / folder.name / f"{pin.sha256}.lock"
    with _errors(published, str(pin.revision)):
        for place in (blob, lock):
            place.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not blob.is_file() or digest(blob) != pin.sha256:
                partial = blob.with_name(f"{blob.name}.headstart.incomplete")
                _transfer(
                    hf_hub_url(published.repo, published.file, revision=pin.revision),
                    partial,
                    nbytes,
                    published.repo,
                )
                if (found := digest(partial)) != pin.sha256:
                    size = partial.stat().st_size
                    _delete(partial)
                    raise DownloadError(
                        f"{published.repo}: {size} bytes came with sha256 {found}, expected {pin.sha256}; they "
                        f"were removed and nothing of them is used. Try again{_by_hand(published, pin.revision)}"
                    )
                partial.replace(blob)
        path = Path(hf_hub_download(published.repo, published.file, revision=pin.revision))
    if not path.samefile(blob):
        if (found := digest(path)) != pin.sha256:
            raise DownloadError(_not_pinned(published, path, found, pin))
        if not path.is_symlink():
            _delete(blob)  # without symbolic links the cache made a copy: one is enough
    return path


def _transfer(url: str, partial: Path, nbytes: int, what: str) -> None:
    """Append to `partial` until it has `nbytes`, going on where it ends, through a few broken connections."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    have = begun(partial)
    if have > nbytes:
        _delete(partial)
        have = 0
    if (free := shutil.disk_usage(partial.parent).free) < nbytes - have:
        raise DownloadError(
            f"{what}: {binary_size(nbytes - have)} are to come, and {binary_size(free)} are free in "
            f"{partial.parent}; free some space or set HF_HOME to another disk"
        )
    failures, reached = 0, have
    with track(f"downloading {what}", nbytes) as advance, continued(partial) as out:
        out.seek(have)
        advance(have)
        while have < nbytes:
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            try:
                with get_session().stream(
                    "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
                ) as answer:
                    if have and answer.status_code == 416:
                        out.truncate(0)
                        raise DownloadError(
                            f"{url} ends before the {nbytes} bytes announced; what came was removed. Try again"
                        )
                    hf_raise_for_status(answer)
                    if have and answer.status_code != 206:  # the whole file: the server knows no ranges
                        advance(-have)
                        have = 0
                        out.seek(0)
                        out.truncate()
                    # as the bytes come: what is collected to larger blocks would be lost with the connection
                    for block in answer.iter_bytes():
                        if have + len(block) > nbytes:
                            raise DownloadError(f"{url} gave more than the {nbytes} bytes announced")
                        out.write(block)
                        have += len(block)
                        advance(len(block))
                if have < nbytes:
                    raise ConnectionError(f"the connection broke off after {have} of {nbytes} bytes")
            except Exception as error:
                failures, reached = (1, have) if have > reached else (failures + 1, reached)
                if not _passes(error) or failures >= ATTEMPTS:
                    raise
                out.flush()
                time.sleep(RETRY_SECONDS * 2 ** (failures - 1))


def _patiently(call: Callable[[], T]) -> T:
    """What `call` returns, asked again where the hub is busy or broken; not where it cannot be reached, since a
    copy may be here to go on with."""
    from huggingface_hub.errors import HfHubHTTPError

    for failures in range(ATTEMPTS - 1):
        try:
            return call()
        except HfHubHTTPError as error:
            if not _passes(error):
                raise
            time.sleep(RETRY_SECONDS * 2**failures)
    return call()


def _passes(error: Exception) -> bool:
    """Whether what went wrong may be better a moment later: not our own refusals, the disk's, or the hub's."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING
    return not isinstance(error, HeadstartError) and not (isinstance(error, OSError) and error.errno is not None)


def _by_hand(published: Hub, revision: str | None) -> str:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(published.repo, published.file, revision=revision or MAIN)
    return f"; or download {url} by hand and pass the file's path as weights="


@contextlib.contextmanager
def _errors(published: Hub, revision: str) -> Iterator[None]:
    """Turn what huggingface_hub raises, and what its HTTP library does, into errors that say how to go on."""
    from huggingface_hub import constants, errors

    what = f"{published.repo}/{published.file}"
    by_hand = _by_hand(published, revision)
    try:
        yield
    except HeadstartError:
        raise
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{what}: its authors want to be asked. Accept their terms at {constants.ENDPOINT}/{published.repo}, "
            "log in with `hf auth login` or set HF_TOKEN, and try again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{constants.ENDPOINT} has no repository {published.repo}, or only for those who are logged in "
            f"(`hf auth login`, or HF_TOKEN); HF_ENDPOINT chooses the hub{by_hand}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{published.repo} has no commit {revision}{by_hand}") from error
    except errors.OfflineModeIsEnabled as error:
        raise _UnreachableError(
            f"{what} is not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids to ask for it; unset it, or "
            "copy the cache from a machine that has the file"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _UnreachableError(f"{what}: {constants.ENDPOINT} cannot be reached; try again{by_hand}") from error
    except errors.EntryNotFoundError as error:
        raise DownloadError(f"{published.repo} has no file {published.file} at {revision}{by_hand}") from error
    except errors.HfHubHTTPError as error:
        answered = f"{what}: the hub answered {error.response.status_code} {error.response.reason_phrase}"
        if error.response.status_code in PASSING:
            raise _UnreachableError(f"{answered}; what came is kept, try again later{by_hand}") from error
        raise DownloadError(f"{answered}; check HF_TOKEN if it is set{by_hand}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"{what}: the disk of {constants.HF_HUB_CACHE} is full; what came is kept. Free some space or set "
                "HF_HOME to another disk"
            ) from error
        raise DownloadError(
            f"{what}: {error}; what came is kept in {constants.HF_HUB_CACHE}, try again"
        ) from error
    except Exception as error:  # of the HTTP library, which is another one from version to version
        raise _UnreachableError(
            f"{what}: {constants.ENDPOINT} cannot be reached ({str(error) or type(error).__name__}); what came is "
            f"kept, try again{by_hand}"
        ) from error


def table_of_pins(
    files: Mapping[str, Hub], known: Mapping[str, Pin], moved: bool = False
) -> tuple[dict[str, Pin], dict[str, HeadstartError]]:
    """(pins of all `files`, errors by key): `known` ones are confirmed, or with `moved` taken anew from `main`."""
    pins: dict[str, Pin] = dict(known)
    failed: dict[str, HeadstartError] = {}
    for name, published in files.items():
        try:
            pins[name] = resolve(published, Pin() if moved else known.get(name))
        except DownloadError as error:
            failed[name] = error
    return pins, failed
