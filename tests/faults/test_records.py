"""Two thousand edited comparisons and runs: `tests/common/test_read_records.py` at length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_read_records as records
from test_read_records import _any_backend, figures

__all__ = ["_any_backend", "figures"]

COUNT = 2500


@pytest.mark.parametrize("kind", ["comparisons", "runs"])
def test_edited(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, figure: Callable[[str], Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(records, "COUNT", COUNT)
    with figure(f"{kind} that were edited, read") as it:
        it.count, it.result = COUNT, "read, or one typed line"
        if kind == "runs":
            records.test_runs_that_were_edited(tmp_path)
        else:
            records.test_comparisons_that_were_edited(request.getfixturevalue("figures"), tmp_path)
