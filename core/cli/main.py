"""The command line: a thin skin over the library's functions.

A user's mistake is one line on standard error and exit code 2; a traceback comes only with --debug. Results go
to standard output, everything about progress to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.arguments import attempt, check_arguments, failures_told_last
from headstart.cli.streams import UNPRINTED, quietly, standard_streams, unprinted
from headstart.cli.tables import (
    LEGEND,
    PLAN_LEGEND,
    Live,
    cell,
    comparison_table,
    console_for_tables,
    plan_table,
    sweep_table,
    table_of,
)
from headstart.common.environment import for_frameworks
from headstart.common.errors import HeadstartError, SettingError
from headstart.common.log import LOG, handed_to, set_level, to_stderr
from headstart.common.scheduling import take_short_turns
from headstart.common.sizes import parse_nbytes
from headstart.common.text import (
    extraction_line,
    nbytes_text,
    placement_line,
    printable,
    say,
    shape_text,
    time_text,
    when,
)

EXAMPLES = """
Examples:

  headstart compare
  headstart compare --data flower_photos --modes frozen,cached,full --epochs 3
  headstart plan --data flower_photos --model resnet50 --budget 2GB
  headstart fit --data flower_photos --mode cached --cut layer4.0 --out run/
  headstart predict --run run/ rose.jpg tulip.jpg
  headstart predict --model resnet50 --weights imagenet rose.jpg
  headstart models resnet50
  headstart weights ls
  headstart cache ls
"""

app = typer.Typer(
    help="Transfer learning that computes a frozen trunk's features once, in PyTorch, Keras 3 and JAX.",
    epilog=EXAMPLES.replace("\n", "\n\n"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
cache_app = typer.Typer(help="Look at and tidy the feature store.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
weights_app = typer.Typer(
    help="Look at published weights, fetch them, and bring your own.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(weights_app, name="weights")


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


# ---- options that several commands share

Data = Annotated[
    str, typer.Option(help="digits, cifar10, flowers, or the path of a folder that holds a folder a class.")
]
ModelName = Annotated[str, typer.Option("--model", help="Architecture; `headstart models` lists them.")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Published or imported name (`headstart weights ls`), path of a .safetensors file, or none. "
        "(default: the model's first published ones)"
    ),
]
Size = Annotated[int | None, typer.Option(help="Side of the images in pixels. (default: the weights' own)")]
Head = Annotated[
    str, typer.Option(help="linear, or hidden widths and dropout rates such as 256 or 4096,0.5,4096,0.5.")
]
Cut = Annotated[
    str | None,
    typer.Option(help="Last node of the frozen trunk; see `headstart models NAME`. (default: before the head)"),
]
Epochs = Annotated[int, typer.Option(help="Epochs of training.")]
BatchSize = Annotated[int, typer.Option(help="Samples a step.")]
OptimizerName = Annotated[str | None, typer.Option("--optimizer", help="adamw or sgd. (default: by mode)")]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate. (default: the optimiser's)")]
RateScale = Annotated[
    str | None,
    typer.Option(
        "--lr-scale",
        help="Multiple of the rate for pretrained layers, such as 0.1, or by module: layer3=0.1,pretrained=0.01.",
    ),
]
ScheduleName = Annotated[str, typer.Option("--schedule", help="constant or cosine.")]
Warmup = Annotated[float, typer.Option(help="Share of the steps in which the learning rate rises.")]
Smoothing = Annotated[float, typer.Option(help="Label smoothing, 0 to 1.")]
AugmentText = Annotated[
    str | None, typer.Option("--augment", help="flip, crop or flip,crop; for modes that see images.")
]
Views = Annotated[
    int | None, typer.Option(help="Keep so many augmented views of every image; with --augment and the cache.")
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Of cached features at once, such as 512MB; more are streamed. (default: half of what is free)"
    ),
]
SavedFeatures = Annotated[
    Path | None,
    typer.Option(
        "--features",
        help="Train on what `headstart extract --save` wrote, without the images, in place of --data.",
    ),
]
Split = Annotated[float, typer.Option(help="Share of the data to train on; the rest validates.")]
SplitBy = Annotated[
    str,
    typer.Option(
        help="id: a picture's side goes by its content, and stays as the data grow; position: exact shares of "
        "every class, as in earlier versions."
    ),
]
Seed = Annotated[int, typer.Option(help="Of split, order, initial weights, dropout and augmentation.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="Of the arithmetic: float32 or bfloat16.")]
Dtype = Annotated[str, typer.Option(help="Of stored features: float16, float32 or bfloat16.")]
Workers = Annotated[int | None, typer.Option(help="Threads that decode images. (default: as many as CPUs)")]
OnError = Annotated[str, typer.Option(help="raise or skip: what to do with files that are no images.")]
BackendName = Annotated[
    str | None,
    typer.Option("--backend", help="torch, keras or jax. (default: HEADSTART_BACKEND, else the only one)"),
]
TensorBoard = Annotated[
    Path | None,
    typer.Option(help="Write curves, histograms and the graph to this folder; needs headstart[tensorboard]."),
]
DebugNans = Annotated[
    bool,
    typer.Option(
        "--debug-nans", help="Stop at the first value that is not finite, and name node, epoch and batch."
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option(help="Write the framework's own trace of each stage's second epoch to this folder."),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file as well.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from headstart.common.version import __version__

        print(f"headstart {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    log_level: Annotated[
        str,
        typer.Option(
            help="debug, info (a line an epoch), warning or error: what is said on standard error.",
            envvar="HEADSTART_LOG_LEVEL",
        ),
    ] = "info",
) -> None:
    set_level(log_level)


@app.command(
    epilog=_examples(
        "headstart compare",
        "headstart compare --data flower_photos --modes frozen,cached --cut layer4.0 --epochs 5",
        "headstart compare --backends torch,jax --device cpu --json figures.json",
    )
)
def compare(
    data: Data = "digits",
    model: ModelName = "resnet18_half",
    weights: Weights = None,
    size: Size = None,
    head: Head = "linear",
    cut: Cut = None,
    backends: Annotated[str | None, typer.Option(help="Comma-separated. (default: all installed)")] = None,
    modes: Annotated[str, typer.Option(help="Comma-separated.")] = "scratch,full,frozen,cached,staged",
    epochs: Epochs = 3,
    batch_size: BatchSize = 64,
    optimizer: OptimizerName = None,
    lr: Rate = None,
    lr_scale: RateScale = None,
    schedule: ScheduleName = "constant",
    warmup: Warmup = 0.0,
    label_smoothing: Smoothing = 0.0,
    split: Split = 0.8,
    split_by: SplitBy = "id",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    dtype: Dtype = "float16",
    workers: Workers = None,
    on_error: OnError = "raise",
    tensorboard: TensorBoard = None,
    debug_nans: DebugNans = False,
    profile: Profile = None,
    out: Annotated[Path, typer.Option(help="Folder for compare.json and report.html.")] = Path(
        "headstart-compare"
    ),
    json_file: Json = None,
) -> None:
    """Compare the modes in every installed backend: accuracy, seconds by phase, speed-up, break-even.

    Same weights, same data, same order, same start in each. Every backend runs in a process of its own.
    """
    from headstart.common.outputs import write_json
    from headstart.training.compare import compare as run_compare

    head_widths, scale = _head(head), _scale(lr_scale)
    _note_random_weights(model, weights)
    with Live() as live:
        report = run_compare(
            data,
            out=out,
            listener=live.listen,
            backends=_names(backends) if backends is not None else (),
            modes=_names(modes),
            model=model,
            weights=weights,
            size=size,
            head=head_widths,
            cut=cut,
            split=split,
            split_by=split_by,
            seed=seed,
            on_error=on_error,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            lr_scale=scale,
            schedule=schedule,
            warmup=warmup,
            label_smoothing=label_smoothing,
            device=device,
            precision=precision,
            dtype=dtype,
            workers=workers,
            tensorboard=tensorboard,
            debug_nans=debug_nans,
            profile=profile,
        )
    if json_file is not None:
        attempt(lambda: write_json(json_file, report))
    console = console_for_tables()
    about = report["data"]
    console.print(
        f"{about['name']}: {about['train']} training and {about['val']} validation images, "
        f"{len(about['classes'])} classes; {report['model']['name']} ({report['model']['weights'] or 'random'}) "
        f"at {report['model']['preprocess']['size']} px"
    )
    for line in about["skipped"]:
        console.print(f"skipped {printable(line[0])}: {printable(line[1])}")
    for name in report["settings"]["backends"]:
        if rows := [row for row in report["rows"] if row["backend"] == name]:
            console.print(comparison_table(name, report["versions"][name], rows))
    if report["rows"]:
        console.print(LEGEND, style="dim")
    files = ["compare.json", *(["report.html"] if report["rows"] else [])]
    console.print(f"written to {' and '.join(str(out / file) for file in files)}")
    for name, error in report["errors"].items():
        say(f"error: {name}: {error['message']}", err=True)
    if report["errors"]:
        mistakes = all(error["type"] != "crash" for error in report["errors"].values())
        raise typer.Exit(2 if mistakes else 1)


@app.command(
    epilog=_examples(
        "headstart fit --data flower_photos --out run/",
        "headstart fit --data flower_photos --mode full --augment flip,crop --lr-scale 0.1 --out run/",
        "HEADSTART_BACKEND=jax headstart fit --cut layer4.0 --epochs 20 --schedule cosine",
        "headstart fit --data flower_photos --augment flip,crop --views 4 --memory 512MB",
        "headstart fit --data flower_photos --mode full --cut input",
        "headstart fit --features saved/ --model resnet50",
    )
)
def fit(
    data: Data = "digits",
    model: ModelName = "resnet18_half",
    weights: Weights = None,
    size: Size = None,
    head: Head = "linear",
    cut: Cut = None,
    backend: BackendName = None,
    mode: Annotated[str, typer.Option(help="scratch, full, frozen, cached or staged.")] = "cached",
    epochs: Epochs = 5,
    batch_size: BatchSize = 64,
    optimizer: OptimizerName = None,
    lr: Rate = None,
    lr_scale: RateScale = None,
    schedule: ScheduleName = "constant",
    warmup: Warmup = 0.0,
    label_smoothing: Smoothing = 0.0,
    augment: AugmentText = None,
    batch_norm: Annotated[
        str, typer.Option(help="Statistics of trained batch norms: frozen, train, or auto (train in scratch).")
    ] = "auto",
    head_epochs: Annotated[
        int | None, typer.Option(help="Of mode staged: epochs on the cache before. (default: as many)")
    ] = None,
    views: Views = None,
    memory: Memory = None,
    features: SavedFeatures = None,
    split: Split = 0.8,
    split_by: SplitBy = "id",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    dtype: Dtype = "float16",
    workers: Workers = None,
    on_error: OnError = "raise",
    tensorboard: TensorBoard = None,
    debug_nans: DebugNans = False,
    profile: Profile = None,
    out: Annotated[
        Path | None, typer.Option(help="Save the trained model to this folder, with a report, report.html.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Train a model on a folder of images, and say how well it does."""
    from headstart.common.outputs import check_outputs, outdated, write_json
    from headstart.contract import registry
    from headstart.training import compare as comparison
    from headstart.training.comparison import comparison as one_run
    from headstart.training.fit import fit as run_fit

    check_outputs(out, json_file)  # now, and not after the training
    name = registry.choose(backend)
    spec = comparison.Spec(
        data, model, weights, size, _head(head), cut, (name,), (mode,), split, seed, on_error, split_by
    )
    _note_random_weights(model, weights)
    made, train, val = _prepared(spec, features)

    _import_quietly(name, device, precision)
    run = run_fit(
        made,
        train,
        val,
        mode=mode,
        cut=cut,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        lr_scale=_scale(lr_scale),
        schedule=schedule,
        warmup=warmup,
        label_smoothing=label_smoothing,
        augment=augment,
        batch_norm=batch_norm,
        head_epochs=head_epochs,
        seed=seed,
        backend=name,
        device=device,
        precision=precision,
        dtype=dtype,
        workers=workers,
        views=views,
        memory=memory,
        tensorboard=tensorboard,
        debug_nans=debug_nans,
        profile=profile,
    )
    report = one_run([run])
    (row,) = report.rows
    # Saved first: printing may fail, and what was trained must not depend on it.
    written = []
    if out is not None:
        outdated(out / "report.html")
        saved = attempt(lambda: f"saved to {run.save(out)}, with {report.report(out / 'report.html').name}")
        written += [saved] if saved else []
    if json_file is not None:
        facts = {key: report[key] for key in ("machine", "data", "model")}
        figures = {**facts, "versions": registry.versions(name), **row}
        if attempt(lambda: write_json(json_file, figures)) and out is None and json_file.suffix:
            shown = attempt(lambda: f"written to {report.report(json_file.with_suffix('.html'))}")
            written += [shown] if shown else []
    console = console_for_tables()
    console.print(comparison_table(name, registry.versions(name), [row]))
    if run.extraction is not None:
        console.print(extraction_line(run.extraction))
        console.print(placement_line(run.settings["features"]))
    for line in written:
        console.print(line)


@app.command(
    epilog=_examples(
        "headstart report headstart-compare/compare.json",
        "headstart report headstart-compare/compare.json --out figures.html",
    )
)
def report(
    figures: Annotated[Path, typer.Argument(metavar="COMPARE.JSON", help="What `headstart compare` wrote.")],
    out: Annotated[Path | None, typer.Option(help="File to write. (default: report.html beside it)")] = None,
) -> None:
    """Write the HTML report of a comparison again, from its figures."""
    from headstart.training.comparison import read_comparison

    console = console_for_tables()
    path = read_comparison(figures).report(out or figures.parent / "report.html")
    console.print(f"written to {path}")


@app.command(
    epilog=_examples(
        "headstart plan --data flower_photos --model resnet50",
        "headstart plan --data flower_photos --model resnet50 --budget 2GB,10min --epochs 20",
        "headstart plan --data flower_photos --cuts layer3,avgpool --precision bfloat16",
    )
)
def plan(
    data: Data = "digits",
    model: ModelName = "resnet18_half",
    weights: Weights = None,
    size: Size = None,
    head: Head = "linear",
    cuts: Annotated[
        str | None, typer.Option(help="Comma-separated cuts, each of them measured. (default: all legal ones)")
    ] = None,
    backend: BackendName = None,
    epochs: Epochs = 5,
    budget: Annotated[
        str | None,
        typer.Option(help="What the cache may take: bytes such as 2GB, a time such as 10min, or 2GB,10min."),
    ] = None,
    batch_size: BatchSize = 64,
    optimizer: OptimizerName = None,
    memory: Memory = None,
    split: Split = 0.8,
    split_by: SplitBy = "id",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    dtype: Dtype = "float16",
    workers: Workers = None,
    on_error: OnError = "raise",
    json_file: Json = None,
) -> None:
    """Predict what caching at each cut costs and saves, from a few batches; with --budget, name the best cut."""
    from headstart.common.machine import machine_facts
    from headstart.common.outputs import write_json
    from headstart.contract import registry
    from headstart.training import compare as comparison
    from headstart.training.plan import Budget
    from headstart.training.plan import plan as run_plan

    name = registry.choose(backend)
    allowed = Budget.parse(budget)
    spec = comparison.Spec(
        data, model, weights, size, _head(head), None, (name,), ("cached",), split, seed, on_error, split_by
    )
    _note_random_weights(model, weights)
    made, train, val = _prepared(spec, None)
    _import_quietly(name, device, precision)
    found = run_plan(
        made,
        train,
        val,
        cuts=_names(cuts) if cuts is not None else None,
        epochs=epochs,
        budget=allowed,
        batch_size=batch_size,
        optimizer=optimizer,
        backend=name,
        device=device,
        precision=precision,
        dtype=dtype,
        workers=workers,
        memory=memory,
    )
    facts = found.facts
    if json_file is not None:
        report = {
            "machine": machine_facts(),
            "data": {"name": train.name, "train": len(train), "val": len(val), "classes": list(train.classes)},
            "model": made.describe(),
            "epochs": epochs,
            "facts": dict(facts),
            "best": None if found.best is None else found.best.cut,
            "rows": found.table(),
        }
        attempt(lambda: write_json(json_file, report))
    console = console_for_tables()
    console.print(
        f"{printable(train.name)}: {facts['samples']} images; {made.name} at {made.preprocess.size} px; {name} on "
        f"{facts['device']}, {facts['precision']}; decoding {facts['decode_images_per_second']:.0f} images/s",
        highlight=False,
    )
    console.print(plan_table(found.table(), epochs))
    console.print(PLAN_LEGEND, highlight=False)
    if budget is not None:
        best = found.best
        if best is None:
            line = (
                f"within {budget} no cut fits: the smallest cache takes "
                f"{nbytes_text(min(row.nbytes for row in found.rows))}, the shortest time is "
                f"{time_text(min(row.total_seconds for row in found.rows))}"
            )
        else:
            line = (
                f"within {budget}, --cut {best.cut} trains the most: {nbytes_text(best.nbytes)}, {epochs} epochs "
                f"in {time_text(best.total_seconds)} instead of {time_text(best.uncached_total_seconds)}"
            )
        console.print(line, highlight=False)


@app.command(
    epilog=_examples(
        "headstart sweep --data flower_photos --lr 0.0003,0.001,0.003,0.01",
        "headstart sweep --data flower_photos --lr 0.001,0.01 --weight-decay 0,0.01,0.1 --seeds 0,1,2 --out best/",
        "headstart sweep --features saved/ --lr 0.001,0.01,0.1 --optimizer sgd --epochs 30 --schedule cosine",
    )
)
def sweep(
    data: Data = "digits",
    model: ModelName = "resnet18_half",
    weights: Weights = None,
    size: Size = None,
    head: Head = "linear",
    cut: Cut = None,
    backend: BackendName = None,
    lr: Annotated[str | None, typer.Option("--lr", help="Learning rates to try, comma-separated.")] = None,
    weight_decay: Annotated[
        str | None, typer.Option("--weight-decay", help="Weight decays to try, comma-separated.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Seeds of order and initial weights to try, comma-separated.")
    ] = None,
    epochs: Epochs = 5,
    batch_size: BatchSize = 64,
    optimizer: OptimizerName = None,
    schedule: ScheduleName = "constant",
    warmup: Warmup = 0.0,
    label_smoothing: Smoothing = 0.0,
    memory: Memory = None,
    features: SavedFeatures = None,
    split: Split = 0.8,
    split_by: SplitBy = "id",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    dtype: Dtype = "float16",
    workers: Workers = None,
    on_error: OnError = "raise",
    top: Annotated[int, typer.Option(help="How many of the best to show.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Save the best model to this folder.")] = None,
    json_file: Json = None,
) -> None:
    """Train a grid of heads on one cache, side by side where they are linear, and rank them.

    With neither --lr nor --weight-decay nor --seeds, eight learning rates from 0.0001 to 0.3 are tried.
    """
    from headstart.common.machine import machine_facts
    from headstart.common.outputs import check_outputs, write_json
    from headstart.contract import registry
    from headstart.training import compare as comparison
    from headstart.training.sweep import sweep as run_sweep

    texts = {"lr": lr, "weight_decay": weight_decay, "seed": seeds}
    grid = {name: _tried(name, text) for name, text in texts.items() if text is not None}
    check_outputs(out, json_file)
    name = registry.choose(backend)
    spec = comparison.Spec(
        data, model, weights, size, _head(head), cut, (name,), ("cached",), split, seed, on_error, split_by
    )
    _note_random_weights(model, weights)
    made, train, val = _prepared(spec, features)
    _import_quietly(name, device, precision)
    found = run_sweep(
        made,
        train,
        val,
        grid=grid or {"lr": [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3]},
        cut=cut,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        schedule=schedule,
        warmup=warmup,
        label_smoothing=label_smoothing,
        seed=seed,
        backend=name,
        device=device,
        precision=precision,
        dtype=dtype,
        workers=workers,
        memory=memory,
    )
    every_head_diverged = found.runs[0].diverged
    saved = attempt(lambda: found.best.save(out)) if out is not None and not every_head_diverged else None
    if json_file is not None:
        report = {
            "machine": machine_facts(),
            "versions": registry.versions(name),
            "data": {"name": train.name, "train": len(train), "val": len(val), "classes": list(train.classes)},
            "model": made.describe(),
            "cut": found.runs[0].cut,
            "settings": dict(found.runs[0].settings),
            "at_once": found.at_once,
            "seconds": found.seconds,
            "rows": found.table(),
        }
        attempt(lambda: write_json(json_file, report))
    console = console_for_tables()
    console.print(sweep_table(found.table(), top))
    if found.extraction is not None:
        console.print(extraction_line(found.extraction))
    how = f"{found.at_once} at once" if found.at_once > 1 else "one after the other"
    console.print(f"{len(found.runs)} heads, {how}; {found.seconds:.1f} s")
    if saved is not None:
        console.print(f"the best is saved to {saved}")
    if every_head_diverged and out is not None:
        raise SettingError(f"nothing is saved to {out}: every head diverged; try lower learning rates")


@app.command(
    epilog=_examples(
        "headstart extract --data flower_photos --cuts layer3,avgpool",
        "headstart extract --data flower_photos --dtype float32 --json figures.json",
        "headstart extract --data flower_photos --augment flip,crop --views 4",
        "headstart extract --data flower_photos --cuts input",
        "headstart extract --data flower_photos --save flowers/",
    )
)
def extract(
    data: Data = "digits",
    model: ModelName = "resnet18_half",
    weights: Weights = None,
    size: Size = None,
    cuts: Annotated[
        str | None, typer.Option(help="Comma-separated cuts. (default: what the classifier takes)")
    ] = None,
    backend: BackendName = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    precision: Precision = "float32",
    dtype: Dtype = "float16",
    augment: AugmentText = None,
    views: Annotated[int, typer.Option(help="How many augmented views of every image; with --augment.")] = 1,
    seed: Seed = 0,
    workers: Workers = None,
    on_error: OnError = "raise",
    save: Annotated[
        Path | None,
        typer.Option(help="Also write features and labels into this folder, for training without the images."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace what --save finds there.")] = False,
    json_file: Json = None,
) -> None:
    """Fill the cache with a data set's features; what is there already is not computed again."""
    from headstart.common.outputs import write_json
    from headstart.contract import registry
    from headstart.data import open_data
    from headstart.features.extract import extract as run_extract
    from headstart.features.packed import check_free
    from headstart.models.model import model as make_model
    from headstart.training import compare as comparison

    name = registry.choose(backend)
    if save is not None:
        check_free(save, replace)  # now, and not after a week of extraction
    _note_random_weights(model, weights)
    opened = open_data(data, on_error=on_error)
    # Features do not depend on the classifier, and some weights have none.
    made = make_model(model, comparison.chosen_weights(model, weights), opened.classes, size=size)
    _import_quietly(name, device, precision)
    features = run_extract(
        made,
        opened,
        _names(cuts) if cuts is not None else None,
        backend=name,
        device=device,
        precision=precision,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        augment=augment,
        views=views,
        seed=seed,
    )
    stats = features.stats
    shapes = made.graph.shapes(made.input_shape)
    figures: list[dict[str, Any]] = [
        {"cut": cut, "shape": list(shapes[made.graph.resolve(cut)]), "key": features.key(cut).digest}
        for cut in features.cuts
    ]
    saved = features.save(save, replace=replace) if save is not None else None
    if json_file is not None:
        write_json(json_file, {"data": opened.name, "model": model, "cuts": figures, **vars(stats)})
    console = console_for_tables()
    table = table_of("cut", "shape", "key", right=("shape",))
    for row in figures:
        table.add_row(row["cut"], shape_text(row["shape"]), row["key"])
    console.print(table)
    console.print(extraction_line(stats))
    if saved is not None:
        console.print(f"saved to {saved}")


@app.command(
    epilog=_examples(
        "headstart predict --run run/ rose.jpg tulip.jpg",
        "headstart predict --model resnet50 --weights imagenet --top 5 photos/",
        "headstart predict --model vit_b_16 --size 384 photo.jpg",
    )
)
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them, at any depth.")],
    run: Annotated[Path | None, typer.Option(help="Folder that `headstart fit --out` wrote.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Use a model as it is, without training.")] = None,
    weights: Weights = None,
    size: Size = None,
    backend: BackendName = None,
    device: Device = "auto",
    top: Annotated[int, typer.Option(min=1, help="Classes to name for each image.")] = 1,
    on_error: OnError = "raise",
    json_file: Json = None,
) -> None:
    """Classify images: with a model that was trained here, or with a published one as it is."""
    import numpy as np

    from headstart.common.outputs import write_json
    from headstart.contract import registry
    from headstart.data import images_at
    from headstart.data.summary import say
    from headstart.models.model import model as make_model
    from headstart.training import compare as comparison
    from headstart.training.metrics import softmax
    from headstart.training.prediction import predict as run_predict
    from headstart.training.saved import load

    if (run is None) == (model is None):
        raise SettingError("name a trained model with --run FOLDER, or one to use as it is with --model NAME")
    if run is not None:
        if weights is not None or size is not None:
            raise SettingError("--weights and --size go with --model; a trained model has its own")
        trained = load(run, backend)
        made, name = trained.model, trained.backend
    else:
        chosen = comparison.chosen_weights(str(model), weights)
        if chosen is None:
            raise SettingError(f"{model} has no weights to use as they are; pass --weights FILE.safetensors")
        name = registry.choose(backend)
        made = make_model(str(model), weights=chosen, size=size)
    opened = images_at(images, on_error)
    _import_quietly(name, device, "float32")
    if opened.skipped or any(path.is_dir() for path in images):
        say(opened)
    probabilities = softmax(run_predict(made, opened, backend=name, device=device))
    console = console_for_tables()
    table = table_of("image", "class", "probability", right=("probability",))
    figures: list[dict[str, Any]] = []
    for i, row in enumerate(probabilities):
        file, best = opened.source_name(i), row.argsort()[::-1][:top]
        if not np.isfinite(row).all():  # of a model that has diverged; a warning has said so
            figures.append({"image": file, "classes": []})
            table.add_row(cell(file), "-", "not finite")
            continue
        figures.append({"image": file, "classes": [[made.classes[k], float(row[k])] for k in best]})
        for rank, k in enumerate(best):
            table.add_row(cell(file if rank == 0 else ""), cell(made.classes[k]), f"{row[k]:.1%}")
    if json_file is not None:
        attempt(lambda: write_json(json_file, figures))
    console.print(table)


@app.command(epilog=_examples("headstart models", "headstart models resnet18_half --size 128"))
def models(
    name: Annotated[str | None, typer.Argument(help="A model, to see where it can be cut.")] = None,
    size: Size = None,
    json_file: Json = None,
) -> None:
    """List the models, or the legal cuts of one; counted with 1,000 classes."""
    from headstart.common.outputs import write_json
    from headstart.models import ARCHITECTURES, architecture
    from headstart.models.model import count_params

    figures: list[dict[str, Any]] = []
    if name is None:
        table = table_of("model", "parameters", "multiply-adds", "pixels", "weights", right=(1, 2, 3))
        for arch in ARCHITECTURES.values():
            side = size or arch.preprocess.size
            try:
                graph = arch.graph(1000, size=side)
                macs: int | None = sum(graph.main.macs((side, side, 3)).values())
            except HeadstartError:
                graph, macs = arch.graph(1000), None  # takes images of one size, or multiples of a patch, only
            row = {
                "model": arch.name,
                "parameters": count_params(graph),
                "multiply_adds": macs,
                "pixels": side,
                "weights": list(arch.weights),
            }
            figures.append(row)
            table.add_row(
                arch.name,
                f"{row['parameters']:,}",
                f"{macs / 1e9:.3f} G" if macs is not None else "-",
                str(side),
                ", ".join(arch.weights) or "-",
            )
    else:
        arch = architecture(name)
        side = size or arch.preprocess.size
        graph = arch.graph(1000, size=side).main
        shapes, per_node = graph.shapes((side, side, 3)), graph.macs((side, side, 3))
        total, before = sum(per_node.values()), 0
        cuts = set(graph.cuts())
        table = table_of("cut", "shape", "kB a sample", "FLOPs before", right=(1, 2, 3))
        for node in graph.nodes:
            before += per_node[node.name]
            if node.name not in cuts:
                continue
            nbytes = 2
            for side_length in shapes[node.name]:
                nbytes *= side_length
            figures.append(
                {
                    "cut": node.name,
                    "shape": list(shapes[node.name]),
                    "bytes_per_sample_float16": nbytes,
                    "flops_share_before": before / total,
                }
            )
            table.add_row(
                node.name, shape_text(shapes[node.name]), f"{nbytes / 1000:,.1f}", f"{before / total:.1%}"
            )
    if json_file is not None:
        write_json(json_file, figures)
    console_for_tables().print(table)


# ---- weights

OneModel = Annotated[str, typer.Argument(metavar="MODEL", help="Architecture; `headstart models` lists them.")]
OneWeights = Annotated[
    str | None, typer.Option("--weights", help="Published name. (default: the model's first published ones)")
]


@weights_app.command("ls", epilog=_examples("headstart weights ls", "headstart weights ls resnet50"))
def weights_ls(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this architecture.")] = None,
    json_file: Json = None,
) -> None:
    """List published and imported weights: where they are from, whether they are here, and what pins them."""
    from headstart.common.outputs import write_json
    from headstart.models import ARCHITECTURES, architecture
    from headstart.models.imported import names
    from headstart.models.weights import described

    chosen = list(ARCHITECTURES.values()) if model is None else [architecture(model)]
    figures = [
        {"model": arch.name, "weights": name, **described(arch, name)}
        for arch in chosen
        for name in [*arch.weights, *names(arch.name)]
    ]
    table = table_of("model", "weights", "from", "here", "pinned by")
    for row in figures:
        table.add_row(
            row["model"], row["weights"], row["from"], "yes" if row["here"] else "-", row["pinned"] or "-"
        )
    if json_file is not None:
        write_json(json_file, figures)
    console_for_tables().print(table)


@weights_app.command(
    "fetch",
    epilog=_examples("headstart weights fetch resnet50", "headstart weights fetch vit_b_16 --weights imagenet"),
)
def weights_fetch(model: OneModel, weights: OneWeights = None) -> None:
    """Download published weights now, for a machine or a time without a network; prints where they are."""
    from headstart.models.weights import published_file

    say(published_file(_published(model, weights)))


@weights_app.command("update", epilog=_examples("headstart weights update resnet50"))
def weights_update(model: OneModel, weights: OneWeights = None) -> None:
    """Take what the hub holds now of weights that the first use pinned; nothing else ever changes them."""
    from headstart.models import hub
    from headstart.models.architecture import Hub

    row = _published(model, weights)
    if not isinstance(row, Hub):
        raise SettingError(f"these weights of {model} are not from the hub; they cannot change")
    before, after = hub.update(row)
    if before == after:
        say(f"{row.repo} is up to date: {after.revision}")
    else:
        say(f"{row.repo}: {before.revision or 'nothing'} -> {after.revision} (sha256 {after.sha256})")


@weights_app.command(
    "import",
    epilog=_examples(
        "headstart weights import mine.safetensors --model resnet50",
        "headstart weights import best.pth --model resnet50 --name mine --allow-pickle --classes roses,tulips",
        "headstart weights import vit.safetensors --model vit_b_16 --size 384 --interpolation bicubic",
        "headstart fit --model resnet50 --weights mine --data flower_photos",
    ),
)
def weights_import(
    file: Annotated[Path, typer.Argument(help="A .safetensors file; with --allow-pickle what torch.save wrote.")],
    model: Annotated[str, typer.Option("--model", help="Architecture that the weights are for.")],
    name: Annotated[str | None, typer.Option(help="What to call them. (default: the file's name)")] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Read .pth, .pt, .bin: tensors only, by torch >= 2.10, in a process of its own.",
        ),
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of the classifier's outputs: a,b,c, or a file with one a line, a JSON list or a JSON map."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side in pixels they were trained with. (default: usual)")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Shorter side before the crop. (default: in proportion)")
    ] = None,
    interpolation: Annotated[str | None, typer.Option(help="nearest, bilinear, bicubic or lanczos.")] = None,
    mean: Annotated[str | None, typer.Option(help="Of R,G,B in 0 to 1, such as 0.485,0.456,0.406.")] = None,
    std: Annotated[str | None, typer.Option(help="Of R,G,B in 0 to 1, such as 0.229,0.224,0.225.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Let earlier ones of that name give way.")] = False,
) -> None:
    """Keep weights of your own under a name, which --weights and hs.model then take for that model.

    Names may be torchvision's or timm's, with prefixes such as module., under keys such as state_dict or model.

    What does not fit the model exactly is refused, with a list of what differs.
    """
    from headstart.data.class_files import class_names_of
    from headstart.models.importing import import_weights

    settings = {"size": size, "resize": resize, "interpolation": interpolation}
    kept = import_weights(
        file,
        model,
        name,
        allow_pickle=allow_pickle,
        classes=None if classes is None else class_names_of(classes),
        preprocess={**settings, "mean": _numbers("--mean", mean), "std": _numbers("--std", std)},
        replace=replace,
    )
    say(f"kept as {kept}; use it with --model {model} --weights {kept.name.removesuffix('.safetensors')}")


@weights_app.command("rm", epilog=_examples("headstart weights rm mine --model resnet50"))
def weights_rm(
    name: Annotated[str, typer.Argument(help="What they were called when they were imported.")],
    model: Annotated[str, typer.Option("--model", help="Architecture that they are for.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove imported weights. What was downloaded from the hub is in its cache: see `hf cache`."""
    from headstart.common.errors import UnknownNameError
    from headstart.models import architecture
    from headstart.models.imported import find, names, remove

    path = find(architecture(model).name, name)
    if path is None:
        raise UnknownNameError("imported weights", name, names(model), f" for {model}")
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"remove {path}?", err=True)):
        say(f"would remove {path}; nothing was removed, add --yes to do it")
        return
    say(f"removed {remove(model, name)}")


@weights_app.command(
    "pin", epilog=_examples("headstart weights pin", "headstart weights pin --moved --out core/models/pins.json")
)
def weights_pin(
    out: Annotated[
        Path | None, typer.Option(help="Table to read and write. (default: the one in this package)")
    ] = None,
    moved: Annotated[
        bool, typer.Option("--moved", help="Pin what the hub holds now, not what was pinned.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Also compare names and shapes with the architectures.")] = True,
) -> None:
    """For maintainers: ask the hub for commit and sha256 of every published file, and write the table of pins.

    Users get exactly those files. What the table had is kept where the hub does not answer; exit code 1 then.
    """
    from headstart.models import hub
    from headstart.models.weights import check_published, hub_rows

    path = out if out is not None else hub.shipped_pins()
    rows = hub_rows()
    known = hub.read_pins(path)
    pins, failed = hub.table_of_pins({name: row for name, (_, row) in rows.items()}, known, moved)
    for name, (arch, row) in rows.items():
        if check and name not in failed:
            try:
                check_published(arch, row, pins[name])
            except HeadstartError as error:
                failed[name] = error
    hub.write_pins(path, pins)
    say(f"{len(pins)} files are pinned in {path}; {sum(pins[n] != known.get(n) for n in pins)} are new or moved")
    for name, why in failed.items():
        say(f"failed: {name}: {why}", err=True)
    if failed:
        raise typer.Exit(1)


# ---- the cache


@cache_app.command("ls", epilog=_examples("headstart cache ls"))
def cache_ls(json_file: Json = None) -> None:
    """List what the cache holds: model, cut, view, rows, bytes, last use, by what it was made, and where it is: in
    the own cache, or in a shared one (HEADSTART_CACHE_SHARED)."""
    from headstart.common.outputs import write_json
    from headstart.store.feature_store import FeatureStore

    store = FeatureStore()
    trunks = store.trunks()
    table = table_of(
        "key", "model", "cut", "view", "rows", "size", "last used", "made by", "where", right=("rows", "size")
    )
    for info in trunks:
        label = info.label
        table.add_row(
            info.key[:12],
            cell(f"{_hint(label, 'model')} ({_hint(label, 'weights')})"),
            cell(_hint(label, "cut")),
            cell(_view(info)),
            f"{info.rows:,}",
            nbytes_text(info.nbytes),
            when(info.last_used),
            cell(info.made_by),
            "shared" if info.shared else "own",
        )
    console = console_for_tables()
    console.print(table)
    for root in (store.root, *store.shared):
        here = sum(info.nbytes for info in trunks if info.path.parent.parent == root)
        shared = ", shared" if root != store.root else ""
        console.print(f"{nbytes_text(here)} in {root}{shared}")
    if json_file is not None:
        write_json(json_file, [_trunk_figures(info) for info in trunks])


@cache_app.command("info", epilog=_examples("headstart cache info 3f2a"))
def cache_info(
    key: Annotated[str, typer.Argument(help="A key, or its beginning.")], json_file: Json = None
) -> None:
    """Say everything about one trunk's features."""
    from headstart.common.outputs import write_json
    from headstart.store.feature_store import FeatureStore

    infos = FeatureStore().infos(key)
    for info in infos:
        spec = {name: value for name, value in info.spec.items() if name != "graph"}
        graph = info.spec.get("graph")
        facts = {**spec, **_trunk_figures(info), "nodes": len(graph) if isinstance(graph, list) else 0}
        table = table_of("field", "value")
        for name, value in facts.items():
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            table.add_row(cell(name), cell(text if len(text) <= 1000 else text[:997] + "..."))
        console_for_tables().print(table)
    if json_file is not None:
        others = [_trunk_figures(info) for info in infos[1:]]
        write_json(json_file, {**_trunk_figures(infos[0]), "spec": infos[0].spec, "also_in": others})


@cache_app.command(
    "explain",
    epilog=_examples(
        "headstart cache explain --data flower_photos --model resnet50",
        "headstart cache explain --data flower_photos --model resnet50 --cuts layer3,avgpool --size 256",
        "headstart cache explain --data flower_photos --model resnet50 --augment flip,crop --views 4",
    ),
)
def cache_explain(
    data: Data = "digits",
    model: ModelName = "resnet18_half",
    weights: Weights = None,
    size: Size = None,
    cuts: Annotated[
        str | None, typer.Option(help="Comma-separated cuts. (default: what the classifier takes)")
    ] = None,
    precision: Precision = "float32",
    dtype: Dtype = "float16",
    augment: AugmentText = None,
    views: Annotated[int, typer.Option(help="Augmented views of every sample.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the augmentation.")] = 0,
    on_error: OnError = "raise",
    json_file: Json = None,
) -> None:
    """Say what `headstart extract` with the same options would find in the cache, and why not more.

    Of samples without features it says which; of a trunk without any, in what the nearest one differs. Nothing is
    computed.
    """
    from headstart.common.outputs import write_json
    from headstart.data import open_data
    from headstart.features.coverage import coverage
    from headstart.models.model import model as make_model
    from headstart.training import compare as comparison

    opened = open_data(data, on_error=on_error)
    made = make_model(model, comparison.chosen_weights(model, weights), opened.classes, size=size)
    found = coverage(
        made,
        opened,
        _names(cuts) if cuts is not None else None,
        precision=precision,
        dtype=dtype,
        augment=augment,
        views=views,
        seed=seed,
    )
    for row in found:
        view = "" if row.view is None else f", view {row.view}"
        say(f"{row.cut}{view} ({row.key[:12]}): {row}")
    if json_file is not None:
        write_json(json_file, {"data": opened.name, "model": model, "cuts": [r.as_dict() for r in found]})


@cache_app.command(
    "verify",
    epilog=_examples(
        "headstart cache verify",
        "headstart cache verify --repair",
        "headstart cache verify --recompute 100 --data flower_photos --model resnet50",
    ),
)
def cache_verify(
    key: Annotated[str | None, typer.Argument(help="Only this trunk. (default: all)")] = None,
    repair: Annotated[bool, typer.Option(help="Set damaged shards aside, to be computed again.")] = False,
    recompute: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Instead, draw so many samples of --data, compute their features again with --model and compare. "
            "The other options are those of `headstart extract`.",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="With --recompute: the data set.")] = None,
    model: Annotated[str | None, typer.Option(help="With --recompute: the architecture.")] = None,
    weights: Weights = None,
    size: Size = None,
    cuts: Annotated[
        str | None, typer.Option(help="Comma-separated cuts. (default: what the classifier takes)")
    ] = None,
    precision: Precision = "float32",
    dtype: Dtype = "float16",
    augment: AugmentText = None,
    views: Annotated[int, typer.Option(help="Augmented views of every sample.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the augmentation.")] = 0,
    batch_size: BatchSize = 64,
    backend: BackendName = None,
    device: Device = "auto",
    on_error: OnError = "raise",
    json_file: Json = None,
) -> None:
    """Read every row and check it; exit code 1 where something is damaged.

    Checksums find damage, not malice: whoever may write a cache can write wrong rows under right checksums.
    --recompute tells such rows.
    """
    from headstart.common.outputs import write_json
    from headstart.store.feature_store import FeatureStore

    if recompute is not None:
        from headstart.data import open_data
        from headstart.features.recompute import verify
        from headstart.models.model import model as make_model
        from headstart.training import compare as comparison

        if data is None or model is None or key is not None or repair:
            raise SettingError(
                "--recompute compares a data set's features with what a model computes; expected --data and "
                "--model with it, and neither a key nor --repair"
            )
        opened = open_data(data, on_error=on_error)
        compared = verify(
            make_model(model, comparison.chosen_weights(model, weights), opened.classes, size=size),
            opened,
            _names(cuts) if cuts is not None else None,
            samples=recompute,
            backend=backend,
            device=device,
            precision=precision,
            dtype=dtype,
            batch_size=batch_size,
            augment=augment,
            views=views,
            seed=seed,
        )
        for one in compared.differing:
            say(f"differs: {printable(str(one))}")
        say(
            f"{compared.compared:,} stored rows computed again, {len(compared.differing)} differ; "
            f"{compared.without_features:,} samples have no features"
        )
        if json_file is not None:
            write_json(json_file, compared.as_dict())
        if not compared:
            raise typer.Exit(1)
        return
    if data is not None or model is not None:
        raise SettingError("--data and --model are for --recompute N; expected that with them")
    report = FeatureStore().verify(repair=repair, prefix=key)
    for path, reason in report.damaged:
        say(f"damaged: {printable(str(path))}: {printable(reason)}")
    say(f"{report.rows:,} rows in {report.shards:,} shards verified, {len(report.damaged)} damaged")
    for path, reason in report.unreadable:
        say(f"cannot be read, and left as it is: {printable(str(path))}: {printable(reason)}")
    for path in report.set_aside:
        say(f"set aside: {printable(str(path))}")
    for path, reason in report.not_moved:
        say(f"not set aside: {printable(str(path))}: {printable(reason)}", err=True)
    if report.shared:
        say(
            f"{len(report.shared)} of the damaged files are in a shared cache and cannot be mended from here; "
            "their rows are passed over, and computed into the own cache when they are needed",
            err=True,
        )
    if json_file is not None:
        write_json(
            json_file,
            {
                "shards": report.shards,
                "rows": report.rows,
                "damaged": [[str(path), reason] for path, reason in report.damaged],
                "set_aside": [str(path) for path in report.set_aside],
                "shared": [str(path) for path in report.shared],
                "unreadable": [[str(path), reason] for path, reason in report.unreadable],
                "not_moved": [[str(path), reason] for path, reason in report.not_moved],
            },
        )
    own = len(report.damaged) - len(report.shared)
    if own and not repair:
        say("`headstart cache verify --repair` sets them aside", err=True)
    if report.shared or report.unreadable or report.not_moved or (own and not repair):
        raise typer.Exit(1)


@cache_app.command(
    "gc",
    epilog=_examples(
        "headstart cache gc --max-size 5GB",
        "headstart cache gc --max-size 0 --yes",
        "headstart cache gc --data flower_photos --data other_photos",
    ),
)
def cache_gc(
    max_size: Annotated[
        str | None, typer.Option(help="What may stay, such as 500MB or 20GB. (default: HEADSTART_CACHE_MAX)")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only show what would go.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would go; what is done without --yes anyhow.")
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Delete orphans instead: rows of images that are in none of these data sets (any more). Give it "
            "once for each data set whose features are to stay."
        ),
    ] = None,
    on_error: OnError = "raise",
    json_file: Json = None,
) -> None:
    """Delete the features that were not used for longest, until the rest fits. Shared caches are left alone.

    With --data, delete the features of images that were removed or edited.
    """
    from headstart.common.outputs import write_json
    from headstart.store.feature_store import FeatureStore, cache_limit

    if yes and dry_run:
        raise SettingError("--yes deletes and --dry-run does not; expected one of them")
    if data:
        if max_size is not None:
            raise SettingError("--data deletes orphans and --max-size whole trunks; expected one of them")
        _gc_orphans(data, on_error, yes, json_file)
        return
    limit = cache_limit() if max_size is None else parse_nbytes(max_size)
    if limit is None:
        raise SettingError("cache gc needs a limit: --max-size, such as 20GB, or HEADSTART_CACHE_MAX")
    store = FeatureStore()
    plan = store.gc_plan(limit)
    for info in plan:
        label = info.label
        say(
            f"{'deleting' if yes else 'would delete'} {info.key[:12]}  {_hint(label, 'model')} at "
            f"{_hint(label, 'cut')}, {info.rows:,} rows, {nbytes_text(info.nbytes)}, "
            f"last used {when(info.last_used)}"
        )
    if plan.leftovers:
        say(f"{'deleting' if yes else 'would delete'} {len(plan.leftovers)} unfinished files")
    freed = store.gc(plan) if yes else 0
    if yes:
        say(f"{nbytes_text(freed)} freed")
    elif plan:
        say("nothing was deleted; add --yes to do it")
    else:
        say("nothing to delete")
    if json_file is not None:
        write_json(
            json_file, {"trunks": [_trunk_figures(info) for info in plan], "deleted": yes, "freed_bytes": freed}
        )


def _gc_orphans(names: list[str], on_error: str, yes: bool, json_file: Path | None) -> None:
    from headstart.common.outputs import write_json
    from headstart.data import open_data
    from headstart.features.orphans import drop_orphans, find_orphans
    from headstart.store.feature_store import FeatureStore

    store, opened = FeatureStore(), [open_data(name, on_error=on_error) for name in names]
    found = find_orphans(store, opened)
    for one in found:
        say(
            f"{'deleting' if yes else 'would delete'} {one.rows:,} orphans ({nbytes_text(one.nbytes)}) of "
            f"{one.key[:12]}  {_hint(one.label, 'model')} at {_hint(one.label, 'cut')}; {one.kept:,} rows stay"
        )
    freed = drop_orphans(store, found, opened) if yes else 0
    if yes:
        say(f"{nbytes_text(freed)} freed")
    elif found:
        say("nothing was deleted; add --yes to do it. Data sets that are not named count as removed")
    else:
        say("there are no orphans")
    if json_file is not None:
        write_json(json_file, {"orphans": [one.as_dict() for one in found], "deleted": yes, "freed_bytes": freed})


# ---- helpers


def _hint(label: dict[str, Any], name: str) -> str:
    """What a trunk's label says, a stranger's word perhaps, fit for a terminal."""
    text = printable(str(label.get(name, "?")))
    return text if len(text) <= 80 else text[:77] + "..."


def _trunk_figures(info: Any) -> dict[str, Any]:
    return {
        **info.label,
        "key": info.key,
        "views": info.spec.get("views"),
        "rows": info.rows,
        "bytes": info.nbytes,
        "shards": info.shards,
        "last_used": info.last_used,
        "made_by": info.made_by,
        "shared": info.shared,
        "path": str(info.path),
    }


def _view(info: Any) -> str:
    """Which augmented view a trunk's features are of: "3 of seed 0"; "-" where nothing was augmented."""
    views = info.spec.get("views")
    return f"{views.get('view', '?')} of seed {views.get('seed', '?')}" if isinstance(views, dict) else "-"


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _head(text: str) -> str | tuple[int | float, ...]:
    if text == "linear":
        return text
    try:
        return tuple(float(part) if "." in part else int(part) for part in _names(text))
    except ValueError:
        raise SettingError(
            f"unknown head {text!r}; expected linear, or hidden widths and dropout rates such as 256,0.5"
        ) from None


def _scale(text: str | None) -> float | dict[str, float] | None:
    if text is None:
        return None
    try:
        if "=" not in text:
            return float(text)
        return {name.strip(): float(value) for name, _, value in (part.partition("=") for part in _names(text))}
    except ValueError:
        raise SettingError(
            f"--lr-scale {text!r}; expected a number such as 0.1, or modules such as layer3=0.1,pretrained=0.01"
        ) from None


def _tried(name: str, text: str) -> list[float]:
    """ "0.001,0.01" as numbers; seeds are whole ones."""
    from headstart.common.errors import SettingError

    try:
        return [int(part) if name == "seed" else float(part) for part in text.split(",")]
    except ValueError:
        option = {"lr": "--lr", "weight_decay": "--weight-decay", "seed": "--seeds"}[name]
        raise SettingError(f"{option} {text!r}; expected numbers with commas between them") from None


def _prepared(spec: Any, features: Path | None) -> tuple[Any, Any, Any]:
    """Model, and what it is trained and evaluated on: saved features where they are given, else the data."""
    from headstart.training import compare as comparison

    if features is not None:
        return _saved(spec, features)
    return comparison.prepare(spec)


def _saved(spec: Any, folder: Path) -> tuple[Any, Any, Any]:
    """Model, training and validation features, of a folder that `extract --save` wrote."""
    from headstart.features.loading import load_features
    from headstart.models.model import model
    from headstart.training.compare import chosen_weights

    train, val = load_features(folder).split(spec.split, spec.seed, spec.split_by)
    weights = chosen_weights(spec.model, spec.weights)
    return model(spec.model, weights=weights, classes=train.classes, head=spec.head, size=spec.size), train, val


def _note_random_weights(model: str, weights: str | None) -> None:
    from headstart.training.compare import chosen_weights

    if weights is None and chosen_weights(model, None) is None:
        LOG.info(
            f"note: {model} has no weights in this package, so it starts from random ones; "
            "pass --weights FILE.safetensors"
        )


def _published(model: str, weights: str | None) -> Any:
    """The row of published weights, the first of the model's where none are named."""
    from headstart.common.errors import UnknownNameError
    from headstart.models import architecture

    rows = architecture(model).weights
    if not rows or (weights is not None and weights not in rows):
        raise UnknownNameError("published weights", weights, rows, f" for {model}")
    return rows[weights] if weights is not None else next(iter(rows.values()))


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return [float(part) for part in _names(text)] if text is not None else None
    except ValueError:
        raise SettingError(f"{option} {text!r}; expected three numbers with commas between them") from None


def _import_quietly(backend: str, device: str, precision: str) -> None:
    """Import a framework and let it look for devices while its own chatter on standard error is put aside;
    TensorFlow logs there before any of its settings are read."""
    from headstart.contract import registry

    about = registry.describe(backend)
    for variable, value in about.quiet.items():
        os.environ.setdefault(variable, value)
    with quietly(watched=not any(module in sys.modules for module in about.modules)):
        registry.load(backend).place(device, precision)


def _tell_warnings_in_one_line() -> None:
    """Those of our own, without the place in our code that gave them."""
    show = warnings.showwarning

    def tell(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category.__module__ == HeadstartError.__module__:
            LOG.warning("%s", message)
        else:
            show(message, category, *place, **more)

    warnings.showwarning = tell


def main() -> None:
    """The console script."""
    with standard_streams() as (out, _):
        code = _run(sys.argv[1:])
        out.flush()
        if (lost := unprinted(out)) is not None:
            say(lost, err=True)
    code = code or (UNPRINTED if out.failure is not None else 0)
    if code:
        sys.exit(code)


def _run(arguments: list[str]) -> int:
    """The exit code of a command with these arguments."""
    debug = "--debug" in arguments
    os.environ.update(for_frameworks(os.environ))  # before a command imports one
    take_short_turns()
    command = typer.main.get_command(app)
    try:
        check_arguments(arguments)
        # Not command.main(): it turns an interrupt into a bare exit code, and what was kept would go unsaid.
        with (
            command.make_context("headstart", [a for a in arguments if a != "--debug"]) as context,
            warnings.catch_warnings(),
            handed_to(to_stderr),
            failures_told_last(),
        ):
            _tell_warnings_in_one_line()
            command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    except (HeadstartError, KeyboardInterrupt, typer.Abort) as error:
        if debug:
            raise
        cause = error.__cause__ if isinstance(error, typer.Abort) else error
        interrupted = isinstance(cause, KeyboardInterrupt) or cause is None
        message = str(cause) if isinstance(cause, HeadstartError) else "interrupted"
        say(f"{'' if interrupted else 'error: '}{message}", err=True)
        return 130 if interrupted else 2
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            raise
        error.show()  # the option parser's own errors know how to say what was wrong
        return int(error.exit_code)
    return 0
