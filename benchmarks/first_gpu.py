"""What headstart does on this machine's GPU, in the time that one is lent for: `first_gpu.py --minutes 25`.

Right first, then fast. Every step runs in processes of its own with a limit of time, and what it finds is in the
file the moment that it is found, so that a crash, a hang or the end of the lease loses one figure and no more. The
most telling steps come first. Without a GPU it runs to the end on the CPU with small sizes.

It needs no installation of headstart, only a Python with at least one framework.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkout import ROOT, importable

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Step:
    """A process: a function of `first_gpu_steps.py` with its arguments, for a backend and maybe Keras's engine."""

    do: str
    seconds: int
    backend: str = ""
    engine: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        words = [self.do, self.backend + (f" on {self.engine}" if self.engine else "")]
        words += [value for value in self.arguments.values() if isinstance(value, str)]
        words += [f"{key}={value}" for key, value in self.env.items()]
        return " ".join(filter(None, words))


WAYS = (("torch", ""), ("jax", ""), ("keras", "jax"), ("keras", "torch"), ("keras", "tensorflow"))
"""a backend and the engine that it computes with"""
MODULES = {"torch": ("torch",), "jax": ("jax", "flax", "optax"), "keras": ("keras",)}


def there(backend: str, engine: str) -> bool:
    """Whether what it needs can be imported here."""
    from importlib.util import find_spec

    needed = (*MODULES[backend], *([engine] if engine else []))
    return all(find_spec(module) is not None for module in needed)


MODELS = ("resnet50", "vit_b_16", "vgg16", "vit_l_16")


def steps(ways: Sequence[tuple[str, str]], small: bool, quick: bool) -> list[list[Step]]:
    """Groups, one after the other; the steps of a group run side by side."""
    groups = [[Step("ceilings", 90, "torch" if ("torch", "") in ways else "jax")]]
    # Side by side: how long they take says nothing.
    groups.append([Step("conformance", 300, *way) for way in ways])
    groups.append([Step("features", 240, *way) for way in ways])
    for model in MODELS[:1] if small else MODELS:
        for way in ways:
            groups.append([Step("throughput", 75 if quick else 200, *way, {"model": model, "quick": quick})])
    for way in ways:
        groups.append([Step("heads", 120, *way)])
    groups.append([Step("photographs", 150, *ways[0])])
    groups += [[Step("memory", 90, *way)] for way in ways]
    groups.append([Step("repeats", 150, *way) for way in ways])
    return groups


class Report:
    """All that was found, in one file that is whole after every line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.start = time.monotonic()

    def add(self, step: Step, found: dict[str, Any]) -> None:
        record = {"at": round(time.monotonic() - self.start, 1), "step": step.name, **found}
        with self.lock:
            self.records.append(record)
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.records, indent=1), encoding="utf-8")
            partial.replace(self.path)
            words = ", ".join(f"{key} {shown(value)}" for key, value in found.items())
            print(f"{record['at']:7.1f} s  {step.name}: {words}"[:600], flush=True)


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def run(step: Step, report: Report, seconds: float, small: bool) -> None:
    """Run a step, at most so long, and report each line that it prints."""
    env = {**os.environ, **step.env, "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if step.backend:
        env["HEADSTART_BACKEND"] = step.backend
    if step.engine:
        env["KERAS_BACKEND"] = step.engine
    command = [
        sys.executable,
        str(HERE / "first_gpu_steps.py"),
        step.do,
        json.dumps({"small": small, **step.arguments}),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=ROOT,
        start_new_session=True,
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop)
    timer.start()
    assert process.stdout is not None and process.stderr is not None
    said: list[str] = []
    errors = threading.Thread(target=lambda: said.extend(process.stderr))  # type: ignore[arg-type]
    errors.start()
    for line in process.stdout:
        if line.startswith("{"):
            report.add(step, json.loads(line))
    code = process.wait()
    timer.cancel()
    errors.join()
    process.stdout.close()
    process.stderr.close()
    if late.is_set():
        report.add(step, {"stopped": f"after {seconds:.0f} s"})
    elif code:
        report.add(step, {"failed": code, "error": "".join(said[-12:])[-1500:]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25, help="in all (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("first_gpu.json"), help="default: %(default)s")
    parser.add_argument("--only", default="", metavar="WORDS", help="steps whose name holds one of these, a,b,c")
    parser.add_argument("--without", default="", metavar="WORDS", help="no step whose name holds one of these")
    parser.add_argument("--quick", action="store_true", help="rates of float32 and bfloat16 only, and of no peers")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print what such a file says, and run nothing")
    parser.add_argument("--list", action="store_true", help="print the steps and their limits, and run none")
    arguments = parser.parse_args()
    importable()
    if arguments.table:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))))
        return
    ways = [way for way in WAYS if there(*way)]
    if not ways:
        parser.error("no framework can be imported here: install torch, or jax with flax and optax, or keras")
    small = not gpu_here()
    only, without = (list(filter(None, text.split(","))) for text in (arguments.only, arguments.without))
    groups = [
        [
            step
            for step in group
            if (not only or any(word in step.name for word in only))
            and not any(word in step.name for word in without)
        ]
        for group in steps(ways, small, arguments.quick)
    ]
    if arguments.list:
        for group in filter(None, groups):
            print("  |  ".join(f"{step.name} ({step.seconds} s)" for step in group))
        return
    report = Report(arguments.out)
    end = time.monotonic() + arguments.minutes * 60
    for group in filter(None, groups):
        left = end - time.monotonic()
        if left < 15:
            for step in group:
                report.add(step, {"skipped": "no time left"})
            continue
        threads = [
            threading.Thread(target=run, args=(step, report, min(step.seconds, left), small)) for step in group
        ]
        for thread in threads:
            thread.start()
            if small:  # two cores, say: side by side takes longer than one after the other
                thread.join()
        for thread in threads:
            thread.join()
    print(f"written to {arguments.out}")


def table(records: Sequence[dict[str, Any]]) -> str:
    """The rates of frozen trunks as Markdown, each as a share of what the card's own copies and products allow."""
    from roof import roof

    import headstart as hs

    copied = next((r["terabytes_a_second"] for r in records if "terabytes_a_second" in r), None)
    products = {
        r["what"].rsplit(", ", 1)[1]: r["teraflops"]
        for r in records
        if str(r.get("what", "")).startswith("products")
    }
    bounds: dict[tuple[str, str], float] = {}

    def share(name: str, precision: str, rate: float) -> str:
        if copied is None or precision not in products:
            return ""
        if (name, precision) not in bounds:
            model = hs.model(name, classes=10)
            bounds[name, precision] = roof(
                model,
                model.default_cut,
                operations=products[precision] * 1e12,
                bandwidth=copied * 1e12,
                itemsize=4 if precision in ("float32", "tf32") else 2,
            ).layers
        return f"{rate / bounds[name, precision]:.0%}"

    lines = ["| step | precision | batch | way | images a second | of the bound |", "|---|---|---|---|---|---|"]
    for record in records:
        if not record["step"].startswith("throughput") or "images_a_second" not in record:
            continue
        name, rate, way = record["step"].split()[-1], record["images_a_second"], record["way"]
        precision = record.get("precision") or ("bfloat16" if "bfloat16" in way else "float32")
        lines.append(
            f"| {record['step'].removeprefix('throughput ')} | {precision} | {record['batch']} | {way} "
            f"| {rate:,.0f} | {share(name, precision, rate)} |"
        )
    return "\n".join(lines)


def gpu_here() -> bool:
    """Whether an NVIDIA card answers, without a framework in this process."""
    try:
        return bool(
            subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout.strip()
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


if __name__ == "__main__":
    main()
