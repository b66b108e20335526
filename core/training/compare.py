"""`compare`: the modes in every backend, each backend in a process of its own.

Frameworks fight over threads and GPU memory, so none is imported here: a child process is started for each
backend, one after the other, and reports through its standard output, a JSON object a line. The child is this
module too (`python -m headstart.training.compare`). What came out is written after every mode, so that a run that
breaks off keeps what it has.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.common import errors, log, progress
from headstart.common.environment import for_child
from headstart.common.errors import ExtractionInterrupted, HeadstartError, SettingError
from headstart.common.log import LOG
from headstart.common.outputs import check_outputs, never_lost, outdated, write_json
from headstart.common.places import expanded
from headstart.common.scheduling import take_short_turns
from headstart.common.text import end_text
from headstart.contract import registry
from headstart.data.copies import mark_told, warn_of_copies, warn_of_test_copies
from headstart.data.door import described
from headstart.data.names import class_list
from headstart.data.opening import SHARE
from headstart.data.summary import mark, say
from headstart.data.untrained import warn_of_single
from headstart.training.comparison import (
    Comparison,
    Event,
    Listener,
    add_entry,
    entry_of,
    new_comparison,
    start_framework,
)
from headstart.training.crossing import packed, unpacked
from headstart.training.modes import MODES, keep_memory_for
from headstart.training.opening import Prepared, model_and_data
from headstart.training.run_record import data_facts
from headstart.training.settings import checked_folder, modes_named, options_by_mode
from headstart.training.signatures import check_keywords, documented, with_defaults
from headstart.training.tensorboard import require_writer

if TYPE_CHECKING:
    from typing import Unpack

    from headstart.training.keywords import CompareOptions

RARE = ("decode", "val", "test", "only", "columns", "truncated")
FOLDERS = ("tensorboard", "profile")  # what is written while it trains


@dataclass(frozen=True)
class CompareArguments:
    """The arguments of `compare`, as they cross to the process of a backend."""

    data: str = "digits"
    model: str | None = None
    """None: the one that suits the data"""
    weights: str | None = None
    """None: the first published ones of the model, random where there are none; "none": random"""
    size: int | None = None
    decode: str | None = None
    head: str | tuple[int | float, ...] = "linear"
    cut: str | None = None
    backends: tuple[str, ...] = ()
    """() : every installed one"""
    modes: tuple[str, ...] = tuple(MODES)
    split: float | None = None
    """None: `SHARE` where nothing else says what is validated on"""
    seed: int = 0
    on_error: str = "raise"
    truncated: str = "raise"
    split_by: str = "id"
    val: str | None = None
    test: str | None = None
    only: tuple[str, ...] | None = None
    """the classes to take; None: all"""
    columns: Mapping[str, Any] | None = None
    """of tables, as `headstart.data.table.Columns` has them"""
    fit: Mapping[str, Any] = field(default_factory=dict)
    """further options of `hs.fit`, as they cross between processes: epochs, batch_size, optimizer, device ..."""

    def options(self) -> dict[str, Any]:
        """The options of `hs.fit`, but for the mode."""
        return {"cut": self.cut, "seed": self.seed, **unpacked(self.fit)}


def prepare(arguments: CompareArguments) -> Prepared:
    """Model and data. Raises whatever is wrong with the arguments; imports no framework."""
    options_by_mode(arguments.modes, arguments.options())
    for option in FOLDERS:
        if arguments.fit.get(option) is not None:
            checked_folder(option, arguments.fit[option])
    if arguments.fit.get("tensorboard") is not None:
        require_writer()
    return model_and_data(
        data=arguments.data,
        model=arguments.model,
        weights=arguments.weights,
        size=arguments.size,
        decode=arguments.decode,
        head=arguments.head,
        cut=arguments.cut,
        split=arguments.split,
        seed=arguments.seed,
        on_error=arguments.on_error,
        truncated=arguments.truncated,
        split_by=arguments.split_by,
        val=arguments.val,
        test=arguments.test,
        only=arguments.only,
        columns=arguments.columns,
    )


def _asked(arguments: CompareArguments, train: Any) -> dict[str, Any]:
    """What is written down of the arguments: all, but of what is rarely asked for only what was."""
    asked = {
        name: value
        for name, value in asdict(arguments).items()
        if name not in RARE or value not in (None, "raise")
    }
    if arguments.split is None and train.splits:
        asked["split"] = SHARE
    return asked


@documented
def compare(
    data: str = "digits",
    *,
    out: str | Path | None = None,
    listener: Listener = lambda event: None,
    backends: str | Sequence[str] = (),
    modes: str | Sequence[str] = tuple(MODES),
    model: str | None = None,
    weights: str | None = None,
    size: int | None = None,
    decode: str | None = None,
    head: str | Sequence[int | float] = "linear",
    split: float | None = None,
    on_error: str = "raise",
    truncated: str = "raise",
    split_by: str = "id",
    val: str | None = None,
    test: str | None = None,
    only: Sequence[str] | None = None,
    columns: Mapping[str, Any] | None = None,
    **options: Unpack[CompareOptions],
) -> Comparison:
    """Compare modes in the installed backends, or in `backends`, each in a process of its own: what `headstart
    compare` does. In a notebook, the result shows its report.

    `data`: "digits", "cifar10", "flowers", or the path of a folder that holds a folder a class. `model`: None for
    efficientnet_lite0 where its weights are here, else, and for digits, resnet18_half. `weights`: None
    for the model's first published ones, "none" for random ones. `size`, `decode`: as of `hs.model`. `split`,
    `split_by`: see `Dataset.split`, which `seed` is for as well; None for 0.8, of data that do not say themselves
    what is validated on. `val`, `test`: as `data`, to validate on and to test on after training. `only`: the
    classes to take. `columns`: of tables, a dict of the arguments of `hs.data.table`. `on_error`, `truncated`: see
    `hs.data.folder`.
    `out`: a folder for `compare.json` and `report.html`. `listener`: see `run_backends`.
    The options are those of `hs.fit`; each goes to the modes that read it (`head_epochs` to "staged", `views` and
    `memory` to those with a cache), and one that none of them reads is refused.
    Raises SettingError and its kin before anything is started; what fails in a backend stands in `["errors"]`.
    """
    named: dict[str, Any] = {"data": data, "val": val, "test": test, "model": model}
    for argument, source in named.items():
        if not isinstance(source, str | os.PathLike) and (source is not None or argument == "data"):
            what, _ = described(source, argument)
            named_so = "name of a model" if argument == "model" else "name of a data set or the path of a folder"
            raise SettingError(
                f"{argument} is {what}; expected the {named_so}, as every backend runs in a process of its own. "
                "hs.compare_modes(model, train, val) compares modes with a model and data that are at hand"
            )
    if "on_epoch" in options:
        raise SettingError("on_epoch= cannot be called from the backends' own processes; pass listener=")
    check_keywords("compare", options)
    settings = packed(with_defaults("compare", options))
    arguments = CompareArguments(
        data=os.fspath(data),
        model=model,
        weights=weights,
        size=size,
        decode=decode,
        head=head if isinstance(head, str) else tuple(head),
        cut=settings.pop("cut", None),
        backends=(backends,) if isinstance(backends, str) else tuple(backends),
        modes=modes_named(modes),
        split=split,
        seed=settings.pop("seed", 0),
        on_error=on_error,
        truncated=truncated,
        split_by=split_by,
        val=None if val is None else os.fspath(val),
        test=None if test is None else os.fspath(test),
        only=None if only is None else class_list(only, SettingError),
        columns=columns,
        fit=settings,
    )
    return run_backends(arguments, out, listener)


def run_backends(
    arguments: CompareArguments, out: str | Path | None = None, listener: Listener = lambda event: None
) -> Comparison:
    """Compare the modes in each backend; returns what `compare.json` in the folder `out` then holds (None: no
    file). The report,
    `report.html`, is written beside it at the end, also of a comparison that was broken off.

    `listener` is called with events: {"event": "backend" | "mode" | "epoch" | "progress" | "row", ...}.
    A backend that fails is reported under `errors`, with the end of its log, and the others go on.
    Raises SettingError and its kin before anything is started.
    """
    out = None if out is None else expanded(out)
    check_outputs(out)
    backends = arguments.backends or registry.installed()
    if not backends:
        registry.choose(None)  # says that none is installed
    if repeated := sorted({name for name in backends if backends.count(name) > 1}):
        raise SettingError(f"backends named twice: {', '.join(repeated)}")
    for name in backends:
        registry.choose(name)
    if not arguments.modes:
        raise SettingError(f"modes names none; expected one or more of {', '.join(MODES)}")
    model, train, val, test = prepare(arguments)
    arguments = replace(arguments, model=model.name)
    warn_of_copies(train, val)
    warn_of_single(train, val)
    if test is not None:
        warn_of_test_copies(test, train, val)
    comparison = new_comparison(
        data_facts(train, val), model.describe(), {**_asked(arguments, train), "backends": list(backends)}
    )
    comparison["versions"] = {name: registry.versions(name) for name in backends}

    def add(entry: dict[str, Any]) -> None:
        if not any(entry is row for row in comparison.rows):  # else it has its test scores now
            add_entry(comparison, entry, val)
        save()

    def save() -> None:
        try:
            if out is not None:
                write_json(out / "compare.json", comparison)
        except SettingError as error:  # a full disk, say: the figures are here, and written at the end
            LOG.warning("%s", error)

    def save_all(folder: Path) -> None:
        write_json(folder / "compare.json", comparison)
        if comparison.rows:
            comparison.report(folder / "report.html")

    if out is not None and (out / "compare.json").is_file():
        outdated(out / "report.html")
    if out is not None:
        write_json(out / "compare.json", comparison)  # raises, as nothing has been computed
    say(train, val, test)
    try:
        for name in backends:
            listener({"event": "backend", "backend": name})
            error = _run_child(arguments, name, add, listener)
            if error is not None:
                comparison["errors"][name] = error
            save()
    finally:
        if out is not None:
            never_lost(save_all, out)
    return comparison


def _run_child(
    arguments: CompareArguments, name: str, add: Callable[[dict[str, Any]], None], listener: Listener
) -> dict[str, str] | None:
    """Run one backend's modes in a child; each entry goes to `add`. Returns what went wrong, if anything."""
    error: dict[str, str] | None = None
    told = _also_untested(add)
    with tempfile.TemporaryFile() as words:
        child = subprocess.Popen(
            # -P: a folder called torch in the working directory must not be taken for the framework
            [sys.executable, "-P", "-m", "headstart.training.compare"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            env=for_child(registry.describe(name).quiet),
            start_new_session=True,  # Ctrl-C comes to us alone, and is handed on exactly once
        )
        assert child.stdin is not None and child.stdout is not None
        try:
            # A child that is dead already has broken the pipe; its exit code says how it died.
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps({**asdict(arguments), "backends": [name]}))
            for event in _events(child.stdout):
                if event["event"] in ("trained", "row"):
                    event["row"] = told(event)
                elif event["event"] == "error":
                    error = {"type": event["type"], "message": event["message"]}
                elif event["event"] == "warning":
                    _warn(event)
                if event["event"] in ("trained", "warning"):
                    continue
                listener(event)
            child.wait()
        except KeyboardInterrupt:
            raise _interrupted(child, told) from None
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            child.stdout.close()
        if child.returncode != 0 and error is None:
            words.seek(0)
            tail = words.read().decode(errors="replace")[-4000:]
            error = {
                "type": "crash",
                "message": f"the {name} process ended with {end_text(child.returncode)}; its last words:\n{tail}",
            }
    return error


def _also_untested(add: Callable[[dict[str, Any]], None]) -> Callable[[Event], dict[str, Any]]:
    """`add` for what a child tells: a row that is trained, as soon as it is, since the child may be killed while
    it scores the test data (for want of memory, say), and the same row with those scores."""
    untested: list[dict[str, Any]] = []

    def told(event: Event) -> dict[str, Any]:
        row: dict[str, Any] = event["row"]
        if event["event"] == "trained":
            untested.append(row)
        elif untested:
            (trained,) = untested
            untested.clear()
            trained.update({"test": row["test"]} if "test" in row else {})
            row = trained
        add(row)
        return row

    return told


def _warn(event: Event) -> None:
    """Give in this process a warning of ours that the child has given."""
    category = getattr(errors, str(event.get("category")), None)
    if isinstance(category, type) and issubclass(category, Warning):
        warnings.warn(str(event.get("message")), category, stacklevel=4)


@contextlib.contextmanager
def _warnings_told(emit: Listener) -> Iterator[None]:
    """In a child: have warnings of ours told to the parent, which has given those of the data itself; those of
    libraries go to the log."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if category is errors.DataWarning:
                return
            if category.__module__ == errors.__name__:
                emit({"event": "warning", "category": category.__name__, "message": str(message)})
            else:
                show(message, category, *place, **more)

        warnings.showwarning = tell
        yield


def _interrupted(child: subprocess.Popen[str], told: Callable[[Event], dict[str, Any]]) -> KeyboardInterrupt:
    """Hand Ctrl-C on to the child, give it time to keep its features, and pass on what it says of them. What it
    had trained goes to `told`: it may have been scoring the test data."""
    if os.name != "nt":  # Windows has no sessions: there Ctrl-C has come to the child as well
        child.send_signal(signal.SIGINT)
    child.stdin = None  # closed, which communicate() would stumble over
    try:
        rest, _ = child.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        return KeyboardInterrupt()
    interrupted = KeyboardInterrupt()
    for event in _events((rest or "").splitlines()):
        if event["event"] in ("trained", "row"):
            told(event)
        elif event["event"] == "error":
            interrupted = ExtractionInterrupted(event["message"])
    return interrupted


def _events(lines: Iterable[str]) -> Iterator[Event]:
    """What a child reports, without a line that it, or the reading of it, was cut off in."""
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _child() -> int:
    """What a child process does: read the arguments, run the one backend that they name, report."""
    # Libraries print to standard output now and then; events get a copy of it that only we know.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(event: Event) -> None:
        events.write(json.dumps(event) + "\n")  # NaN stays one between our processes

    fields = json.loads(sys.stdin.read())
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    arguments = CompareArguments(**{**fields, **lists})  # JSON has no tuples
    (name,) = arguments.backends
    keep_memory_for(name, arguments.modes)
    progress.report_to(
        lambda what, done, total: emit({"event": "progress", "what": what, "done": done, "total": total})
    )
    with (
        log.handed_to(lambda level, line: emit({"event": "log", "level": level, "line": line})),
        _warnings_told(emit),
    ):
        return _run_modes(arguments, name, emit)


def _run_modes(arguments: CompareArguments, name: str, emit: Listener) -> int:
    # in the child: its parent trains nothing, and would wait for what does
    from headstart.training.fit import fit
    from headstart.training.unheeded import among

    try:
        model, train, val, test = prepare(arguments)
        mark(train, val, test)  # the parent has spoken of them
        if test is not None:
            mark_told(test)
        start_framework(name, arguments.options())
        for settings in options_by_mode(arguments.modes, arguments.options()):
            mode = settings["mode"]
            emit({"event": "mode", "backend": name, "mode": mode})

            def on_epoch(stage: str, record: Any, mode: str = mode) -> None:
                record = {key: value for key, value in record.as_dict().items() if key != "step_losses"}
                emit({"event": "epoch", "backend": name, "mode": mode, "stage": stage, "record": record})

            for folder in FOLDERS:  # one for each run: their files would be taken for one run's
                if settings.get(folder) is not None:
                    settings[folder] = str(Path(settings[folder]) / f"{name}-{mode}")
            with among(arguments.modes):
                run = fit(model, train, val, backend=name, on_epoch=on_epoch, **settings)
            entry = entry_of(run)
            if test is not None:
                emit({"event": "trained", "row": entry})
            try:
                if test is not None:
                    entry["test"] = run.evaluate(test).as_test(test, train, val)
            finally:  # what was trained is told in any case
                emit({"event": "row", "row": entry})
    except HeadstartError as error:
        emit({"event": "error", "type": type(error).__name__, "message": str(error)})
        return 2
    return 0


if __name__ == "__main__":
    take_short_turns()  # before a framework starts threads
    sys.exit(_child())
