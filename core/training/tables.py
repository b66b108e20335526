"""How comparisons, sweeps and plans look as tables: figures as text, a row of text for each row of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.common.table import Table
from headstart.common.text import (
    ACCURACY,
    HEADLINES,
    accuracy_text,
    counted,
    folds_line,
    headline_text,
    nbytes_text,
    points_text,
    printable,
    seconds_text,
    time_text,
    told_apart,
    val_score_name,
    val_score_text,
)
from headstart.report.conclusion import groups_of, interval_of
from headstart.report.endings import overview, sentence
from headstart.report.figures import loss
from headstart.report.scores import CLASS_SCORES, OF_ANY_SIZE, noun, score_name, score_text, worst_classes
from headstart.report.series import PHASES, found_there, is_weighted, meaning_of_star
from headstart.training.scores import Scores
from headstart.training.scores.fold_scores import FoldScores
from headstart.training.validation import Miss

RESAMPLING, FOLDS = "resampling the validation data", "Student's t over the folds"
OF_GROUPS = ", groups whole"
MEANINGS = {
    "s/epoch": "seconds of an epoch with its validation, the median without the first, in which compilers run",
    **PHASES,
    "extract": "seconds to fill the cache, once",
    "speed-up": "of an epoch, over a frozen one of the same backend",
    "total": "seconds of the whole run",
    "pays off": "the number of epochs from which the cache has saved time",
}
"""column of a comparison -> what it holds"""

PLAN_LEGEND = """\
extract: until the store has all features, once. epoch: training the head behind the cut and
validating it, on the cache; uncached: with the trunk run for every image. pays off: the number of epochs from
which the cache has saved time. ~ not measured, between cuts that were; * not all at once in memory: streamed."""

SHOWN_OF_NAMES = 40


def comparison_table(backend: str, versions: Mapping[str, str], entries: Sequence[Mapping[str, Any]]) -> Table:
    """The entries of one backend, as `Comparison.rows` has them. Below them: how long they were trained, and which
    epoch was kept."""
    names = [_name(entry) for entry in entries]
    return Table(
        ("mode", val_score_name(entries), *MEANINGS),
        [_comparison_cells(entry) for entry in entries],
        right=tuple(range(1, 10)),
        title=f"{backend} ({', '.join(f'{name} {version}' for name, version in versions.items())})",
        note=sentence(entries[0]) if len(entries) == 1 else overview(entries, names),
        gap=0,
    )


def comparison_legend(comparison: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """What the columns mean that any of these tables of a comparison shows, and the marks that stand in them."""
    shown = {column for table in tables for column in table.without_empty_columns().columns}
    cells = "".join(cell for table in tables for row in table.rows for cell in row)
    how = FOLDS if any(entry.get("folds") for entry in comparison["rows"]) else RESAMPLING
    if how == RESAMPLING and any(groups_of(entry) for entry in comparison["rows"]):
        how += OF_GROUPS
    of_score = {"±": f"half of the 95 % interval, by {how}", "=": "they do not tell it from the best"}
    weighted = any(map(is_weighted, comparison["rows"]))
    star = f"; * {meaning_of_star(comparison['rows'])}" if "*" in cells else ""
    meanings = {**MEANINGS, "extract": MEANINGS["extract"] + star}
    said = ["; ".join(f"{mark}: {meaning}" for mark, meaning in of_score.items() if mark in cells)]
    said += ["Scores of validation count samples by their weights"] if weighted else []
    said += [f"{column}: {meaning}" for column, meaning in meanings.items() if column in shown]
    return " ".join(f"{sentence}." for sentence in said if sentence)


def _name(entry: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (entry["mode"], (entry.get("settings") or {}).get("solver"))))


def _comparison_cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    epoch, speedup = entry["seconds_per_epoch"], entry["speedup_over_frozen"]
    extraction = "-"
    if entry["features_made_by"]:
        extraction = seconds_text(entry["extraction_seconds"]) + ("*" if found_there(entry) else "")
    return (
        _name(entry),
        _accuracy_text(entry),
        *(seconds_text(epoch[phase]) if epoch[phase] else "-" for phase in ("total", *PHASES)),
        extraction,
        "-" if speedup is None else f"{speedup:.0f}x" if speedup >= 10 else f"{speedup:.1f}x",
        f"{entry['total_seconds']:.1f}",
        _epochs_text(entry["pays_off_after_epochs"], "-"),
    )


def _accuracy_text(entry: Mapping[str, Any]) -> str:
    """With half of its interval, and "=" where the samples do not tell it from the best."""
    half = _half_text(entry)
    mark = "=" if half and (entry.get("against_best") or {}).get("noise") else ""
    return f"{mark}{val_score_text(entry)}{half}"


def _half_text(entry: Mapping[str, Any]) -> str:
    """Half of the interval of the headline score; "" where it is not known."""
    name, ends = entry.get("score") or ACCURACY, interval_of(entry)
    if ends is None:
        return ""
    half = (ends[1] - ends[0]) / 2
    if name in OF_ANY_SIZE:
        return f"±{half:,.0f}" if half >= 99.5 else f"±{half:.2g}"
    return f"±{points_text(half)}"


def sweep_table(entries: Sequence[Mapping[str, Any]], top: int | None = None) -> Table:
    """The best `top` entries of `Sweep.table()`, at least one; None: all."""
    axes = [name for name in ("lr", "weight_decay", "seed") if entries and name in entries[0]]
    judged = any(entry["accuracy"] is not None for entry in entries)  # numbers are not right or wrong
    halved = any(entry.get("pruned") for entry in entries)
    tried = [told_apart([entry[name] for entry in entries]) for name in axes]
    texts = [
        (
            *(of_axis[i] for of_axis in tried),
            val_score_text(entry) + _half_text(entry),
            "-" if entry["val_loss"] is None else loss(entry["val_loss"]),
            *([accuracy_text(entry, "accuracy")] if judged else []),
            loss(entry["loss"]),
            *([f"{'*' if entry['pruned'] else ''}{entry['epochs']}"] if halved else []),
        )
        for i, entry in enumerate(entries[: None if top is None else max(1, top)])
    ]
    several = any(entry.get("score") == "micro_f1" for entry in entries)  # a sample is right if all labels are
    trained = [f"train {'subset ' if several else ''}acc"] if judged else []
    columns = (*axes, val_score_name(entries), "val loss", *trained, "train loss", *(["epochs"] if halved else []))
    legend = "* pruned: ended early, as others were better after as many epochs" if halved else ""
    return Table(columns, texts, right=tuple(range(len(columns))), legend=legend)


WEIGHTED = "Scores count samples by their weights; numbers of samples do not."
# For the score itself: as many new samples give one that is off by luck as well, in 17 of 100 cases by more.
INTERVAL_LEGEND = "95 %: the interval for the score on all samples of this kind, by resampling."
GROUPS_LEGEND = "95 %: the interval for the score on all groups of this kind, by resampling the {}."
SCORES_LEGENDS = {
    "single": f"""\
{INTERVAL_LEGEND} macro: mean over the classes that have the score.
calibration error: by how much the probabilities are off, in the mean.""",
    "multi": f"""\
{INTERVAL_LEGEND} micro: of all labels together.
macro: mean over the labels that have the score. subset accuracy: samples whose labels are all right.""",
    "regression": f"""\
{INTERVAL_LEGEND} In the units of the targets, in the mean over them; standardised: each
in its deviation among the training data, so that no unit rules.
R2: 1 where all is predicted, 0 where no more than the mean is.""",
}


def scores_table(scores: Scores, weighted: bool = False) -> Table:
    """A row a score, with the interval of the first; of those that are not there the reason. `weighted`: whether
    samples count by weights of theirs."""
    rows = []
    for name, value in scores.values.items():
        ends = scores.intervals.get(name)
        interval = "" if ends is None else " to ".join(score_text(name, end) for end in ends)
        rows.append((score_name(name), score_text(name, value), interval))
    rows += [(score_name(name), "-", reason) for name, reason in scores.undefined.items()]
    legend = SCORES_LEGENDS[scores.task]
    if groups := scores.settings.get("groups"):
        legend = legend.replace(INTERVAL_LEGEND, GROUPS_LEGEND.format(counted(groups, "group")))
    if (threshold := scores.settings.get("threshold")) is not None:
        legend += f"\npredicted: labels whose probability is larger than {threshold:g}."
    legend += f"\n{WEIGHTED}" if weighted else ""
    return Table(("score", "value", "95 %"), rows, right=(1,), legend=legend)


def classes_table(scores: Scores) -> Table:
    """A row a class, label or target; of many those that have the lowest F1, or R2."""
    rows, title = worst_classes(scores.per_class, scores.task)
    names = [name for name in CLASS_SCORES if any(name in row for row in scores.per_class)]
    texts = [
        (row["class"], str(row["samples"]), *(score_text(n, row[n]) if n in row else "-" for n in names))
        for row in rows
    ]
    columns = (noun(scores.task)[0], "samples", *(CLASS_SCORES[name] for name in names))
    return Table(columns, texts, right=tuple(range(1, len(columns))), title=title)


def confusions_table(confusions: Sequence[Mapping[str, Any]]) -> Table:
    """Of `Evaluation.confusions`."""
    texts = [(pair["true"], pair["predicted"], str(pair["count"]), str(pair["of"])) for pair in confusions]
    return Table(("true class", "taken for", "times", "of"), texts, right=(2, 3))


def misses_table(misses: Sequence[Miss], names: Sequence[str], task: str) -> Table:
    """Of `Validation.misses`; `names`: what the samples are called."""
    texts = [
        (_end_of(name), miss.label, miss.predicted, f"{miss.error:.4g}")
        for name, miss in zip(names, misses, strict=False)
    ]
    error = "loss" if task == "multi" else "error, sd"
    return Table(("worst samples", noun(task)[1], "predicted", error), texts, right=(3,))


def _end_of(name: str) -> str:
    """Of a long path the end, which tells files apart."""
    return name if len(name) <= SHOWN_OF_NAMES else f"...{name[3 - SHOWN_OF_NAMES :]}"


def folds_table(scores: FoldScores, samples: int, epochs: int) -> Table:
    """A row a fold. `samples`, `epochs`: that the model itself was trained with."""
    rows = [
        (
            printable(fold),
            str(size),
            "-" if value is None else headline_text(scores.score, value),
            "-" if of_fold is None else loss(of_fold),
            str(epoch),
        )
        for fold, size, value, of_fold, epoch in zip(
            scores.called, scores.sizes, scores.values, scores.losses, scores.best_epochs, strict=True
        )
    ]
    columns = ("fold", "held out", HEADLINES[scores.score], "loss", "best epoch")
    legend = f"""\
{folds_line(scores)}, by Student's t over the folds.
Each fold is scored by a model that was trained on the others. The model itself is trained on all {samples:,}
samples, for the folds' median best number of epochs, {epochs}; the folds do not tell what it scores on new
samples, which should be this or a little better."""
    if scores.always:
        legend += f"\nIn no fold, and in what each model is trained on: {counted(scores.always, 'sample')}."
    return Table(columns, rows, right=tuple(range(len(columns))), legend=legend)


def plan_table(plans: Sequence[Mapping[str, Any]]) -> Table:
    """The plans of `Plan.table()`."""
    same = len({plan["epochs"] for plan in plans}) == 1
    texts = [
        (
            plan["cut"] + ("" if plan["measured"] else " ~"),
            nbytes_text(plan["nbytes"]) + ("*" if plan["where"] == "disk" else ""),
            time_text(plan["extraction_seconds"]) if plan["missing"] else "there",
            time_text(plan["cached_epoch_seconds"]),
            time_text(plan["uncached_epoch_seconds"]),
            _epochs_text(plan["pays_off_after_epochs"], "never"),
            *([] if same else [str(plan["epochs"])]),
            time_text(plan["total_seconds"]),
            time_text(plan["uncached_total_seconds"]),
        )
        for plan in plans
    ]
    total = [f"{plans[0]['epochs']} epochs"] if same else ["epochs", "in total"]
    columns = ("cut", "cache", "extract", "epoch", "uncached", "pays off", *total, "uncached")
    return Table(columns, texts, right=tuple(range(1, len(columns))), legend=PLAN_LEGEND, gap=1)


def _epochs_text(epochs: int | None, never: str) -> str:
    return never if epochs is None else counted(epochs, "epoch")
