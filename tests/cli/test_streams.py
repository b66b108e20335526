"""Standard streams that fail: text is lost, never a result; the exit code says so, and no traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headstart.cli import main as cli
from headstart.cli import rendering, streams
from headstart.cli.preparing import import_quietly
from headstart.cli.results import attempt, failures_told_last
from headstart.common import text
from headstart.common.errors import DeviceWarning, SettingError
from headstart.common.outputs import outdated, write_json, write_text
from headstart.common.table import Table
from headstart.contract import registry
from headstart.contract.devices import decide
from headstart.contract.recipe import Place

pytestmark = pytest.mark.neutral

FULL = Path("/dev/full")
HOSTILE = "a\x1b[31m\x07\u202e\udcff[/x][bold]:smile:\x9b2J\r"


class Failing(io.StringIO):
    """A stream whose reader has gone, whose disk is full, ..."""

    def __init__(self, code: int, after: int = 0) -> None:
        super().__init__()
        self.code, self.after = code, after

    def flush(self) -> None:
        if self.tell() > self.after:
            raise OSError(self.code, os.strerror(self.code))


def run(monkeypatch: pytest.MonkeyPatch, out: Any, *arguments: object) -> tuple[int, str]:
    err = io.StringIO()
    monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert sys.stdout is out
    return int(left.value.code or 0), err.getvalue()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EPIPE, errno.EIO])
@pytest.mark.parametrize("after", [0, 500])
def test_a_broken_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, after: int) -> None:
    got, err = run(monkeypatch, Failing(code, after), "models", "lenet", "--json", tmp_path / "models.json")
    assert got == streams.UNPRINTED
    assert len(json.loads((tmp_path / "models.json").read_text())) > 5
    assert err.count("\n") == (code != errno.EPIPE)
    assert (os.strerror(code) in err) == (code != errno.EPIPE)


def test_a_closed_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got, err = run(monkeypatch, None, "models", "lenet", "--json", tmp_path / "models.json")
    assert (got, len(err.splitlines())) == (streams.UNPRINTED, 1)
    assert (tmp_path / "models.json").is_file()


def test_a_mistake_stays_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, Failing(errno.EPIPE), "models", "nonsuch")[0] == 2


def test_a_process_with_closed_streams(tmp_path: Path) -> None:
    """What is opened first would get the number of a closed stream, and take what is printed there."""
    code = (
        "import os, sys\nfrom headstart.cli.streams import standard_streams\n"
        "with standard_streams() as (out, err):\n"
        f"    handle = os.open({str(tmp_path / 'file')!r}, os.O_WRONLY | os.O_CREAT)\n"
        "    os.write(handle, str(handle).encode()); print('lost'); os.write(1, b'lost'); os.write(2, b'lost')\n"
    )
    script = f'{sys.executable} -c "$CODE" >&- 2>&- <&-'
    subprocess.run(["sh", "-c", script], env={**os.environ, "CODE": code}, check=True)
    assert int((tmp_path / "file").read_text()) > 2


@pytest.mark.skipif(not FULL.exists(), reason="no full device")
def test_a_full_device_and_an_old_terminal(tmp_path: Path) -> None:
    """Of the process, with Python's own flush at its end."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "headstart", "models", "lenet", "--json", str(figures)]
    with FULL.open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (streams.UNPRINTED, 1), done.stderr
    assert figures.is_file()
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(command[:5], capture_output=True, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"conv1" in done.stdout and done.stdout.isascii()


def plain(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_nothing_printed_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(("name", HOSTILE), [(HOSTILE, HOSTILE)], title=HOSTILE, note=f"below {HOSTILE}")
    with streams.standard_streams():
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
    text.say(HOSTILE)
    rendering.show(table, f"a line of {HOSTILE}")
    rendering.show_legend(HOSTILE)
    out, err = capsys.readouterr()
    assert plain(out) and plain(err)
    assert out.count("[/x][bold]:smile:") >= 5, "and nothing in it is markup"
    assert "below" in out


def test_a_terminal_keeps_its_colours_and_nothing_else() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    stream = streams.Stream(shown)
    stream.write("\x1b[31mred\x1b[0m\r\x1b[2K\x07\x1b]0;title\x9b")
    assert shown.getvalue() == "\x1b[31mred\x1b[0m\r\x1b[2K\\x07\\x1b]0;title\\x9b"


@pytest.mark.parametrize("command", [("fit",), ("sweep", "--lr", "0.1")])
def test_where_nothing_can_be_written_is_said_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Before anything is trained, or even read: there are no such data."""
    (tmp_path / "file").write_text("mine")
    for option, path in (("--out", "file"), ("--out", "file/run"), ("--json", "file/a.json"), ("--json", "")):
        got, err = run(monkeypatch, io.StringIO(), *command, "--data", "none", option, tmp_path / path)
        assert (got, err.count("\n")) == (2, 1)
        assert "cannot be written" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_what_is_made_of_other_figures_goes(tmp_path: Path) -> None:
    """A report that stands beside new figures says something else than they do."""
    for name in ("report.html", "target.html"):
        (tmp_path / name).write_text("old")
    (tmp_path / "link.html").symlink_to("target.html")
    for name in ("report.html", "link.html", "missing.html"):
        outdated(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "target.html"]


# --- files that are none


def read_in_thread(path: Path) -> tuple[threading.Thread, list[str]]:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(path.read_text()))
    thread.start()
    return thread, found


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SettingError, match="pipe: cannot be written"):
        write_json(pipe, {})  # nobody reads it: no wait without end
    thread, found = read_in_thread(pipe)
    for _ in range(1000):
        try:
            write_json(pipe, {"a": "b" * 100_000})
            break
        except SettingError:  # not open yet
            thread.join(0.01)
    thread.join()
    assert json.loads(found[0]) == {"a": "b" * 100_000}
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_device_is_written_to(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
        device.write_text("")
    except OSError:
        pytest.skip("devices can be made by root only")
    write_text(device, "nothing")
    assert device.is_char_device()
    (tmp_path / "link").symlink_to(device)
    write_text(tmp_path / "link", "nothing")
    assert device.is_char_device()


def test_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(f"there/{name}.json")
    (tmp_path / "there/old.json").write_text("old")
    for name in ("old", "new"):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / f"there/{name}.json").read_text() == "text"
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["new.json", "old.json"]


def test_what_killed_writers_left_goes_with_the_next(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    left, other = tmp_path / f".partial-{'0' * 32}", tmp_path / ".partial-notes"
    for path in (left, other):
        path.write_text("half")
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # somebody else is writing: it may be theirs
    write_text(tmp_path / "figures.json", "{}")
    assert left.exists()
    os.close(handle)
    write_text(tmp_path / "figures.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-notes", "figures.json"]


# --- what a framework says while it is imported


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("pass", False),
        ("os.abort()", True),
        ("os._exit(3)", True),
        ("raise RuntimeError", True),
        ("raise SettingError('one line')", False),
    ],
)
def test_last_words_are_shown(body: str, shown: bool) -> None:
    code = (
        "import os\nfrom headstart.cli.streams import quietly\nfrom headstart.common.errors import SettingError\n"
        f"with quietly():\n    os.write(2, b'last words')\n    {body}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ("last words" in done.stderr) == shown
    assert (done.returncode == 0) == (body == "pass")


# Arguments, and results that cannot be written -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "--out", ""], "error: the value of --out is empty; is a variable of the shell not set?"),
        (["fit", "--out="], "error: the value of --out is empty"),
        (["predict", "--run", "run", ""], "error: an argument is empty"),
        (["models", "--json", "-"], "error: --json -: - stands for no file here: /dev/stdout is"),
        (["models", "--json=-"], "error: --json -: - stands for no file here: /dev/stdout is"),
        (["fit", "--separator", "-", "--nonsense"], "error: unknown option --nonsense"),
        (["predict", "--run", "run", "-"], "error: - stands for no file here"),
    ],
)
def test_arguments_that_no_command_can_mean(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], said: str
) -> None:
    """An empty path would be the current folder."""
    monkeypatch.chdir(tmp_path)
    code, err = run(monkeypatch, io.StringIO(), *arguments)
    assert code == 2 and err.startswith(said) and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_current_folder_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, err = run(monkeypatch, io.StringIO(), "cache", "ls")
    monkeypatch.chdir(tmp_path)
    assert code == 2 and err.startswith("error: the current folder cannot be found") and err.count("\n") == 1


def test_what_cannot_be_written_is_told_last() -> None:
    def fails() -> int:
        raise SettingError("the first")

    said = []
    with pytest.raises(SettingError, match="the first"), failures_told_last():
        assert attempt(lambda: 3) == 3 and attempt(fails) is None
        said.append("all")
    assert said == ["all"]
    with pytest.raises(KeyError), failures_told_last():
        attempt(fails)
        raise KeyError
    with failures_told_last():
        pass


def test_a_device_that_does_not_compute_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while a framework is imported, when all that it says is put aside, but when its place is decided."""

    def trial(device: str) -> None:
        raise RuntimeError("no kernel image")

    def place(device: str, precision: str) -> Place:
        return Place(decide("name", device, ("cuda",), lambda kind: 1, trial), precision)

    monkeypatch.setattr(registry, "load", lambda name: SimpleNamespace(place=place))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        import_quietly("jax", "auto")
        assert not seen
        assert place("auto", "float32") == Place("cpu", "float32")
    assert [warning.category for warning in seen] == [DeviceWarning]


def test_the_first_framework_alone_is_watched_and_kept_from_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside another backend's, which may run already as the export of one's run is written by another's, no
    process is forked; nor is what has become garbage meanwhile kept for good."""
    asked, frozen = [], []

    @contextlib.contextmanager
    def quietly(watched: bool) -> Iterator[None]:
        asked.append(watched)
        yield

    monkeypatch.setattr("headstart.cli.preparing.quietly", quietly)
    monkeypatch.setattr(registry, "load", lambda name: SimpleNamespace(place=lambda *_: None))
    monkeypatch.setattr(registry, "installed", registry.names)
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(len(asked)))
    for name in registry.names():
        for module in registry.describe(name).modules:
            monkeypatch.delitem(sys.modules, module, raising=False)
    import_quietly("torch", "cpu")
    monkeypatch.setitem(sys.modules, registry.describe("jax").modules[-1], SimpleNamespace())
    import_quietly("torch", "cpu")
    assert asked == [True, False]
    assert frozen == [1]
