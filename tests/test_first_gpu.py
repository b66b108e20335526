"""The program that is run where a GPU is lent for a while: a step that hangs or crashes costs one figure, and its
bound is that of a roofline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import first_gpu
import numpy as np
import pytest
from first_gpu import Report, Step
from roof import roof

import headstart as hs
from headstart.contract import registry

pytestmark = pytest.mark.neutral
STEPS = """
import json, os, sys, time
print(json.dumps({"figure": 1.5}), flush=True)
print("a library's chatter", flush=True)
if sys.argv[1] == "hang":
    time.sleep(600)
if sys.argv[1] == "crash":
    print("out of memory", file=sys.stderr)
    os._exit(7)
print(json.dumps({"arguments": json.loads(sys.argv[2]), "engine": os.environ["KERAS_BACKEND"]}), flush=True)
"""


def test_what_a_step_has_told_survives_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first_gpu_steps.py").write_text(STEPS)
    monkeypatch.setattr(first_gpu, "HERE", tmp_path)
    report = Report(tmp_path / "report.json")
    for name, seconds in (("hang", 1.0), ("crash", 60.0), ("end", 60.0)):
        first_gpu.run(Step(name, 60, "keras", "jax", {"model": "m"}), report, seconds, small=True)
    records = json.loads((tmp_path / "report.json").read_text())
    told = [{key: value for key, value in record.items() if key != "at"} for record in records]
    assert told[0::2][:3] == [
        {"step": f"{name} keras on jax m", "figure": 1.5} for name in ("hang", "crash", "end")
    ]
    assert told[1]["stopped"] == "after 1 s"
    assert (told[3]["failed"], told[3]["error"]) == (7, "out of memory\n")
    assert told[5]["arguments"] == {"small": True, "model": "m"}
    assert told[5]["engine"] == "jax"


def test_the_bound_is_the_longer_of_both_terms_layer_by_layer() -> None:
    model = hs.model("resnet50", classes=10)
    bound = roof(model, "avgpool", operations=798e12, bandwidth=3.0e12)
    assert bound.layers < min(bound.arithmetic, bound.traffic)
    # 4.09 billion multiply-adds, the classifier's two million aside
    assert bound.arithmetic == pytest.approx(798e12 / (2 * 4.087e9), rel=0.01)
    free = roof(model, "avgpool", operations=798e12, bandwidth=float(np.finfo(np.float64).max))
    assert free.layers == pytest.approx(free.arithmetic)


def test_a_checkout_runs_where_nothing_is_installed(tmp_path: Path) -> None:
    """`-S` hides every installed package, so that only what the program arranges is left; numpy and the like come
    by PYTHONPATH."""
    site = str(Path(np.__file__).parents[1])
    code = "import checkout; checkout.importable(); import headstart; from headstart.contract import registry; "
    code += "print(headstart.__file__, registry.names())"
    benchmarks = Path(first_gpu.__file__).parent
    shadow = tmp_path / "site"
    shadow.mkdir()
    for path in Path(site).iterdir():
        if not path.name.lower().startswith(("headstart", "__editable__")) and path.suffix != ".pth":
            (shadow / path.name).symlink_to(path)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(benchmarks), str(shadow)]), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
    for name in registry.names():
        assert f"'{name}'" in done.stdout
