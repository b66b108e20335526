"""Random configurations of an extraction: rows that are not those of their samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alignment import run_many

CONFIGURATIONS = 500


def test_alignment(tmp_path: Path, figure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with figure("random configurations of an extraction") as it:
        rows, interrupts = run_many(range(CONFIGURATIONS), tmp_path, monkeypatch)
        it.count = CONFIGURATIONS
        it.result = (
            f"{rows:,} rows, each that of its sample; {interrupts} extractions interrupted and taken up again"
        )
