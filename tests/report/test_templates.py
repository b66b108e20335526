"""What Jinja makes of the report's templates is kept for the next process, and run only where it is sound."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from headstart.report import templates


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The templates that were compiled: each is opened anew, as by another process."""
    compiled: list[str] = []
    before = jinja2.Environment.compile

    def compile(self: jinja2.Environment, source: str, name: str, *more: object, **options: object) -> object:
        compiled.append(name)
        return before(self, source, name, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setattr(jinja2.Environment, "compile", compile)
    return compiled


def page() -> str:
    templates._environment.cache_clear()
    templates.template.cache_clear()
    try:
        return templates.template("layout.html").render(title="a < b", css="", js="", created=None, about="")
    finally:
        templates._environment.cache_clear()
        templates.template.cache_clear()


def test_a_second_process_compiles_nothing(opened: list[str]) -> None:
    first = page()
    assert "a &lt; b" in first and opened == ["layout.html"]
    assert page() == first and opened == ["layout.html"]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other code"])
def test_what_is_damaged_is_compiled_again(opened: list[str], tmp_path: Path, damage: str) -> None:
    first = page()
    (kept,) = (file for file in (tmp_path / "programs").rglob("*") if file.is_file())
    whole = kept.read_bytes()
    kept.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "changed": whole[:-9] + b"x" + whole[-8:],
            "empty": b"",
            "other code": whole[:65] + b"cos\nsystem\n(S'false'\ntR.",
        }[damage]
    )
    assert page() == first and opened == ["layout.html"] * 2
    assert kept.read_bytes() == whole


def test_nothing_is_run_from_a_folder_that_others_may_write_to(opened: list[str], tmp_path: Path) -> None:
    first = page()
    (folder,) = (tmp_path / "programs").iterdir()
    folder.chmod(0o777)
    assert page() == first and opened == ["layout.html"] * 2


def test_a_cache_that_cannot_be_written_is_no_hindrance(opened: list[str], tmp_path: Path) -> None:
    (tmp_path / "programs").write_text("no folder")
    assert page() == page() and opened == ["layout.html"] * 2
