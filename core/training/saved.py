"""A saved run, read again: what `headstart.training.saving` wrote, and what earlier versions did.

Invariant: the folder may come from anywhere, and another process may save to it meanwhile. What is not a complete
run, with the very weights that its record names, is a WeightsError.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from headstart.common.download import digest
from headstart.common.errors import HeadstartError, WeightsError
from headstart.common.places import expanded
from headstart.common.reading import check, read_json
from headstart.common.version import __version__, written_by
from headstart.contract import registry
from headstart.data import Arrays
from headstart.data.annotations import SINGLE, TASKS
from headstart.data.id_set import IdSet
from headstart.data.names import class_list
from headstart.data.preprocess import Preprocess
from headstart.features.feature_set import ExtractionStats
from headstart.models import Model, architecture
from headstart.models.layouts import fitted
from headstart.models.model import check_model
from headstart.models.weights import read_weights
from headstart.models.wrapped import restored
from headstart.store.keys import spec_digest
from headstart.training.history import History
from headstart.training.modes import mode_of
from headstart.training.objective import objective_of_run
from headstart.training.run import Run
from headstart.training.saving import FORMAT, RECORD, WEIGHTS, WEIGHTS_BEFORE, checksum
from headstart.training.scores import Scores
from headstart.training.scores.fold_scores import FoldScores
from headstart.training.scores.multi import THRESHOLD
from headstart.training.scores.outcome import Outcome
from headstart.training.scores.result import HEADLINES
from headstart.training.shapes import LARGEST, RUN
from headstart.training.validation import Validation

FORMAT_BEFORE = 1  # the weights were always called the same, and nothing tied them to their record
READINGS = 5  # of a folder that is saved to while it is read


def load(path: str | Path, backend: str | None = None, model: Model | None = None) -> Run:
    """The run that `Run.save` wrote to the folder `path`, ready to predict, in any backend: `backend`, else
    HEADSTART_BACKEND, else the one that trained it if it is installed, or none is, else the only one installed.

    `model`: for a run of a wrapped model, whose code is in no file: what `hs.wrap` makes of the same module, with
    whatever weights. Raises WeightsError where the folder holds no complete run, or one of another model, and
    SettingError where `model` is a module itself.
    """
    folder = expanded(path)
    if model is not None:
        check_model(model)
    for left in reversed(range(READINGS)):
        about = _record(folder)
        try:
            run = _run(folder, about, model)
            break
        except WeightsError:
            # Saved to in this moment, its weights may be others by now.
            if not left or _record(folder).get("weights") == about.get("weights"):
                raise
    installed = registry.installed()
    # Where none is installed, weights can still be looked at and leave; what computes says what is missing.
    if backend is None and not os.environ.get(registry.VARIABLE) and (run.backend in installed or not installed):
        return run
    return replace(run, backend=registry.choose(backend, run.model.home))


def weights_file(path: str | Path) -> Path:
    """The safetensors file with the weights of the run in the folder `path`, by torchvision's or timm's names:
    `model.load_state_dict(safetensors.torch.load_file(hs.weights_file("out/")))`. WeightsError where no run is
    saved there."""
    folder = expanded(path)
    about = _record(folder)
    check_shape(folder, about, {name: RUN[name] for name in ("format", "weights")})
    return _weights(folder, about)


def _meant(folder: Path) -> str:
    """Which run beside a folder, or within it, was probably meant; "" where none is near."""
    within = sorted(path.parent for path in folder.glob(f"*/{RECORD}"))
    beside = {path.parent.name: path.parent for path in folder.parent.glob(f"*/{RECORD}")}
    near = within if len(within) == 1 else [beside[name] for name in get_close_matches(folder.name, beside, 1)]
    return f"; did you mean {near[0]}?" if near else ""


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if folder.is_file():
        beside = f", such as {folder.parent}" if folder.name == RECORD else ""
        beside += ", or hs.OnnxModel for an ONNX file" if folder.suffix.lower() == ".onnx" else ""
        raise WeightsError(f"{folder} is a file; expected the folder that Run.save wrote{beside}")
    try:
        about = read_json(path, LARGEST, "a saved run", {"format": int}, WeightsError)
    except FileNotFoundError:
        raise WeightsError(f"{folder}: no run is saved there (run.json is missing){_meant(folder)}") from None
    if about["format"] not in (FORMAT_BEFORE, FORMAT):
        raise WeightsError(
            f"{folder}: saved in format {about['format']}{written_by(about)}; this one ({__version__}) reads "
            f"{FORMAT_BEFORE} and {FORMAT}; open it with the version that wrote it, or a later one"
        )
    content: dict[str, Any] = about
    return content


def check_shape(folder: Path, about: Mapping[str, Any], shape: Mapping[str, Any]) -> None:
    try:
        check(about, shape)
    except ValueError as error:
        raise WeightsError(f"{folder / RECORD}: not a saved run ({error})") from error


def _weights(folder: Path, about: Mapping[str, Any]) -> Path:
    if about["format"] == FORMAT_BEFORE:
        return folder / WEIGHTS_BEFORE
    stated = about.get("weights")
    if stated is None or not WEIGHTS.fullmatch(stated["file"]):
        raise WeightsError(f"{folder / RECORD}: not a saved run (it names no weights of its own)")
    return folder / str(stated["file"])


def _run(folder: Path, about: Mapping[str, Any], model: Model | None) -> Run:
    check_shape(folder, about, RUN)
    weights = _weights(folder, about)
    if about["format"] != FORMAT_BEFORE:
        _verify(weights, about["weights"]["sha256"])
    spec, stats = about["model"], about.get("extraction")
    if spec.get("wrapped") is None and model is not None:
        raise WeightsError(
            f"{folder}: the run of a {spec['name'][:40]}, which is saved whole: leave out model= (the "
            f"{model.name} passed), which is for runs of wrapped models"
        )
    try:
        model = _known(spec, weights) if spec.get("wrapped") is None else _wrapped(spec, weights, model)
        run = Run(
            model,
            about["mode"],
            about["cut"],
            about["backend"],
            _history(about, "history", "best_epoch"),
            _history(about, "head_history", "head_best_epoch"),
            ExtractionStats(**{**stats, "made_by": tuple(stats["made_by"])}) if stats else None,
            about["seconds"],
            about["settings"],
            about.get("data") or {},
            about.get("trained"),
            Validation.from_dict(about["validation"]) if about.get("validation") else None,
            Outcome.known(Scores.from_dict(about["scores"])) if about.get("scores") else None,
            IdSet.from_dict(about["train_ids"]) if about.get("train_ids") else None,
            FoldScores.from_dict(about["folds"]) if about.get("folds") else None,
        )
        _check_sense(run)
        if about.get("checksum", checksum(about)) != checksum(about):  # runs of before have none
            raise WeightsError(
                f"{folder / RECORD}: damaged or edited after the run was saved (its checksum is that of something "
                "else), so predictions might be others than the run's; copy the file anew, or if the change was "
                "meant, take the entry 'checksum' out of it"
            )
    except WeightsError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, HeadstartError) as error:
        said = str(error) if isinstance(error, HeadstartError) else repr(error)
        raise WeightsError(f"{folder / RECORD}: not a saved run ({said})") from error
    return run


def _history(about: Mapping[str, Any], name: str, best: str) -> History:
    """The epochs of a stage. Runs of before kept the last one, and do not say so."""
    validated = about.get("validation") is not None and not about.get("folds")
    return History.from_list(about[name], validated, about.get(best))


def _check_sense(run: Run) -> None:
    """ValueError for what has the right types and says what cannot be."""
    if not run.history:
        raise ValueError("history is empty")
    mode_of(run.mode)
    if run.cut is not None:
        run.model.graph.check_cut(run.cut)
    classes = range(len(run.model.classes))
    if run.model.task not in TASKS or not 0 < run.model.threshold < 1:
        raise ValueError(f"the model is of the task {run.model.task[:40]!a}, threshold {run.model.threshold}")
    objective_of_run(run.model, run.settings)
    if run.scores is not None and run.scores.task not in TASKS:
        raise ValueError(f"scores are of the task {run.scores.task[:40]!a}")
    if run.folds is not None and run.folds.score not in HEADLINES:
        raise ValueError(f"folds have the score {run.folds.score[:40]!a}")
    if run.validation is not None:
        cells = [(label, predicted) for label, predicted, _ in run.validation.confusion]
        cells += [(mistake.label, mistake.predicted) for mistake in run.validation.worst]
        if any(number not in classes for cell in cells for number in cell):
            raise ValueError(f"validation names a class beyond the {len(classes)} that there are")


def _verify(weights: Path, sha256: str) -> None:
    """WeightsError unless the file is the one that the record was saved with."""
    try:
        if not weights.is_file():
            raise WeightsError(f"{weights}: no such weight file, and run.json names it; the run is not complete")
        actual = digest(weights)
    except OSError as error:
        raise WeightsError(f"{weights}: cannot be read ({error.strerror or error})") from error
    if actual != sha256:
        raise WeightsError(
            f"{weights}: not the weights that the run was saved with (sha256 {actual[:16]}..., run.json says "
            f"{sha256[:16]}...); is it complete?"
        )


def _known(spec: Mapping[str, Any], weights: Path) -> Model:
    """The model of a saved run, by its architecture's name."""
    head = spec["head"] if isinstance(spec["head"], str) else tuple(spec["head"])
    arch = architecture(spec["name"])
    preprocess = Preprocess.from_dict(spec["preprocess"])
    file = read_weights(weights)  # before the graph: what it names may be many classes, and the file has few
    graph = arch.graph(len(spec["classes"]), head, preprocess.size)
    if not spec["auxiliary"]:
        graph = graph.upto(graph.output)
    return Model(
        spec["name"],
        graph,
        fitted(file.source, file.params, graph, arch.layouts),
        preprocess,
        class_list(spec["classes"], WeightsError),
        head,
        spec["weights"],
        frozenset(),
        spec["named_classes"],
        task=spec.get("task") or SINGLE,
        threshold=spec.get("threshold") or THRESHOLD,
    )


def _wrapped(spec: Mapping[str, Any], weights: Path, model: Model | None) -> Model:
    """The wrapped model of a saved run: `model` with the weights, classes and preprocessing that were saved."""
    if model is None or model.home is None:
        raise WeightsError(
            f"{weights.parent}: the run of a wrapped model, {spec['name']}, whose code is not saved; in Python "
            "hs.load(path, model=hs.wrap(...)) of the same module, cut and head opens it"
        )
    if spec_digest({"graph": model.graph.spec()}) != spec["wrapped"]:
        raise WeightsError(
            f"{weights.parent}: the run of another wrapped model than the one passed, {model.name}: its module, "
            f"cut, head or number of classes differs from what was saved ({spec['name']}, {len(spec['classes'])} "
            "classes)"
        )
    if len(spec["classes"]) != len(model.classes):
        raise WeightsError(
            f"{weights.parent}: run.json names {len(spec['classes'])} classes, and the model has "
            f"{len(model.classes)}"
        )
    images = "arrays" not in spec["preprocess"]
    return replace(
        model,
        name=spec["name"],
        params=restored(model, weights),
        preprocess=(Preprocess if images else Arrays).from_dict(spec["preprocess"]),
        classes=class_list(spec["classes"], WeightsError),
        weights=spec["weights"],
        fresh=frozenset(),
        named_classes=spec["named_classes"],
        task=spec.get("task") or SINGLE,
        threshold=spec.get("threshold") or THRESHOLD,
    )
