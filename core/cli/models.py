"""`headstart models`: the zoo, and where its models can be cut."""

from __future__ import annotations

from typing import Annotated

from headstart.cli.command import command
from headstart.cli.options import Json, Size, argument
from headstart.cli.rendering import show, show_legend
from headstart.cli.results import write_figures


@command("headstart models", "headstart models resnet18_half --size 128")
def models(
    name: Annotated[str | None, argument("NAME", "A model, to see where it can be cut.")] = None,
    /,
    *,
    size: Size = None,
    json_file: Json = None,
) -> None:
    """List the models, or the legal cuts of one; counted with 1,000 classes."""
    from headstart.models import listing
    from headstart.models.default_model import default_line

    if name is None:
        models = listing.summaries(size)
        write_figures(json_file, [model.as_dict() for model in models])
        show(listing.models_table(models))
        show_legend(default_line())
    else:
        cuts = listing.cut_summaries(name, size)
        write_figures(json_file, [cut.as_dict() for cut in cuts])
        show(listing.cuts_table(cuts))
