"""A comparison of runs: one entry a run, as JSON holds it, and the tables and the report that are made of these.

It does not matter where the runs were made: in this process, or by a child for each backend (`headstart.training.
compare`). Whatever a report shows is in the entries, so that it can be made again from the file alone.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart.common.errors import SettingError
from headstart.common.machine import machine_facts
from headstart.common.outputs import write_text
from headstart.common.places import expanded
from headstart.common.reading import check, read_json
from headstart.common.redact import redacted_command
from headstart.common.table import Table
from headstart.common.version import __version__, written_by
from headstart.contract import registry
from headstart.data import Dataset
from headstart.features.feature_set import FeatureSet
from headstart.models.model import count_params
from headstart.report import frame, page
from headstart.report.conclusion import Conclusion, conclusion
from headstart.report.pictures import thumbnails
from headstart.training.noise import mark_noise
from headstart.training.run_record import RunRecord
from headstart.training.scores.fold_scores import figures_of
from headstart.training.shapes import COMPARISON, LARGEST
from headstart.training.tables import comparison_table

OF_DATA = ("name", "train", "val", "val_in_train", "val_of_train_groups", "skipped")
"""what an entry says of its data, where they are not those of the first"""
Event = dict[str, Any]
Listener = Callable[[Event], None]


class Comparison(dict[str, Any]):
    """What `compare.json` holds, as a dict: machine, versions, data, model, and an entry for each run. It shows
    its report in a notebook."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each run: label, backend, mode, accuracies, losses, seconds by phase, history ..."""
        entries: list[dict[str, Any]] = self["rows"]
        return entries

    def as_tables(self) -> list[Table]:
        """A table for each backend that has entries, in the order of their first."""
        names = dict.fromkeys(entry["backend"] for entry in self.rows)
        return [
            comparison_table(
                name, self["versions"][name], [entry for entry in self.rows if entry["backend"] == name]
            )
            for name in names
        ]

    def single(self) -> dict[str, Any]:
        """Of a comparison with one entry: the entry, with versions, machine, data and model beside it."""
        (entry,) = self.rows
        facts = {name: self[name] for name in ("machine", "data", "model")}
        return {**facts, "versions": self["versions"][entry["backend"]], **entry}

    def conclusion(self) -> Conclusion:
        """Which run to take, by how much, what it took, and what to distrust: its `text` begins the report."""
        return conclusion(self)

    def html(self) -> str:
        """The report as one HTML page that needs no network."""
        return page(self)

    def report(self, path: str | Path) -> Path:
        """Write the report to `path`, whole or not at all; SettingError where it cannot be written."""
        return write_text(Path(path), self.html())

    def _repr_html_(self) -> str:
        return frame(self.html())


def new_comparison(data: Mapping[str, Any], model: Mapping[str, Any], settings: Mapping[str, Any]) -> Comparison:
    """A comparison without an entry yet."""
    return Comparison(
        headstart=__version__,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        command=_command_line(),
        machine=machine_facts(),
        versions={},
        data=dict(data),
        model=dict(model),
        settings=dict(settings),
        rows=[],
        errors={},
        pictures={},
    )


def _command_line() -> list[str]:
    """What this process was started with, as one would type it; nothing in a notebook."""
    if "ipykernel" in sys.modules:
        return []
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module is None or not sys.argv:
        return redacted_command(sys.argv)
    # Of `python -m package` sys.argv has only the path of a file.
    return redacted_command(["python", "-m", module.name.removesuffix(".__main__"), *sys.argv[1:]])


def comparison(runs: Mapping[str, RunRecord] | Sequence[RunRecord], title: str | None = None) -> Comparison:
    """Runs side by side, of whatever models, modes, data and backends; `runs`: a dict from labels to runs, or a
    list, whose labels are then backend and mode.

    What is said of data and model is the first run's. Raises SettingError where there is no run.
    """
    labelled = list(runs.items()) if isinstance(runs, Mapping) else [(None, run) for run in runs]
    if not labelled:
        raise SettingError("there are no runs to compare; expected a dict from labels to runs, or a list of runs")
    first = labelled[0][1]
    figures = new_comparison(first.data, first.model.describe(), first.settings)
    if title is not None:
        figures["title"] = title
    for label, run in labelled:
        add_run(figures, run, label)
    return figures


def read_comparison(path: str | Path) -> Comparison:
    """The comparison that a `compare.json` holds. Raises SettingError for a file that cannot be read, or that is
    none."""
    path = expanded(path)
    try:
        content = read_json(path, LARGEST, "the figures of a comparison")
    except FileNotFoundError:
        raise SettingError(f"{path}: cannot be read (there is no such file)") from None
    needed = new_comparison({}, {}, {}).keys()
    known = content if isinstance(content, dict) else {}
    missing = sorted(needed - content.keys()) if isinstance(content, dict) else ["everything"]
    if missing:
        raise SettingError(
            f"{path}: not the figures of a comparison ({', '.join(missing)} missing{written_by(known)}); expected "
            f"the compare.json that `headstart compare` of this version ({__version__}) or an earlier one writes"
        )
    try:
        check(content, COMPARISON)
    except ValueError as error:
        raise SettingError(f"{path}: not the figures of a comparison ({error})") from error
    return Comparison(content)


def start_framework(name: str, options: Mapping[str, Any]) -> None:
    """Import a backend's framework and find its device, which takes seconds, before the first run's clock starts:
    they would be in the total of that run alone. `options`: of `fit`."""
    registry.load(name).place(options.get("device", "auto"), options.get("precision", "float32"))


def add_run(comparison: Comparison, run: RunRecord, label: str | None = None) -> dict[str, Any]:
    """Add a run that is at hand; returns its entry."""
    entry = entry_of(run)
    if label is not None:
        entry["label"] = str(label)
    if (classes := run.data.get("classes")) and list(classes) != list(comparison["data"].get("classes") or ()):
        entry["classes"] = list(classes)  # not those of the first run
    if dict(run.data) != comparison["data"]:
        entry["data"] = {name: run.data[name] for name in OF_DATA if name in run.data}
    if run.model.name != comparison["model"].get("name"):
        entry["model"] = run.model.name
    add_entry(comparison, entry, run.val)
    comparison["versions"][run.backend] = dict(run.settings.get("versions") or {})
    return entry


def entry_of(run: RunRecord) -> dict[str, Any]:
    """A run as an entry of the comparison."""
    best = run.history.best
    entry = {
        "label": " ".join(filter(None, (run.backend, run.mode, run.settings.get("solver")))),
        "backend": run.backend,
        "mode": run.mode,
        # of a wrapped module as `hs.wrap` takes it: by the graph every one is cut at "trunk"
        "cut": run.cut and (run.model.module_cut or run.cut),
        "val_accuracy": best.val_accuracy,
        "val_score": best.val_score,
        "score": best.score,
        "val_loss": best.val_loss,
        "diverged": run.diverged,
        "best_epoch": run.best_epoch,
        "history": run.history.as_list(),
        "head_best_epoch": run.head_history.best_epoch or None,
        "head_history": run.head_history.as_list(),
        "seconds_per_epoch": run.history.seconds_per_epoch().as_dict(),
        "extraction_seconds": run.extraction.seconds if run.extraction else 0.0,
        "extracted": run.extraction.extracted if run.extraction else 0,
        "reused": run.extraction.reused if run.extraction else 0,
        "features_made_by": list(run.extraction.made_by) if run.extraction else [],
        "total_seconds": run.seconds,
        "parameters": {"trained": run.trained, "all": count_params(run.model.graph)},
        "validation": run.validation.as_dict() if run.validation else None,
        "scores": run.scores.as_dict() if run.scores else None,
        "against_best": None,
        "kernels": run.kernels,
        "settings": dict(run.settings),
        "speedup_over_frozen": None,
        "pays_off_after_epochs": None,
    }
    if (folds := run.folds) is not None:  # of the last training, on all of the data, nothing is known
        entry |= figures_of(folds)
    return entry


def add_entry(comparison: Comparison, entry: dict[str, Any], val: Dataset | FeatureSet | None) -> None:
    """Add an entry, its speed-up over the others, and pictures of its mistakes on `val`. A label that is taken
    gets a number."""
    taken = {other["label"] for other in comparison.rows}
    if entry["label"] in taken:
        entry["label"] = next(
            f"{entry['label']} {i}" for i in range(2, len(taken) + 3) if f"{entry['label']} {i}" not in taken
        )
    finish_entry(entry, comparison.rows)
    comparison.rows.append(entry)
    mark_noise(comparison.rows, comparison["data"].get("classes") or ())
    _add_pictures(comparison, entry, val)


def _add_pictures(comparison: Comparison, entry: Mapping[str, Any], data: Dataset | FeatureSet | None) -> None:
    """Add thumbnails of the run's worst mistakes, where the images are at hand."""
    if isinstance(data, Dataset) and entry["validation"] is not None:
        worst = [*entry["validation"]["worst"], *(entry["validation"].get("misses") or ())]
        missing = [mistake["index"] for mistake in worst if mistake["id"] not in comparison["pictures"]]
        comparison["pictures"].update(thumbnails(data, missing))


def finish_entry(entry: dict[str, Any], earlier: Iterable[dict[str, Any]]) -> None:
    """Add to the entries of this backend what is known once a `frozen` entry is there: how many times faster an
    epoch is, and after how many epochs the cache pays. Only an epoch that takes the same steps of the same model
    says so."""
    of_backend = [other for other in (*earlier, entry) if other["backend"] == entry["backend"]]
    for other in of_backend:
        alike = (of for of in of_backend if of["mode"] == "frozen" and _epoch_of(of, other) == _epoch_of(other))
        frozen = next(alike, None)
        base = frozen["seconds_per_epoch"]["total"] if frozen else None
        other["speedup_over_frozen"] = speedup(base, other["seconds_per_epoch"]["total"])
        other["pays_off_after_epochs"] = (
            pays_off_after(other["extraction_seconds"], other["seconds_per_epoch"]["total"], base)
            if other["mode"] == "cached"
            else None
        )


def _epoch_of(entry: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
    """What an epoch of a run goes through, but for what its mode spares it. `beside`: the run that it is compared
    with; None: itself. On the cache, what is trained is to be the same as well."""
    settings, validation = entry.get("settings") or {}, entry.get("validation") or {}
    first: Mapping[str, Any] = next(iter(entry.get("history") or ()), {})
    parts: tuple[Any, ...] = (
        entry.get("model"),
        *(settings.get(name) for name in ("batch_size", "device", "precision", "solver")),
        len(first.get("step_losses") or ()),
        validation.get("samples"),
    )
    if (beside or entry)["mode"] == "cached":
        parts = (*parts, entry.get("cut"), entry.get("parameters"))
    return parts


def speedup(frozen: float | None, seconds: float) -> float | None:
    """How many times faster an epoch of `seconds` is than one of `frozen`; None where one is unknown."""
    return frozen / seconds if frozen is not None and seconds > 0 else None


def pays_off_after(extraction: float, cached: float, frozen: float | None) -> int | None:
    """The number of epochs from which extraction and cached epochs together take no longer than frozen epochs,
    at least 1; None where they never do, or where `frozen` is unknown. All in seconds."""
    if frozen is None or cached >= frozen:
        return None
    return max(1, math.ceil(extraction / (frozen - cached)))
