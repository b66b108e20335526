"""Downloads of published files. A file with its final name is complete and has the published checksum;
until then it is called `<name>.part`, and what it holds is used by the next attempt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headstart.common.errors import DownloadError, SettingError
from headstart.common.progress import track
from headstart.common.removal import begun, continued

BLOCK = 1 << 20
TIMEOUT_SECONDS = 30.0


def fetch(url: str, target: Path, sha256: str, nbytes: int | None = None, limit: int | None = None) -> Path:
    """Download `url` to `target`, unless that exists with this checksum; returns `target`.

    `sha256`: the digest, or as many of its first digits as are published.
    An earlier attempt is resumed where the server can. At most `nbytes`, or `limit` where that is not known, are
    accepted. Raises `DownloadError` if the network fails (what came is kept for the next attempt), or if what
    came, or what lies at `target`, has another checksum.
    """
    if not url.startswith(("http://", "https://")):
        raise SettingError(f"cannot download {url!r}; expected an http:// or https:// address")
    if target.exists():
        actual = digest(target)
        if not actual.startswith(sha256):
            raise DownloadError(
                f"{target} is not what is published at {url}: its sha256 is {actual}, expected {sha256}; "
                "remove it to download it again"
            )
        return target
    partial = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if nbytes is None or begun(partial) != nbytes:
            _transfer(url, partial, nbytes, limit)
        actual = digest(partial)
        if not actual.startswith(sha256):
            size = partial.stat().st_size
            partial.unlink()
            raise DownloadError(
                f"{url} gave {size} bytes with sha256 {actual}, expected {sha256}; they were removed. "
                f"Try again, or download the file by hand to {target}"
            )
        partial.replace(target)
    except OSError as error:  # urllib's errors, time-outs, a full disk
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"cannot download {url}: {reason}; try again (what came is kept in {partial}), or download the "
            f"file by hand to {target}"
        ) from error
    return target


def digest(path: Path) -> str:
    """The file's sha256, 64 hex digits."""
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _transfer(url: str, partial: Path, nbytes: int | None, limit: int | None = None) -> None:
    import http.client
    import urllib.error
    import urllib.request

    have = begun(partial)
    headers = {"User-Agent": "headstart", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not have:
            raise OSError(f"the server answered {error.code} {error.reason}") from error
        partial.unlink()  # 416: the server's file ends before our partial does
        return _transfer(url, partial, nbytes, limit)
    except http.client.HTTPException as error:
        raise OSError(f"the server's answer is not HTTP: {error!r}") from error
    with answer:
        if not _resumes(answer, have):
            have = 0
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else nbytes
        with (
            track(f"downloading {url.rsplit('/', 1)[-1]}", total) as advance,
            continued(partial) as out,
        ):
            out.seek(have)
            out.truncate()
            advance(have)
            try:
                while block := answer.read(BLOCK):
                    if (most := nbytes or limit) is not None and have + len(block) > most:
                        what = f"the {nbytes} bytes published" if nbytes else f"{limit} bytes"
                        raise OSError(f"it is larger than {what}")
                    out.write(block)
                    have += len(block)
                    advance(len(block))
            except http.client.HTTPException as error:
                raise OSError(f"the connection broke off after {have} bytes") from error
    if total is not None and have < total:  # http.client does not mind a short body
        raise OSError(f"the connection broke off after {have} of {total} bytes")
    return None


def _resumes(answer: Any, have: int) -> bool:
    """Whether the answer's body goes on where our `have` bytes end; else it is the whole file."""
    return bool(
        have and answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    )
