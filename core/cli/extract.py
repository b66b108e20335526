"""`headstart extract`: fill the cache, or save features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import (
    COMPUTING,
    DEFAULTS,
    ENGINE_OPTIONS,
    FEATURE_OPTIONS,
    FLAT,
    SOURCE,
    BatchSize,
    EngineOptions,
    FeatureOptions,
    Json,
    Source,
    names_in,
    parameter,
)
from headstart.cli.preparing import import_quietly, note_random_weights, opened
from headstart.cli.rendering import show
from headstart.cli.results import write_figures
from headstart.common.text import extraction_line


@command(
    "headstart extract --data flower_photos --cuts layer3,avgpool",
    "headstart extract --data flower_photos --dtype float32 --json figures.json",
    "headstart extract --data flower_photos --augment flip,crop --views 4",
    "headstart extract --data flower_photos --cuts input",
    "headstart extract --data flower_photos --save flowers/",
    "headstart extract --data flower_photos --part 3/8",
    "srun -n 8 headstart extract --data flower_photos --part auto",
    "headstart extract --data flower_photos --push s3://bucket/team",
    "headstart extract --data flower_photos --ray auto --ray-workers 8 --gpus-per-worker 1",
    "headstart extract --data flower_photos --gpus all",
    "headstart extract --data flower_photos --devices all",
)
def extract(
    *,
    source: Annotated[Source, FLAT] = SOURCE,
    feature_options: Annotated[FeatureOptions, FLAT] = FEATURE_OPTIONS,
    batch_size: BatchSize = DEFAULTS["batch_size"],
    backend: Annotated[str | None, parameter("backend")] = DEFAULTS["backend"],
    device: Annotated[str, parameter("device")] = DEFAULTS["device"],
    workers: Annotated[int | None, parameter("workers")] = DEFAULTS["workers"],
    engine_options: Annotated[EngineOptions, FLAT] = ENGINE_OPTIONS,
    devices: Annotated[
        str | None,
        Parameter(
            help="Extract by processes of this machine, one on each of these devices, in place of --device: all, "
            "or names such as cuda:0,cuda:1.",
            group=COMPUTING,
        ),
    ] = None,
    part: Annotated[
        str | None,
        Parameter(
            help="Only the third of eight parts of the samples: 3/8; or auto: as torchrun, srun, an array of "
            "SLURM's or mpirun numbers this process. Afterwards, without it, what is left is computed."
        ),
    ] = None,
    push: Annotated[str | None, parameter("push")] = DEFAULTS["push"],
    save: Annotated[
        Path | None,
        Parameter(help="Also write features and labels into this folder, for training without the images."),
    ] = None,
    replace: Annotated[bool, Parameter(help="Replace what --save finds there.", show_default=False)] = False,
    json_file: Json = None,
) -> None:
    """Fill the cache with a data set's features; what is there already is not computed again."""
    from headstart.common.outputs import check_outputs
    from headstart.contract import registry
    from headstart.features.extract import extract as run_extract
    from headstart.features.packed import check_free
    from headstart.features.trunk_keys import INPUT

    engine = engine_options.engine()
    if save is not None:
        check_outputs(save)  # now, and not after a week of extraction
        check_free(save, replace)
    name = registry.choose(backend)
    note_random_weights(source)
    model, data = opened(source, feature_options.cuts)
    asked = feature_options.arguments()
    # A framework takes seconds to import. Decoded images need none, and who extracts elsewhere needs none here,
    # and opens no card.
    if asked["cuts"] != (INPUT,) and devices is None and engine is None:
        import_quietly(name, device, feature_options.precision)
    features = run_extract(
        model,
        data,
        **asked,
        backend=name,
        device=device,
        batch_size=batch_size,
        workers=workers,
        part=part,
        push=push,
        engine=engine,
        devices=devices if devices is None or devices == "all" else names_in(devices),
    )
    saved = features.save(save, replace=replace) if save is not None else None
    write_figures(json_file, {"model": model.name, **features.as_dict()})
    show(features.as_table(), extraction_line(features.stats))
    if saved is not None:
        show(f"saved to {saved}")
