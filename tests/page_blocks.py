"""What a page shows, run as its readers would run it: from the top to the bottom, in one namespace and one folder.

* A block of `python` is run.
* Of a block of `sh` each line is run: `headstart` in this process, programs of Python in their own processes, with
  `&` behind them until the page ends; `curl` asks such a server; `pip` is left out, since what it installs is here
  or cannot be.
* A block of `text` is what the block before it printed. Numbers may be others, `...` is anything, and a line of
  `...` any lines; all else is as it is shown.
* What cannot run everywhere is marked as Sybil has it, invisibly and with the reason:
  `<!-- skip: next "a cluster" -->`, `<!-- skip: next if("jax" not in backends, reason="JAX") -->`. Conditions know
  `backends`, those that are installed, and `quick`: whether long blocks are to be left out.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest import SkipTest
from urllib.request import urlopen

import yaml
from commands import headstart
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

ROOT = Path(__file__).parent.parent
NUMBER = re.compile(r"[-+=±~]?\d+(?:[.,:]\d+)*(?:e[-+]?\d+)?")
ASSIGNMENT = re.compile(r"[A-Z_]+=")
LIMIT = 1200
"""seconds, of a command that hangs: those that pages show take minutes, and more beside other work"""


@dataclass
class Page:
    """`skipped`: (line, reason) of the blocks that were left out."""

    path: Path
    namespace: dict[str, object]
    printed: str = ""
    skipped: list[tuple[int, str]] = field(default_factory=list)
    servers: ExitStack = field(default_factory=ExitStack)

    def run(self) -> None:
        """AssertionError, with file and line, where a block fails or prints what is not shown."""
        with self.servers:
            self._run()

    def _run(self) -> None:
        text = self.path.read_text("utf-8")
        if unknown := languages(text) - {"python", "sh", "text", "toml", "yaml"}:
            raise AssertionError(
                f"{self.path}: blocks of {sorted(unknown)}; expected python, sh, text, toml, yaml"
            )
        parsers = (
            SkipParser(),
            CodeBlockParser("python", self.python),
            CodeBlockParser("sh", self.shell),
            CodeBlockParser("text", self.compare),
            CodeBlockParser("toml", lambda example: tomllib.loads(example.parsed) and None),
            CodeBlockParser("yaml", lambda example: yaml.safe_load(example.parsed) and None),
        )
        document = Document.parse(str(self.path), *parsers)
        document.namespace.update(self.namespace)
        for example in document.examples():
            try:
                example.evaluate()
            except SkipTest as reason:
                self.skipped.append((example.line, str(reason)))
            except Exception as error:
                raise AssertionError(f"{self.path}:{example.line}: {type(error).__name__}: {error}") from error

    def python(self, example: Example) -> None:
        out = io.StringIO()
        with redirect_stdout(out):
            PythonEvaluator()(example)
        self.printed = out.getvalue()

    def shell(self, example: Example) -> None:
        printed = []
        for words in lines(example.parsed):
            if words[-1] == "&":
                self.servers.enter_context(serving(words[:-1]))
            else:
                printed.append(ran(words))
        self.printed = "".join(printed)

    def compare(self, example: Example) -> str | None:
        if re.search(pattern(example.parsed), plain(self.printed)):
            return None
        return f"shown is\n{example.parsed}\nbut printed was\n{self.printed}"


def languages(text: str) -> set[str]:
    """Of a page's blocks; "an indented one" for what has no fence."""
    fences = [line.removeprefix("```").strip() for line in text.splitlines() if line.startswith("```")]
    prose = re.sub(r"^```.*?^```$|^<!--.*?-->$", "", text, flags=re.DOTALL | re.MULTILINE)
    return {*fences[::2], *(["an indented one"] if re.search(r"^\n {4}", prose, re.MULTILINE) else [])}


def lines(block: str) -> Iterator[list[str]]:
    """The words of each command; `#` begins a comment, `\\` at a line's end goes on, `&&` is between two."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if word == "&&":
                yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words


def ran(words: list[str]) -> str:
    """What a command prints, errors too. AssertionError where it fails, or is not one of those that pages show."""
    words = [word.replace("$PWD", str(Path.cwd())) for word in words]
    if words[0] == "export":
        os.environ.update(dict(word.split("=", 1) for word in words[1:]))
        return ""
    before = dict(os.environ)
    while ASSIGNMENT.match(words[0]):
        os.environ.update([words.pop(0).split("=", 1)])
    try:
        match words[0]:
            case "headstart":
                code, out, err = headstart(*words[1:])
            case "python":
                done = subprocess.run(
                    python(words), env=beside_examples(), capture_output=True, text=True, timeout=LIMIT
                )
                code, out, err = done.returncode, done.stdout, done.stderr
            case "curl":
                code, out, err = 0, asked(words[1:]), ""
            case "pip":
                code, out, err = 0, "", ""
            case other:
                raise AssertionError(f"pages show headstart, python, curl, pip and export, not {other}")
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert code == 0, f"{shlex.join(words)} ended in {code}: {err}{out}"
    return err + out


def python(words: list[str]) -> list[str]:
    """`examples/...` is the repository's, wherever the page runs."""
    return [sys.executable, *(str(ROOT / word) if word.startswith("examples/") else word for word in words[1:])]


def beside_examples() -> dict[str, str]:
    """For `python -m examples.NAME`."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextmanager
def serving(words: list[str]) -> Iterator[None]:
    """A program that says where it is running once it answers, as uvicorn does; ended afterwards."""
    log = Path("server.log")
    with log.open("wb") as out, subprocess.Popen(python(words), env=beside_examples(), stderr=out) as server:
        try:
            while "running on http://" not in log.read_text("utf-8"):
                assert server.poll() is None, log.read_text("utf-8")
                time.sleep(0.05)
            yield
        finally:
            server.terminate()


def asked(words: list[str]) -> str:
    """What `curl [--data-binary @FILE] URL` prints."""
    match words:
        case ["--data-binary", file, url]:
            body: bytes | None = Path(file.removeprefix("@")).read_bytes()
        case [url]:
            body = None
        case _:
            raise AssertionError(f"pages show `curl [--data-binary @FILE] URL`, not {words}")
    with urlopen(url, body, timeout=30) as answer:
        return f"{answer.read().decode()}\n"


def plain(text: str) -> str:
    """One space between words, rules of one length, and 0 for every number."""
    spaced = "\n".join(re.sub("─+", "─", " ".join(line.split())) for line in text.splitlines())
    return NUMBER.sub("0", spaced)


def pattern(shown: str) -> str:
    parts = [re.escape(line) for line in plain(shown.strip("\n")).splitlines()]
    return "\n".join(parts).replace(re.escape("...") + "\n", r"(?:.*\n)*?").replace(re.escape("..."), ".*")
