"""All commands: their names, the module of each, and its line in lists.

A command's file is imported when the command is asked for and not before, so that `headstart --help` comes at
once. The lines are the first of the commands' own docstrings; a test holds them together.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from keyword import iskeyword
from typing import Annotated

from cyclopts import App, Group, Parameter

from headstart.cli.apart import check_apart
from headstart.cli.arguments import MISTAKE, check_values, warn_of_repeated
from headstart.cli.command import ARGUMENTS, EVERYWHERE, OTHERS, examples_text
from headstart.common.log import VARIABLE, set_level

TITLES = {
    "Train": ("demo", "advise", "compare", "fit", "plan", "sweep"),
    "Use": ("predict", "evaluate", "export", "extract", "report"),
    "Look": ("models", "weights", "cache"),
    "Set up": ("doctor", "completion"),
}
"""how `headstart --help` lists the commands"""

FAMILIES = {
    "weights": "Look at published weights, fetch them, and bring your own.",
    "cache": "Look at and tidy the feature store.",
    "completion": "Have a shell complete commands and options.",
}
"""commands that have commands of their own"""
FAMILY_EXAMPLES = {
    "weights": ("headstart weights ls", "headstart weights fetch resnet50"),
    "cache": (
        "headstart cache ls",
        "headstart cache info 3f2a",
        "headstart cache verify",
        "headstart cache gc --max-size 20GB",
    ),
    "completion": ("headstart completion install",),
}

COMMANDS = {
    "demo": "Train a head on the bundled digits with and without a cache, and open the report.",
    "advise": "Say which trunk, which cut and how much to train, from features, before anything is trained.",
    "compare": "Compare the modes in every installed backend: scores, seconds by phase, speed-up, break-even.",
    "fit": "Train a model on images with classes, labels or numbers, and say how well it does.",
    "plan": "Predict what caching at each cut costs and saves, from a few batches; with --budget, the best cut.",
    "sweep": "Train a grid of heads on one cache, side by side where they are linear, and rank them.",
    "predict": "Classify images: with a model that was trained here, or with a published one as it is.",
    "evaluate": "Say how well a trained model does on labelled images: scores, of each class too, confusions.",
    "export": "Write a trained model as a file for other programs, which is held to the run before it is there.",
    "extract": "Fill the cache with a data set's features; what is there already is not computed again.",
    "report": "Write the HTML report of a comparison again, from its figures.",
    "models": "List the models, or the legal cuts of one; counted with 1,000 classes.",
    "weights ls": "List published and imported weights: where they are from, if they are here, what pins them.",
    "weights fetch": "Download published weights now, for a time without a network; print where they are.",
    "weights update": "Take what the hub holds now of weights that the first use pinned.",
    "weights import": "Keep weights of your own under a name, which --weights and hs.model then take.",
    "weights rm": "Remove imported weights. What was downloaded from the hub is in its cache: see `hf cache`.",
    "weights pin": "For maintainers: write down commit and sha256 of every published file, as the hub has them.",
    "cache ls": "List what the cache holds, and the shared ones (HEADSTART_CACHE_SHARED).",
    "cache info": "Say everything about one trunk's features.",
    "cache explain": "Say what `headstart extract` with these options would find in the cache, and why not more.",
    "cache verify": "Read every row and check it; exit code 1 where something is damaged.",
    "cache push": "Write to a store behind a URL what it lacks of the cache.",
    "cache pull": "Bring from a store behind a URL what the cache lacks.",
    "cache gc": "Delete the features that were not used for longest, until the rest fits.",
    "doctor": "Look at what is installed, at the machine, the cache and the network, and say how to mend it.",
    "completion install": "Install the completion of a shell, which new shells then know.",
    "completion show": "Print the completion of a shell.",
}
"""command -> its line; "cache ls" is the function `ls` in the file `cache`"""

EXAMPLES = (
    "headstart demo",
    "headstart compare",
    "headstart compare --data flower_photos --modes frozen,cached,full --epochs 3",
    "headstart advise --data flower_photos",
    "headstart plan --data flower_photos --model resnet50 --budget 2GB",
    "headstart fit --data flower_photos --mode cached --cut layer4.0 --out run/",
    "headstart predict --run run/ rose.jpg tulip.jpg",
    "headstart predict --model resnet50 --weights imagenet rose.jpg",
    "headstart evaluate --run run/ --data test/",
    "headstart export run/ flowers.onnx",
    "headstart models resnet50",
    "headstart weights ls",
    "headstart cache ls",
    "headstart doctor",
)

VALUES = Parameter(allow_leading_hyphen=True, allow_repeating=True, negative=(), json_dict=False, json_list=False)
"""A value may begin with a hyphen, as -1 does, and is no JSON, so that a file may be called [x]; of an option that
is given twice the last counts."""


def build(words: Collection[str] = ()) -> App:
    """The command `headstart`. `words`: those it is going to be asked with. A command among them has its whole
    docstring for help, the others only their line."""
    app = App(
        name="headstart",
        help="Transfer learning that computes a frozen trunk's features once, in PyTorch, Keras 3 and JAX.",
        help_epilogue=examples_text(*EXAMPLES),
        help_format="plaintext",
        help_flags=["--help"],
        version=_version,
        default_parameter=VALUES,
        group_arguments=ARGUMENTS,
        group_parameters=OTHERS,
        suppress_keyboard_interrupt=False,
    )
    parents = {"": app}

    def add(name: str, place: int, title: Group | None = None) -> None:
        family, _, last = name.rpartition(" ")
        parents[family].command(
            f"headstart.cli.{family or last}:{last}{'_' if iskeyword(last) else ''}",
            name=last,
            help=None if last in words else COMMANDS[name],
            group=title,
            sort_key=place,
        )

    for place, (title, names) in enumerate(TITLES.items()):
        group = Group(title, sort_key=place)
        for i, name in enumerate(names):
            if name not in FAMILIES:
                add(name, i, group)
                continue
            parents[name] = App(
                name=name,
                help=FAMILIES[name],
                help_epilogue=examples_text(*FAMILY_EXAMPLES[name]),
                help_flags=["--help"],
                version_flags=[],
                group=group,
                sort_key=i,
            )
            app.command(parents[name])
    for i, name in enumerate(COMMANDS):
        if " " in name:
            add(name, i)
    for flag in ("--help", "--version"):
        app[flag].group = EVERYWHERE
    _add_options(app)
    return app


def _version() -> str:
    """What `--version` says. Looking it up takes a tenth of the time that `--help` has."""
    from headstart.common.version import __version__

    return f"headstart {__version__}"


def _set_up() -> None:
    """What a process must be told before a command imports a framework."""
    from headstart.common.environment import for_frameworks
    from headstart.common.scheduling import take_short_turns

    os.environ.update(for_frameworks(os.environ))
    take_short_turns()


def _add_options(app: App) -> None:
    """Those that every command takes, before its name or behind it."""
    app.meta.group_parameters = EVERYWHERE
    app.meta.suppress_keyboard_interrupt = False  # `main` tells what was kept

    @app.meta.default
    def launch(
        *words: Annotated[str, Parameter(show=False)],
        debug: Annotated[bool, Parameter(help="Show tracebacks of errors.", show_default=False)] = False,
        log_level: Annotated[
            str,
            Parameter(
                help="debug, info (a line an epoch), warning or error: what is said on standard error.",
                env_var=VARIABLE,
            ),
        ] = "info",
    ) -> int | None:
        set_level(log_level)
        _set_up()
        names, apps, rest = app.parse_commands(words)
        if apps[-1].default_command is None and not rest:
            app.help_print(names)
            return MISTAKE  # a command is missing
        check_values((apps[-1], app.meta), words)
        check_apart(words)
        warn_of_repeated((apps[-1], app.meta), words)
        code: int | None = app(words)
        return code
