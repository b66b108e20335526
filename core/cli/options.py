"""Options that several commands share. Those of training are not listed here: they are made from the fields that
`headstart.training.options` says once, with their types, defaults and sentences.

Invariant: importing this needs no numpy, so that help comes at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter, Token

from headstart.cli.arguments import NONE_OR_ONE
from headstart.common.errors import SettingError
from headstart.common.numbers import number_of, numbers_in, whole_of
from headstart.training.option import Option
from headstart.training.options import GROUPS, OPTIONS, flags_for

DATA = Group("Data and model", sort_key=1)
TABLE = Group("Tables", sort_key=1.2)
TITLES = {(group.__doc__ or ""): (group.__doc__ or "").rstrip(".") for group in GROUPS}
SETTINGS = {line: Group(title, sort_key=i) for i, (line, title) in enumerate(TITLES.items(), start=2)}
"""a group of help for each class of options"""
COMPUTING = SETTINGS[OPTIONS["device"].group]

DEFAULTS = {name: option.default for name, option in OPTIONS.items()}
"""in Python, and in commands that train nothing"""

FLAT = Parameter(name="*")
"""of a parameter that stands for all fields of its class"""


def argument(name: str, help: str) -> Parameter:
    """How an argument without a flag stands on the command line. What begins with a hyphen is none, unless it
    stands behind "--"."""
    return Parameter(name=name, help=help, allow_leading_hyphen=False)


# ---- of training, from their fields


def whole_number(_: Any, tokens: Sequence[Token]) -> int:
    """A whole number from its text; ValueError for others, such as 1.5."""
    return whole_of(tokens[-1].value)


def positive_number(_: Any, tokens: Sequence[Token]) -> int:
    """A whole number of 1 or more from its text; ValueError for others."""
    number = whole_number(_, tokens)
    if number < 1:
        raise ValueError(f"expected a whole number of 1 or more, received {number}")
    return number


def batch_size_of(_: Any, tokens: Sequence[Token]) -> int | str:
    """A whole number from its text, or "auto"; ValueError for others."""
    text = tokens[-1].value
    if text == "auto":
        return text
    try:
        return whole_of(text)
    except ValueError:
        raise ValueError(f"expected a whole number, or auto, received {text!r}") from None


def number(_: Any, tokens: Sequence[Token]) -> float:
    """A number from its text; ValueError for others."""
    return number_of(tokens[-1].value)


CONVERTERS: Mapping[Any, Any] = {int: whole_number, float: number}
"""stricter than cyclopts' own, to which 1.5 is a whole number and none a number that is left out"""


def parameter(option: str | Option, unset: bool = True, **changes: Any) -> Parameter:
    """How one option of training stands on the command line. `unset`: its help says what is done without it."""
    about = OPTIONS[option] if isinstance(option, str) else option
    facts: dict[str, Any] = {
        "help": about.help + (f" (default: {about.unset})" if about.unset and unset else ""),
        "group": SETTINGS[about.group],
    }
    if about.text in CONVERTERS:
        facts["converter"] = CONVERTERS[about.text]
    if about.text is bool:
        facts["show_default"] = False
        # what is done anyway can be left out alone
        facts["negative"] = "--no-" + about.flag.removeprefix("--") if about.default else ()
    return Parameter(**facts | changes)


def settings_of(function: str) -> type:
    """A class with a field for each option of training that `function` ("fit", "sweep" ...) has on the command
    line, in their order."""
    options = []
    for option in flags_for(function):
        text: Any = option.text
        default = option.default_of(function)
        of: Any = text | None if default is None else text
        annotation: Any = Annotated[of, parameter(option, unset=default is None)]
        options.append((option.name, annotation, field(default=default)))
    # cyclopts takes a class of the module `types`, which make_dataclass says, for one of Python's own
    return make_dataclass(f"{function.title()}Settings", options, frozen=True, namespace={"__module__": __name__})


def values_of(settings: Any) -> dict[str, Any]:
    """The fields of such an object as keyword arguments. Raises SettingError for a text that means nothing."""
    values = dict(vars(settings))
    for name, value in values.items():
        if (parse := OPTIONS[name].parse) is not None and value is not None:
            values[name] = parse(value)
    return values


# ---- of data and model

DATA_HELP = (
    "digits, cifar10, flowers, or the path of a folder that holds a folder a class, or train, val and test "
    "with a folder a class in each, or of a table (CSV, TSV, JSON lines, Parquet); or the URL of one in a bucket, "
    "as s3://bucket/photos."
)
MODEL_HELP = (
    "Architecture; `headstart models` lists them. (default: efficientnet_lite0 where its weights are here, else "
    "resnet18_half, which digits get anyhow)"
)
WEIGHTS_HELP = (
    "Published or imported name (`headstart weights ls`), path of a .safetensors file, or none. "
    "(default: the model's first published ones)"
)
Weights = Annotated[str | None, Parameter(help=WEIGHTS_HELP, group=DATA)]
Size = Annotated[
    int | None,
    Parameter(
        help="Side of the images in pixels. (default: the weights' own)", converter=whole_number, group=DATA
    ),
]
Decode = Annotated[
    str | None,
    Parameter(
        help="exact, scaled or gpu: how JPEGs are decoded; scaled: those much larger than the model's images at a "
        "half, a quarter or an eighth of their size, up to three times as fast; gpu: by an NVIDIA GPU (extra "
        "gpu-jpegs); both with slightly other features. (default: exact)",
        group=DATA,
    ),
]
OnError = Annotated[str, Parameter(help="raise or skip: what to do with files that are no images.", group=DATA)]
Truncated = Annotated[
    str,
    Parameter(
        help="raise or keep: what to do with JPEGs that break off; keep: take them, the rest grey.",
        group=DATA,
    ),
]


@dataclass(frozen=True)
class TableOptions:
    """What the columns of a table are, where the data are one."""

    image: Annotated[
        str | None,
        Parameter(help="Of a table: the column of files. (default: the one that is called so)", group=TABLE),
    ] = None
    label: Annotated[
        str | None,
        Parameter(
            help="Of a table: the column of labels, or comma-separated ones. (default: the one that is called so)",
            group=TABLE,
        ),
    ] = None
    split_column: Annotated[
        str | None, Parameter(help="Of a table: the column that says train, val or test.", group=TABLE)
    ] = None
    group: Annotated[
        str | None, Parameter(help="Of a table: the column of groups, which no split cuts.", group=TABLE)
    ] = None
    weight_column: Annotated[
        str | None, Parameter(help="Of a table: the column of how much a sample counts.", group=TABLE)
    ] = None
    fold_column: Annotated[
        str | None,
        Parameter(
            help="Of a table: the column that says in which fold of a cross-validation a sample is held out; -1: "
            "in none.",
            group=TABLE,
        ),
    ] = None
    root: Annotated[
        str | None,
        Parameter(help="Of a table: what its files are relative to. (default: its own folder)", group=TABLE),
    ] = None
    separator: Annotated[
        str | None, Parameter(help="Of a table: what stands between several labels in a cell.", group=TABLE)
    ] = None
    task: Annotated[
        str | None,
        Parameter(help="Of a table whose labels do not tell: single, multi or regression.", group=TABLE),
    ] = None

    def columns(self) -> dict[str, Any] | None:
        """What the options of tables name; None for nothing."""
        label = self.label if self.label is None or "," not in self.label else names_in(self.label)
        columns = {
            "image": self.image,
            "label": label,
            "split": self.split_column,
            "group": self.group,
            "weight": self.weight_column,
            "fold": self.fold_column,
            "root": self.root,
            "separator": self.separator,
            "task": self.task,
        }
        return {name: value for name, value in columns.items() if value is not None} or None


@dataclass(frozen=True)
class DataSource(TableOptions):
    """A data set, and how its images are read."""

    data: Annotated[str, Parameter(help=DATA_HELP, group=DATA)] = "digits"
    on_error: OnError = "raise"
    truncated: Truncated = "raise"
    only: Annotated[
        str | None,
        Parameter(
            help="Comma-separated classes, labels or targets to take, or a file of them. (default: all)",
            group=DATA,
        ),
    ] = None
    size: Size = None
    decode: Decode = None

    def classes(self) -> tuple[str, ...] | None:
        """What --only names; None for all."""
        from headstart.data.class_files import class_names_of

        return None if self.only is None else tuple(class_names_of(self.only, "--only"))

    def words(self) -> list[str]:
        """The options that name the same to another command: the data, and all that is not left out."""
        words = ["--data", self.data]
        for of in fields(self):
            value = getattr(self, of.name)
            if of.name != "data" and value != of.default:
                words += [f"--{of.name.replace('_', '-')}", str(value)]
        return words


@dataclass(frozen=True)
class Source(DataSource):
    """A data set, and the network that is run on it."""

    model: Annotated[str | None, Parameter(help=MODEL_HELP, group=DATA)] = None
    weights: Weights = None


@dataclass(frozen=True)
class TrainingSource(Source):
    """A data set in two parts, and the network whose head is trained on the first."""

    head: Annotated[
        str,
        Parameter(help="linear, or hidden widths and dropout rates such as 256 or 4096,0.5,4096,0.5.", group=DATA),
    ] = "linear"
    split: Annotated[
        float | None,
        Parameter(
            help="Share of the data to train on, the rest validates; of data that did not come split. "
            "(default: 0.8)",
            converter=number,
            group=DATA,
        ),
    ] = None
    split_by: Annotated[
        str,
        Parameter(
            help="id: a picture's side goes by its content, and stays as the data grow; position: exact shares of "
            "every class, as in earlier versions.",
            group=DATA,
        ),
    ] = "id"
    val: Annotated[str | None, Parameter(help="Validate on this, named as --data.", group=DATA)] = None
    test: Annotated[
        str | None, Parameter(help="Score the trained model on this, named as --data.", group=DATA)
    ] = None


@dataclass(frozen=True)
class FeatureOptions:
    """Which features of a data set are meant."""

    cuts: Annotated[
        str | None,
        Parameter(
            help="Comma-separated cuts. (default: what the classifier takes)",
            group=SETTINGS[OPTIONS["dtype"].group],
        ),
    ] = None
    precision: Annotated[str, parameter("precision")] = DEFAULTS["precision"]
    dtype: Annotated[str, parameter("dtype")] = DEFAULTS["dtype"]
    augment: Annotated[str | None, parameter("augment")] = DEFAULTS["augment"]
    views: Annotated[int, parameter("views", help="How many augmented views of every image; with --augment.")] = 1
    seed: Annotated[int, parameter("seed", help="Of the augmentation.")] = DEFAULTS["seed"]

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of `extract`, `verify` and `cache.explain`."""
        return {**vars(self), "cuts": None if self.cuts is None else names_in(self.cuts)}


@dataclass(frozen=True)
class EngineOptions:
    """Who extracts what the cache lacks."""

    ray: Annotated[
        tuple[str, ...] | None,
        Parameter(
            help="Extract with Ray, by actors on a cluster's machines, which all see the images, and the cache or "
            "else the URL of --push: the cluster at this address (HOST:PORT, or auto: this machine's) or, without "
            "one, the one that RAY_ADDRESS names, else one that is started on this machine.",
            group=COMPUTING,
            consume_multiple=NONE_OR_ONE,
            allow_leading_hyphen=False,
            negative=(),
        ),
    ] = None
    gpus: Annotated[
        str | None,
        Parameter(
            help="Extract on so many GPUs of this machine, or all of them, with an actor of Ray's on each; all: "
            "where Ray is not installed, as --devices all.",
            group=COMPUTING,
        ),
    ] = None
    ray_workers: Annotated[
        int | None,
        Parameter(
            help="How many actors of Ray's. (default: as many as the cluster has room for)",
            converter=positive_number,
            group=COMPUTING,
        ),
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        Parameter(help="GPUs of each. (default: 1 where there are any)", converter=number, group=COMPUTING),
    ] = None
    cpus_per_worker: Annotated[
        int | None,
        Parameter(
            help="CPUs of each, and threads that it computes with. (default: its share of the machine's)",
            converter=positive_number,
            group=COMPUTING,
        ),
    ] = None

    def engine(self) -> Any:
        """What `engine=` is to be. SettingError for options that do not go together."""
        of_workers: dict[str, Any] = {
            "workers": self.ray_workers,
            "gpus_per_worker": self.gpus_per_worker,
            "cpus_per_worker": self.cpus_per_worker,
        }
        flags = {"workers": "--ray-workers", "gpus_per_worker": "--gpus-per-worker"}
        named = [flags.get(name, "--cpus-per-worker") for name, value in of_workers.items() if value is not None]
        if self.ray is None and self.gpus is None:
            if named:
                raise SettingError(f"{named[0]} is about actors of Ray's; pass --ray as well")
            return None
        from headstart.features.engines.settings import LOCAL, Processes, Ray

        if self.gpus is None:
            return Ray(address=next(iter(self.ray or ()), None), **of_workers)
        for flag, value in (("--ray", self.ray), *((flag, True) for flag in named if flag != "--cpus-per-worker")):
            if value is not None:
                raise SettingError(
                    f"{flag} with --gpus, which has an actor on each GPU of this machine; leave out one"
                )
        if self.gpus != "all" and not (self.gpus.isdecimal() and int(self.gpus)):
            raise SettingError(f"--gpus {self.gpus!r}; expected all, or a whole number of 1 or more")
        if self.gpus == "all" and self.cpus_per_worker is None and find_spec("ray") is None:
            return Processes()
        count = None if self.gpus == "all" else int(self.gpus)
        return Ray(address=LOCAL, workers=count, gpus_per_worker=1, cpus_per_worker=self.cpus_per_worker)


COLUMNS = ("image", "label", "split_column", "group", "weight_column", "fold_column", "root", "separator", "task")
"""the options of tables, which `TableOptions.columns` puts together"""

SOURCE, TRAINING_SOURCE, TABLE_OPTIONS, DATA_SOURCE = Source(), TrainingSource(), TableOptions(), DataSource()
FEATURE_OPTIONS, ENGINE_OPTIONS = FeatureOptions(), EngineOptions()
"""with every option left out"""

BatchSize = Annotated[
    int | str,
    parameter(
        "batch_size",
        help="Images at once; auto: as many as the device's memory has room for.",
        converter=batch_size_of,
    ),
]
SavedFeatures = Annotated[
    Path | None,
    Parameter(
        name="--features",
        help="Train on what `headstart extract --save` wrote, without the images, in place of --data.",
        group=DATA,
    ),
]


def _writable(_: Any, path: Path | None) -> None:
    from headstart.common.outputs import check_outputs

    check_outputs(file=path)


# Checked as the line is read, so that no command computes what it cannot write in the end.
Json = Annotated[
    Path | None,
    Parameter(name="--json", help="Write the figures to this file as well.", validator=_writable),
]


# ---- texts that stand for several values


def names_in(text: str) -> tuple[str, ...]:
    """ "a, b" as names."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def head_of(text: str) -> str | tuple[int | float, ...]:
    """What --head means: "linear", or widths and dropout rates. SettingError otherwise."""
    if text == "linear":
        return text
    try:
        numbers = zip(text.split(","), numbers_in(text), strict=True)
        return tuple(number if "." in part else whole_of(part) for part, number in numbers)
    except ValueError:
        raise SettingError(
            f"unknown head {text!r}; expected linear, or hidden widths and dropout rates such as 256,0.5"
        ) from None


def tried(texts: Mapping[str, str | None]) -> dict[str, list[float]]:
    """A grid from texts such as "0.001,0.01" by option, without those that are None; seeds are whole numbers.
    SettingError for what are none."""
    grid: dict[str, list[float]] = {}
    for option, text in texts.items():
        if text is None:
            continue
        name = {"seeds": "seed"}.get(option, option)
        try:
            grid[name] = numbers_in(text, whole=name == "seed")
        except ValueError as error:
            flag = "--" + option.replace("_", "-")
            raise SettingError(f"{flag} {text!r}: {error}") from None
    return grid


def colours(option: str, text: str | None) -> list[float] | None:
    """The three numbers of --mean or --std."""
    try:
        return numbers_in(text) if text is not None else None
    except ValueError as error:
        raise SettingError(f"{option} {text!r}: {error}") from None
