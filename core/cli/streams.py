"""The command's standard streams: a reader that has gone, a full disk or a closed stream loses text and nothing
else, and no name from elsewhere steers a terminal.

Commands save first and print then; and a write to these streams never raises, so that one that prints too early
loses nothing either. What could not be printed is told once, and the exit code is 1.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from headstart.common.redact import redacted
from headstart.common.text import printable_lines

# What rich sends to a terminal: colours, and the moves of its bars.
_MOVES = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z]|\r)")
UNPRINTED = 1  # the exit code


class Stream(io.TextIOBase):
    """Stands for a standard stream while a command runs."""

    def __init__(self, inner: TextIO | None) -> None:
        self.inner = inner
        self.failure: OSError | None = None
        if inner is None:  # Python found it closed
            self.failure = OSError(errno.EBADF, "closed")

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.inner, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.inner is not None and self.inner.isatty()

    def fileno(self) -> int:
        if self.inner is None:
            raise io.UnsupportedOperation("fileno")
        return self.inner.fileno()

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"a text is expected, not {type(text).__name__}")
        if self.inner is not None and self.failure is None:
            with self._noting():
                self.inner.write(self._fit(text))
        return len(text)

    def flush(self) -> None:
        if self.inner is not None and self.failure is None:
            with self._noting():
                self.inner.flush()

    def _fit(self, text: str) -> str:
        """Without control characters and secrets, and in characters that the stream's encoding has."""
        text = redacted(text)  # libraries print, too
        if not (text.isascii() and text.replace("\n", "").isprintable()):
            if self.isatty():
                text = "".join(
                    part if i % 2 else printable_lines(part) for i, part in enumerate(_MOVES.split(text))
                )
            else:
                text = printable_lines(text)
        with contextlib.suppress(LookupError):
            text = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        return text

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
        except ValueError as error:  # of a file that was closed
            self.failure = OSError(errno.EBADF, str(error))


@contextlib.contextmanager
def standard_streams() -> Iterator[tuple[Stream, Stream]]:
    """While the body runs, `sys.stdout` and `sys.stderr` are such streams; yields both."""
    _open_closed()
    before = sys.stdout, sys.stderr
    out, err = Stream(before[0]), Stream(before[1])
    sys.stdout, sys.stderr = out, err
    try:
        yield out, err
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
        for number, stream in ((1, out), (2, err)):
            if stream.failure is not None and _is(stream.inner, number):
                _to_nowhere(number)  # else Python tries again as it ends, and says so


def unprinted(out: Stream) -> str | None:
    """What to say of text that was lost, None where nothing is to be said: nothing was lost, or its reader has
    gone and will not hear it."""
    if out.failure is None or out.failure.errno == errno.EPIPE:
        return None
    reason = out.failure.strerror or out.failure
    return (
        f"error: standard output: {reason}; files that were to be written are there, what was to be printed is not"
    )


def _open_closed() -> None:
    """A closed standard stream is opened to nowhere: the next file that is opened would get its number, and take
    whatever is printed there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)


def _to_nowhere(number: int) -> None:
    handle = os.open(os.devnull, os.O_RDWR)
    if handle != number:
        os.dup2(handle, number)
        os.close(handle)


def _is(stream: Any, number: int) -> bool:
    try:
        return bool(stream.fileno() == number)
    except (AttributeError, OSError, ValueError):
        return False


@contextlib.contextmanager
def quietly(watched: bool = True) -> Iterator[None]:
    """Put aside what is written to standard error meanwhile, also by code that is no Python: frameworks chat there
    as they are imported. Where the body fails, or the process dies in it, what was put aside is shown; the latter
    only if `watched`, for which this process forks: not where a framework runs in it already."""
    import tempfile  # not for --help

    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        watcher = _watcher(aside.fileno(), kept) if watched else None
        os.dup2(aside.fileno(), 2)
        shown = True
        try:
            yield
            shown = False
        except Exception as error:
            from headstart.common.errors import HeadstartError

            shown = not isinstance(error, HeadstartError)  # which says all in its one line
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            if watcher is not None:
                pid, pipe = watcher
                with contextlib.suppress(OSError):
                    os.write(pipe, b".")  # alive: it has nothing to do
                os.close(pipe)
                with contextlib.suppress(OSError):
                    os.waitpid(pid, 0)
            if shown:
                _show(aside.fileno(), kept)
            os.close(kept)


def _watcher(aside: int, stderr: int) -> tuple[int, int] | None:
    """A child that shows what was put aside if this process ends without a word; its id, and the pipe for the
    word."""
    if not hasattr(os, "fork"):
        return None
    try:
        receive, send = os.pipe()
        with warnings.catch_warnings():
            # of threads, numpy's for one, that the child has not: it needs none
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
    except OSError:
        return None
    if pid:
        os.close(receive)
        return pid, send
    try:  # in the child, which may only read and write
        os.close(send)
        if not os.read(receive, 1):
            _show(aside, stderr)
    finally:
        os._exit(0)


def _show(aside: int, stderr: int) -> None:
    with contextlib.suppress(OSError):
        os.lseek(aside, 0, os.SEEK_SET)
        while block := os.read(aside, 1 << 16):
            os.write(stderr, block)
