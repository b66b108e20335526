"""`headstart weights`: published weights, and a user's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import Json, argument, colours, whole_number
from headstart.cli.rendering import show
from headstart.cli.results import write_figures
from headstart.common.errors import HeadstartError, SettingError, UnknownNameError
from headstart.common.text import say

if TYPE_CHECKING:
    from headstart.models.architecture import Published

Model = Annotated[str, argument("MODEL", "Architecture; `headstart models` lists them.")]
Name = Annotated[str | None, Parameter(help="Published name. (default: the model's first published ones)")]


@command("headstart weights ls", "headstart weights ls resnet50", name="ls")
def ls(
    model: Annotated[str | None, argument("MODEL", "Only this architecture.")] = None,
    /,
    *,
    json_file: Json = None,
) -> None:
    """List published and imported weights: where they are from, if they are here, what pins them."""
    from headstart.models import listing

    weights = listing.weights_summaries(model)
    write_figures(json_file, [row.as_dict() for row in weights])
    show(listing.weights_table(weights))


@command("headstart weights fetch resnet50", "headstart weights fetch vit_b_16 --weights imagenet")
def fetch(model: Model, /, *, weights: Name = None) -> None:
    """Download published weights now, for a time without a network; print where they are."""
    from headstart.models.weights import published_file

    say(published_file(_published(model, weights)))


@command("headstart weights update resnet50")
def update(model: Model, /, *, weights: Name = None) -> None:
    """Take what the hub holds now of weights that the first use pinned.

    Nothing else ever changes them.
    """
    from headstart.models import hub, packaged
    from headstart.models.architecture import Hub

    published = packaged.at_hand(_published(model, weights))
    if not isinstance(published, Hub):
        raise SettingError(f"these weights of {model} are not from the hub; they cannot change")
    before, after = hub.update(published)
    if before == after:
        say(f"{published.repo} is up to date: {after.revision}")
    else:
        say(f"{published.repo}: {before.revision or 'nothing'} -> {after.revision} (sha256 {after.sha256})")


def _published(model: str, weights: str | None) -> Published:
    """The published weights of that name, the first of the model's where none is named."""
    from headstart.models import architecture

    published = architecture(model).weights
    if not published or (weights is not None and weights not in published):
        raise UnknownNameError("published weights", weights, published, f" for {model}")
    return published[weights] if weights is not None else next(iter(published.values()))


@command(
    "headstart weights import mine.safetensors --model resnet50",
    "headstart weights import best.pth --model resnet50 --name mine --allow-pickle --classes roses,tulips",
    "headstart weights import vit.safetensors --model vit_b_16 --size 384 --interpolation bicubic",
    "headstart fit --model resnet50 --weights mine --data flower_photos",
    name="import",
)
def import_(
    file: Annotated[Path, argument("FILE", "A .safetensors file; with --allow-pickle what torch.save wrote.")],
    /,
    *,
    model: Annotated[str, Parameter(help="Architecture that the weights are for.")],
    name: Annotated[str | None, Parameter(help="What to call them. (default: the file's name)")] = None,
    allow_pickle: Annotated[
        bool,
        Parameter(
            help="Read .pth, .pt, .bin: tensors only, by torch >= 2.10, in a process of its own.",
            show_default=False,
        ),
    ] = False,
    classes: Annotated[
        str | None,
        Parameter(
            help="Names of the classifier's outputs: a,b,c, or a file with one a line, a JSON list or a JSON map."
        ),
    ] = None,
    size: Annotated[
        int | None,
        Parameter(help="Side in pixels they were trained with. (default: usual)", converter=whole_number),
    ] = None,
    resize: Annotated[
        int | None,
        Parameter(help="Shorter side before the crop. (default: in proportion)", converter=whole_number),
    ] = None,
    squash: Annotated[
        bool,
        Parameter(help="Resize both sides to --resize, whatever shape a picture has.", show_default=False),
    ] = False,
    interpolation: Annotated[str | None, Parameter(help="nearest, bilinear, bicubic or lanczos.")] = None,
    mean: Annotated[str | None, Parameter(help="Of R,G,B in 0 to 1, such as 0.485,0.456,0.406.")] = None,
    std: Annotated[str | None, Parameter(help="Of R,G,B in 0 to 1, such as 0.229,0.224,0.225.")] = None,
    replace: Annotated[
        bool, Parameter(help="Let earlier ones of that name give way.", show_default=False)
    ] = False,
) -> None:
    """Keep weights of your own under a name, which --weights and hs.model then take.

    Names may be torchvision's or timm's, with prefixes such as module., under keys such as state_dict or model.

    What does not fit the model exactly is refused, with a list of what differs.
    """
    from headstart.data.class_files import class_names_of
    from headstart.models.importing import import_weights

    settings = {"size": size, "resize": resize, "squash": squash or None, "interpolation": interpolation}
    kept = import_weights(
        file,
        model,
        name,
        allow_pickle=allow_pickle,
        classes=None if classes is None else class_names_of(classes),
        preprocess={**settings, "mean": colours("--mean", mean), "std": colours("--std", std)},
        replace=replace,
    )
    say(f"kept as {kept}; use it with --model {model} --weights {kept.name.removesuffix('.safetensors')}")


@command("headstart weights rm mine --model resnet50")
def rm(
    name: Annotated[str, argument("NAME", "What they were called when they were imported.")],
    /,
    *,
    model: Annotated[str, Parameter(help="Architecture that they are for.")],
    yes: Annotated[bool, Parameter(help="Do not ask.", show_default=False)] = False,
) -> None:
    """Remove imported weights. What was downloaded from the hub is in its cache: see `hf cache`."""
    from headstart.models import architecture
    from headstart.models.imported import find, names, remove

    path = find(architecture(model).name, name)
    if path is None:
        raise UnknownNameError("imported weights", name, names(model), f" for {model}")
    if not yes and not (sys.stdin.isatty() and _confirmed(f"remove {path}?")):
        say(f"would remove {path}; nothing was removed, add --yes to do it")
        return
    say(f"removed {remove(model, name)}")


def _confirmed(question: str) -> bool:
    """Ask on the terminal; whatever is no yes is a no."""
    say(f"{question} [y/N]", err=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@command("headstart weights pin", "headstart weights pin --moved --out core/models/pins.json")
def pin(
    *,
    out: Annotated[
        Path | None, Parameter(help="Table to read and write. (default: the one in this package)")
    ] = None,
    moved: Annotated[
        bool, Parameter(help="Pin what the hub holds now, not what was pinned.", show_default=False)
    ] = False,
    check: Annotated[
        bool,
        Parameter(help="Also compare names and shapes with the architectures.", negative="--no-check"),
    ] = True,
) -> int | None:
    """For maintainers: write down commit and sha256 of every published file, as the hub has them.

    Users get exactly those files. What the table had is kept where the hub does not answer; exit code 1 then.
    """
    from headstart.models import hub
    from headstart.models.pins import read_pins, shipped_pins, write_pins
    from headstart.models.weights import check_published, hub_files

    path = out if out is not None else shipped_pins()
    files = hub_files()
    known = read_pins(path)
    pins, failed = hub.table_of_pins({name: published for name, (_, published) in files.items()}, known, moved)
    for name, (arch, published) in files.items():
        if check and name not in failed:
            try:
                check_published(arch, published, pins[name])
            except HeadstartError as error:
                failed[name] = error
    write_pins(path, pins)
    say(f"{len(pins)} files are pinned in {path}; {sum(pins[n] != known.get(n) for n in pins)} are new or moved")
    for name, why in failed.items():
        say(f"failed: {name}: {why}", err=True)
    return 1 if failed else None
