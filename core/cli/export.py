"""`headstart export`: a trained model as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import DEFAULTS, Json, argument, parameter
from headstart.cli.preparing import import_quietly
from headstart.cli.results import keep_figures
from headstart.common.text import say


@command(
    "headstart export run/ flowers.onnx",
    "headstart export run/ flowers.onnx --data flower_photos --replace",
    "headstart export run/ small.onnx --half",
    "headstart export run/ trunk.onnx --part trunk --cut layer3",
    "headstart export run/ weights.safetensors",
)
def export(
    run: Annotated[Path, argument("run", "Folder that `headstart fit --out` wrote.")],
    out: Annotated[Path, argument("out", "The file to write.")],
    /,
    *,
    format: Annotated[
        str | None,
        Parameter(
            help="onnx, safetensors; of PyTorch's own pt2, of JAX's stablehlo, of Keras's keras, savedmodel, "
            "tflite. (default: as OUT's suffix says)"
        ),
    ] = None,
    part: Annotated[
        str,
        Parameter(help="whole; trunk, from pictures to features; head, from features to the outputs."),
    ] = "whole",
    cut: Annotated[
        str | None,
        Parameter(help="Where the trunk ends and the head begins, with --part. (default: the run's own)"),
    ] = None,
    pixels: Annotated[
        bool,
        Parameter(
            help="Take uint8 pixels and normalise them inside; or float32 ones that are preprocessed already.",
            negative="--no-pixels",
        ),
    ] = True,
    half: Annotated[
        bool, Parameter(help="Make weights and arithmetic float16 (fp16).", show_default=False)
    ] = False,
    data: Annotated[
        str | None,
        Parameter(
            help="Verify on these: an image, a folder of them, a table, or digits, cifar10, flowers. "
            "(default: random pictures)"
        ),
    ] = None,
    verify: Annotated[
        bool,
        Parameter(
            help="Open what was written and hold it to the run; or say in the file that nobody has.",
            negative="--no-verify",
        ),
    ] = True,
    replace: Annotated[bool, Parameter(help="Replace what is there under this name.", show_default=False)] = False,
    backend: Annotated[str | None, parameter("backend")] = DEFAULTS["backend"],
    device: Annotated[str, parameter("device")] = DEFAULTS["device"],
    json_file: Json = None,
) -> None:
    """Write a trained model as a file for other programs, which is held to the run before it is there."""
    from headstart.contract import registry
    from headstart.training.exporting.export import export as export_run
    from headstart.training.exporting.formats import format_for
    from headstart.training.saved import load

    trained = load(run, backend)
    kind = format_for(out, format)
    kind.require(verify)  # before a framework is imported, which takes seconds
    writer = kind.backend
    if verify:
        import_quietly(trained.backend, device)
    if writer in registry.installed():
        import_quietly(writer, "cpu")
    exported = export_run(
        trained,
        out,
        data,
        format=format,
        part=part,
        cut=cut,
        pixels=pixels,
        half=half,
        verify=verify,
        replace=replace,
        device=device,
    )
    keep_figures(json_file, exported.as_dict())
    say(exported.line())
