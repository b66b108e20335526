"""The comparison: every backend, each in a process of its own, through the modes.

Frameworks fight over threads and GPU memory, so none is imported here: a child process is started for each
backend, one after the other, and reports through its standard output, a JSON object a line. The child is this
module too (`python -m headstart.compare`). What came out is written after every mode, so that a run that
breaks off keeps what it has.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headstart import __version__
from headstart import backend as backends
from headstart.errors import ExtractionInterrupted, HeadstartError, SettingError, UnknownNameError
from headstart.machine import machine_facts
from headstart.training.modes import MODES

Event = dict[str, Any]
Listener = Callable[[Event], None]

DEFAULT_MODEL = "resnet18_half"


@dataclass(frozen=True)
class Spec:
    """What is compared; the arguments of `hs.fit` and of the data and model they are for."""

    data: str = "digits"
    model: str = DEFAULT_MODEL
    weights: str | None = None
    """None: the first published ones of the model, random where there are none; "none": random"""
    size: int | None = None
    head: str | tuple[int | float, ...] = "linear"
    cut: str | None = None
    backends: tuple[str, ...] = ()
    """() : every installed one"""
    modes: tuple[str, ...] = tuple(MODES)
    split: float = 0.8
    seed: int = 0
    on_error: str = "raise"
    fit: Mapping[str, Any] = field(default_factory=dict)
    """further arguments of `hs.fit`: epochs, batch_size, optimizer, device ..."""


def prepare(spec: Spec) -> tuple[Any, Any, Any]:
    """(model, train, val) as `spec` has them; raises whatever is wrong with it, and imports no framework."""
    from headstart.data import open_data
    from headstart.features.extract import cut_of
    from headstart.models import model
    from headstart.training.settings import Settings

    for mode in spec.modes:
        Settings(mode=mode, cut=spec.cut, seed=spec.seed, **spec.fit)
    data = open_data(spec.data, on_error=spec.on_error)
    train, val = data.split(spec.split, spec.seed)
    made = model(
        spec.model,
        weights=chosen_weights(spec.model, spec.weights),
        classes=data.classes,
        head=spec.head,
        size=spec.size,
    )
    if spec.cut is not None:
        cut_of(made, spec.cut)
    return made, train, val


def chosen_weights(model: str, weights: str | None) -> str | None:
    """What `weights=` of `hs.model` is for an option: not given, it means the model's first published ones, if
    it has any; "none" means random ones."""
    from headstart.models import architecture

    if weights is None:
        return next(iter(architecture(model).weights), None)
    return None if weights == "none" else weights


def compare(spec: Spec, out: str | Path | None = None, listener: Listener = lambda event: None) -> dict[str, Any]:
    """Run the comparison; returns what `compare.json` in the folder `out` then holds (None: no file).

    `listener` is called with events: {"event": "backend" | "mode" | "epoch" | "progress" | "row", ...}.
    A backend that fails is reported under `errors`, with the end of its log, and the others go on.
    Raises SettingError and its kin before anything is started.
    """
    chosen = spec.backends or backends.installed()
    if not chosen:
        backends.choose(None)  # says that none is installed
    if repeated := sorted({name for name in chosen if chosen.count(name) > 1}):
        raise SettingError(f"backends named twice: {', '.join(repeated)}")
    for name in chosen:
        backends.choose(name)
    if not spec.modes:
        raise UnknownNameError("mode", "", MODES)
    model, train, val = prepare(spec)
    report: dict[str, Any] = {
        "headstart": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "machine": machine_facts(),
        "versions": {name: backends.versions(name) for name in chosen},
        "data": {
            "name": train.name,
            "train": len(train),
            "val": len(val),
            "classes": list(train.classes),
            "skipped": [list(line) for line in train.skipped],
        },
        "model": model.describe(),
        "settings": {**asdict(spec), "backends": list(chosen)},
        "rows": [],
        "errors": {},
    }

    def save() -> None:
        if out is not None:
            write_json(Path(out) / "compare.json", report)

    save()
    for name in chosen:
        listener({"event": "backend", "backend": name})
        error = _run_child(spec, name, report["rows"], listener, save)
        if error is not None:
            report["errors"][name] = error
        save()
    return report


def compare_modes(
    model: Any,
    train: Any,
    val: Any,
    modes: Sequence[str] = tuple(MODES),
    *,
    backend: str | None = None,
    listener: Listener = lambda event: None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """The rows of a comparison for a model that is at hand, such as one that `hs.wrap` made, of which no other
    process could be told: its modes one after the other, in this process, on one backend.

    `settings`: of `hs.fit`. `listener`: as in `compare`.
    """
    from headstart.training.fit import fit

    rows: list[dict[str, Any]] = []
    for mode in modes:
        run = fit(model, train, val, mode=mode, backend=backend, **settings)
        row = row_of(run)
        finish_row(row, rows)
        rows.append(row)
        listener({"event": "row", "row": row})
    return rows


def _run_child(
    spec: Spec, name: str, rows: list[dict[str, Any]], listener: Listener, save: Callable[[], None]
) -> dict[str, str] | None:
    """Run one backend's modes in a child; appends to `rows`. Returns what went wrong, if anything."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    error: dict[str, str] | None = None
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            # -P: a folder called torch in the working directory must not be taken for the framework
            [sys.executable, "-P", "-m", "headstart.compare"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C comes to us alone, and is handed on exactly once
        )
        assert child.stdin is not None and child.stdout is not None
        try:
            # A child that is dead already has broken the pipe; its exit code says how it died.
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps({**asdict(spec), "backends": [name]}))
            for event in _events(child.stdout):
                if event["event"] == "row":
                    finish_row(event["row"], rows)
                    rows.append(event["row"])
                    save()
                elif event["event"] == "error":
                    error = {"type": event["type"], "message": event["message"]}
                listener(event)
            child.wait()
        except KeyboardInterrupt:
            raise _interrupted(child) from None
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            child.stdout.close()
        if child.returncode != 0 and error is None:
            log.seek(0)
            tail = log.read().decode(errors="replace")[-4000:]
            how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
            error = {"type": "crash", "message": f"the {name} process ended with {how}; its last words:\n{tail}"}
    return error


def _interrupted(child: subprocess.Popen[str]) -> KeyboardInterrupt:
    """Hand Ctrl-C on to the child, give it time to keep its features, and pass on what it says of them."""
    child.send_signal(signal.SIGINT)
    child.stdin = None  # closed, which communicate() would stumble over
    try:
        rest, _ = child.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        return KeyboardInterrupt()
    for event in _events((rest or "").splitlines()):
        if event["event"] == "error":
            return ExtractionInterrupted(event["message"])
    return KeyboardInterrupt()


def _events(lines: Iterable[str]) -> Iterator[Event]:
    """What a child reports, without a line that it, or the reading of it, was cut off in."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def finish_row(row: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> None:
    """Add what a row says in comparison with the `frozen` row of its backend, to it or, once `frozen` comes,
    to the rows before it."""
    own = [other for other in (*earlier, row) if other["backend"] == row["backend"]]
    frozen = next((other for other in own if other["mode"] == "frozen"), None)
    for other in own:
        base = frozen["seconds_per_epoch"]["total"] if frozen else None
        other["speedup_over_frozen"] = speedup(base, other["seconds_per_epoch"]["total"])
        other["pays_off_after_epochs"] = (
            pays_off_after(other["extraction_seconds"], other["seconds_per_epoch"]["total"], base)
            if other["mode"] == "cached"
            else None
        )


def speedup(frozen: float | None, seconds: float) -> float | None:
    """How many times faster an epoch of `seconds` is than one of `frozen`; None where one is unknown."""
    return frozen / seconds if frozen is not None and seconds > 0 else None


def pays_off_after(extraction: float, cached: float, frozen: float | None) -> int | None:
    """The number of epochs from which extraction and cached epochs together take no longer than frozen epochs,
    at least 1; None where they never do, or where `frozen` is unknown. All in seconds."""
    if frozen is None or cached >= frozen:
        return None
    return max(1, math.ceil(extraction / (frozen - cached)))


def write_json(path: Path, content: Any) -> None:
    """Write a report whole or not at all; SettingError where that folder cannot be written."""
    from headstart.features.files import replace_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, [(json.dumps(content, indent=1) + "\n").encode()])
    except OSError as error:
        raise SettingError(f"{path}: cannot be written ({error.strerror or error})") from error


def row_of(run: Any) -> dict[str, Any]:
    """A run as a row of the report."""
    last = run.history[-1]
    return {
        "backend": run.backend,
        "mode": run.mode,
        "cut": run.cut,
        "val_accuracy": last.val_accuracy,
        "val_loss": last.val_loss,
        "history": run.history.as_list(),
        "head_history": run.head_history.as_list(),
        "seconds_per_epoch": run.history.seconds_per_epoch().as_dict(),
        "extraction_seconds": run.extraction.seconds if run.extraction else 0.0,
        "extracted": run.extraction.extracted if run.extraction else 0,
        "reused": run.extraction.reused if run.extraction else 0,
        "features_made_by": list(run.extraction.made_by) if run.extraction else [],
        "total_seconds": run.seconds,
        "settings": dict(run.settings),
    }


def _child() -> int:
    """What a child process does: read a spec, run one backend, report."""
    # Libraries print to standard output now and then; events get a copy of it that only we know.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(event: Event) -> None:
        events.write(json.dumps(event) + "\n")

    from headstart import progress
    from headstart.training.fit import fit

    given = json.loads(sys.stdin.read())
    head = given["head"] if isinstance(given["head"], str) else tuple(given["head"])
    spec = Spec(**{**given, "backends": tuple(given["backends"]), "modes": tuple(given["modes"]), "head": head})
    (name,) = spec.backends
    progress.report_to(
        lambda what, done, total: emit({"event": "progress", "what": what, "done": done, "total": total})
    )
    try:
        model, train, val = prepare(spec)
        for mode in spec.modes:
            emit({"event": "mode", "backend": name, "mode": mode})

            def on_epoch(stage: str, record: Any, mode: str = mode) -> None:
                record = {key: value for key, value in record.as_dict().items() if key != "step_losses"}
                emit({"event": "epoch", "backend": name, "mode": mode, "stage": stage, "record": record})

            settings = {"mode": mode, "cut": spec.cut, "seed": spec.seed, **spec.fit}
            run = fit(model, train, val, backend=name, on_epoch=on_epoch, **settings)
            emit({"event": "row", "row": row_of(run)})
    except HeadstartError as error:
        emit({"event": "error", "type": type(error).__name__, "message": str(error)})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_child())
