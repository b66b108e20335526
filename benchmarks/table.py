"""Every benchmark's figures in one table, each beside its peer and beside what was asked for.

Invariant: a row holds what this very run has measured, the peer's figure included; whether it meets what was asked
is computed from that and from `TARGETS`, and nowhere else. A benchmark records its rows before it asserts its
floor, so a figure that falls short is in the table as well.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import headstart
from headstart.common.machine import cpu_multiplies, machine_facts
from headstart.common.text import nbytes_text

NO_GPU = "no GPU on this machine: no column for one"
NO_BFLOAT16 = "this processor has no instructions for bfloat16: no rows of it"


@dataclass(frozen=True)
class Target:
    """What a figure should be. It is one of four: `speed`, so many times as fast as the peer; `cost`, so many
    times what the peer takes; `near`, off the peer's by such a share of it at most; `own`, the figure itself."""

    figure: str
    bound: float
    """at least so much of a speed, at most so much of anything else"""

    def __post_init__(self) -> None:
        assert self.figure in ("speed", "cost", "near", "own")

    def met(self, own: float, peer: float | None, scale: float) -> bool:
        if self.figure == "own":
            return own <= self.bound * scale
        assert peer is not None
        if self.figure == "near":
            return abs(own / peer - 1) <= self.bound * scale
        return peer / own >= self.bound * scale if self.figure == "speed" else own / peer <= self.bound * scale

    def text(self, unit: str, scale: float) -> str:
        bound = self.bound * scale
        if self.figure == "own":
            return f"at most {amount(bound, unit)}"
        if self.figure == "near":
            return f"within {bound:.0%}"
        return f"{'at least' if self.figure == 'speed' else 'at most'} {times(bound)}"


# What was asked for, by the name that a benchmark gives with its row.
TARGETS: Mapping[str, Target] = {
    # a cached epoch of a linear head, beside what people write today
    "DataLoader over a TensorDataset": Target("speed", 3.0),
    "fit on arrays": Target("speed", 2.5),
    "fit on tf.data": Target("speed", 2.5),
    "a jitted loop": Target("speed", 1.2),
    "products": Target("cost", 1.5),
    "the best backend": Target("cost", 1.25),
    # all of a network trained, beside the best backend
    "whole network": Target("cost", 1.3),
    # a convolution in JAX on a CPU, beside XLA's own form of it
    "CPU form": Target("speed", 1.0),
    # a cached epoch beside a frozen one, resnet50; the block's is a share of the ratio of FLOPs
    "block": Target("speed", 0.9),
    "linear": Target("speed", 2000.0),
    # bfloat16, on a CPU with units for it
    "extraction torch": Target("speed", 4.0),
    "extraction keras": Target("speed", 2.0),
    "extraction jax": Target("speed", 2.5),
    "layer norms torch": Target("speed", 2.0),
    "layer norms jax": Target("speed", 2.0),
    # the best backend, of the framework's own products
    "products rate": Target("speed", 0.7),
    # the longer one of decoding alone and computing alone; and what both need of the processor, on all cores
    "folder": Target("cost", 1.1),
    "folder by the processor": Target("speed", 0.93),
    # features by a network with depthwise convolutions in JAX, beside the best backend
    "depthwise": Target("cost", 1.3),
    "64 heads": Target("cost", 4.0),
    "rate of 64 heads": Target("speed", 0.7),
    "vmap loop": Target("speed", 1.0),
    "stopping": Target("cost", 1.02),
    "5 folds": Target("cost", 3.0),
    "ridge path": Target("speed", 5.0),
    "logistic path": Target("speed", 5.0),
    "streaming": Target("speed", 0.8),
    # in onnxruntime, beside the file of torch's own exporter
    "exported": Target("speed", 1.0),
    "import headstart": Target("own", 0.15),
    "headstart --help": Target("own", 0.3),
    "warm store": Target("own", 0.5),
    "memory of extraction": Target("own", 2e9),
    "memory of an epoch": Target("cost", 1.3),
    # of bytes and seconds, too high or too low
    "prediction": Target("near", 0.25),
    # threads that wait asleep, beside such that spin; beside others, of a fair share of the cores
    "asleep alone": Target("cost", 1.03),
    "beside others": Target("cost", 1.5),
    # under a limit, beside the best number of threads that was found by hand
    "limited": Target("cost", 1.1),
    # the store
    "opening a million rows": Target("own", 1.0),
    "overhead of extraction": Target("cost", 0.05),
    "evolving data": Target("own", 2.0),
    # what one more costs at the upper end, of what it costs below
    "growth": Target("cost", 1.1),
    "memory of a million rows": Target("cost", 1.0),
    "rate of a million rows": Target("speed", 0.7),
}


@dataclass(frozen=True)
class Row:
    capability: str
    what: str
    """the setting: model, sizes, precision"""
    backend: str
    """"" where no framework takes part"""
    device: str
    own: float
    unit: str
    """"s" (medians) or "bytes", of both figures"""
    peer: str
    peers: float | None
    ratio: float | None
    ratio_is: str
    """"peer / own" or "own / peer\""""
    asked: str
    met: bool | None

    def cells(self) -> tuple[str, ...]:
        """As people read it, in the order of `COLUMNS`."""
        ratio = "-"
        if self.ratio is not None:
            ratio = times(self.ratio) + (" as fast" if self.ratio_is == "peer / own" else " of it")
        return (
            self.capability,
            self.what,
            self.backend or "-",
            amount(self.own, self.unit),
            self.peer or "-",
            "-" if self.peers is None else amount(self.peers, self.unit),
            ratio,
            self.asked or "-",
            "-" if self.met is None else "yes" if self.met else "no",
            self.device,
        )


COLUMNS = ("capability", "what", "backend", "headstart", "peer", "its", "ratio", "asked for", "met", "device")
RIGHT = ("headstart", "its", "ratio")


class Table:
    """The rows of one run."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.backends: dict[str, dict[str, Any]] = {}

    def record_beside_the_best(
        self,
        capability: str,
        what: str,
        own: Mapping[str, float],
        targets: Mapping[str, str],
        facts: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, float]:
        """A row for each backend beside the best of them. `own`: its seconds; `targets`: see `record`, of those of
        which something was asked. Returns how many times the best one's seconds each takes."""
        best = min(own.values())
        for backend, seconds in own.items():
            self.record(
                capability,
                what,
                seconds,
                backend=backend,
                peer="the best backend",
                peers=best,
                target=targets.get(backend),
                cost=True,
                facts=facts[backend],
            )
        return {backend: seconds / best for backend, seconds in own.items()}

    def record(
        self,
        capability: str,
        what: str,
        own: float,
        *,
        unit: str = "s",
        backend: str = "",
        peer: str = "",
        peers: float | None = None,
        target: str | None = None,
        scale: float = 1.0,
        asked_of: str = "",
        cost: bool = False,
        facts: Mapping[str, Any] | None = None,
    ) -> bool | None:
        """Add a row; returns whether what was asked for is met, None where nothing was.

        `target`: a name in `TARGETS`, whose bound is multiplied by `scale`. `asked_of`: the setting that it was
        asked of, where this one is smaller. `cost`: without a target, give the ratio as so many times what the
        peer takes. `facts`: what the process that ran it says of its device, threads and versions.
        """
        if not all(math.isfinite(figure) and figure > 0 for figure in (own, peers or 1.0)):
            raise ValueError(f"{capability}, {what}: {own} and {peers} are no measured figures")
        # numpy's numbers compare to its own kind of bool, which JSON does not write
        own, peers = float(own), None if peers is None else float(peers)
        asked = None if target is None else TARGETS[target]
        is_cost = cost if asked is None or asked.figure == "own" else asked.figure in ("cost", "near")
        ratio = None if peers is None else own / peers if is_cost else peers / own
        facts = facts or {}
        device = str(facts.get("device", "cpu"))
        if backend:
            self.backends.setdefault(backend, {}).update(
                {name: facts[name] for name in ("versions", "threads") if name in facts}
            )
        row = Row(
            capability,
            what,
            backend,
            f"cuda: {gpu() or 'unnamed'}" if device == "cuda" else device,
            own,
            unit,
            peer,
            peers,
            ratio,
            "own / peer" if is_cost else "peer / own",
            "" if asked is None else asked.text(unit, scale) + (f", of {asked_of}" if asked_of else ""),
            None if asked is None else asked.met(own, peers, scale),
        )
        self.rows.append(row)
        return row.met

    def about(self) -> dict[str, Any]:
        return {
            "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "headstart": headstart.__version__,
            "machine": machine_facts(),
            "gpu": gpu(),
            "backends": self.backends,
        }

    def as_dict(self) -> dict[str, Any]:
        return {**self.about(), "rows": [asdict(row) for row in self.rows]}

    def facts_lines(self) -> list[str]:
        """Machine, versions and date, a line each."""
        about = self.about()
        machine = about["machine"]
        memory = f", {nbytes_text(machine['memory_bytes'])} of memory" if machine["memory_bytes"] else ""
        lines = [
            f"{about['date']}, headstart {about['headstart']}, Python {machine['python']}",
            f"{machine['cpu']}, {machine['cores']} cores{memory}, {machine['system']}",
        ]
        for backend, known in about["backends"].items():
            versions = [f"{name} {version}" for name, version in known.get("versions", {}).items()]
            threads = [f"{known['threads']} threads"] if "threads" in known else []
            lines.append(f"{backend}: {', '.join([*versions, *threads])}")
        if about["gpu"] is None:
            lines += [NO_GPU, *([NO_BFLOAT16] if no_bfloat16() else [])]
        elif not any(row.device.startswith("cuda") for row in self.rows):
            lines.append(f"{about['gpu']} is there, and nothing was measured on it")
        return lines

    def markdown(self) -> str:
        lines = [*(f"{line}  " for line in self.facts_lines()), ""]
        lines.append("| " + " | ".join(COLUMNS) + " |")
        lines.append("|" + "|".join("---:" if column in RIGHT else "---" for column in COLUMNS) + "|")
        for row in self.rows:
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row.cells()) + " |")
        return "\n".join(lines) + "\n"

    def text(self, width: int) -> str:
        """For a terminal: the capability is a line above its rows, and devices are there unless all is CPU."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        devices = {row.device for row in self.rows}
        columns = COLUMNS[1:-1] if devices == {"cpu"} else COLUMNS[1:]
        shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            wraps = column in ("what", "peer", "asked for", "device")
            shown.add_column(column, justify="right" if column in RIGHT else "left", no_wrap=not wraps)
        for capability in dict.fromkeys(row.capability for row in self.rows):
            shown.add_row(f"[bold]{capability}[/bold]")
            for row in self.rows:
                if row.capability == capability:
                    cells = dict(zip(COLUMNS, row.cells(), strict=True))
                    shown.add_row(*(cells[column].replace("[", "\\[") for column in columns))
            shown.add_section()
        out = StringIO()
        Console(file=out, width=width, highlight=False).print(shown)
        return "\n".join([*self.facts_lines(), "", *(line.rstrip() for line in out.getvalue().splitlines())])

    def write(self, folder: Path) -> tuple[Path, Path]:
        """`benchmarks.json` and `benchmarks.md` in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "benchmarks.json", folder / "benchmarks.md"
        texts = json.dumps(self.as_dict(), indent=1) + "\n", self.markdown()
        for path, text in zip(paths, texts, strict=True):
            # Whole or not at all: a run that is killed while it writes leaves the last ones.
            partial = path.with_name(path.name + ".partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        return paths


def times(ratio: float) -> str:
    if ratio < 0.1:
        return f"{ratio:.2g}x"
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return nbytes_text(value)
    if value < 0.1:
        return f"{value * 1000:.3g} m{unit}"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


@cache
def gpu() -> str | None:
    """The name of the first CUDA device, as its driver has it; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True)
    return (found.stdout.splitlines() or [None])[0] if found.returncode == 0 else None


def no_bfloat16() -> bool:
    """Whether nothing here computes in it, as can be told without a framework."""
    return gpu() is None and not cpu_multiplies("bfloat16")


table = Table()
