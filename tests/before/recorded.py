"""What the version before the restructuring is held to: the things it made, and how its command is asked.

`record.py` runs this with the code of that version and writes down what comes out; the tests run it with today's
code and compare. So it uses public names only, those of README, and a test in it would be in the wrong place.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shutil
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import headstart as hs

HERE = Path(__file__).parent
MADE = HERE / "made.tar.xz"
CLASSES = ("dark", "light", "striped")
MAX_WIDTH = "300"  # columns: no line of a help text is broken


# ---- what was made: images, weights, a store, a run, a feature set, a comparison


def unpack(folder: Path) -> Path:
    """The recorded files in `folder`: images/ light/ broken/ lenet.safetensors store/ run*/ features/ compare/"""
    with tarfile.open(MADE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@dataclass(frozen=True)
class Stored:
    """Features that are in the recorded store."""

    model: Any
    data: Any
    cuts: tuple[str, ...]
    settings: Mapping[str, Any]


def own_weights(folder: Path, **changes: Any) -> Any:
    """LeNet with the recorded weights, of few different numbers, so that they pack well."""
    return hs.model("lenet", weights=str(folder / "lenet.safetensors"), **({"classes": CLASSES} | changes))


def stored(folder: Path) -> dict[str, Stored]:
    """What the store holds of models of the zoo, by a name for each: every setting that a key depends on differs
    somewhere."""
    images, digits = hs.data.folder(folder / "images"), hs.data.digits().subset(range(24))
    published = hs.model("resnet18_half", weights="tinyimagenet", classes=digits.classes, size=32)
    random = hs.model("lenet", classes=digits.classes)
    own = own_weights(folder)
    return {
        "published weights": Stored(published, digits, ("avgpool",), {}),
        "random weights": Stored(random, digits, ("relu4",), {}),
        "own weights": Stored(own, images, ("pool2", "relu4"), {}),
        "float32": Stored(own, images, ("relu4",), {"dtype": "float32"}),
        "bfloat16": Stored(own, images, ("relu4",), {"dtype": "bfloat16", "precision": "bfloat16"}),
        "views": Stored(own, images, ("relu4",), {"augment": "flip,crop", "views": 2, "seed": 3}),
        "pixels": Stored(own, images, ("input",), {}),
    }


def wrapped(backend: str) -> Stored:
    """A small network of the framework's own, with weights that are written down here."""
    x = np.random.default_rng(5).integers(0, 200, (12, 6), np.uint8).astype(np.float32) / 200
    data = hs.data.arrays(x, np.arange(12) % 3, classes=list(CLASSES))
    kernels = [np.linspace(-0.5, 0.5, 6 * 8, dtype=np.float32).reshape(6, 8)]
    kernels += [np.linspace(0.5, -0.5, 8 * 3, dtype=np.float32).reshape(8, 3)]
    biases = [np.linspace(-0.1, 0.1, n, dtype=np.float32) for n in (8, 3)]
    if backend == "torch":
        import torch

        layers = [torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)]
        for layer, kernel, bias in zip(layers, kernels, biases, strict=True):
            layer.weight.data, layer.bias.data = torch.tensor(kernel.T.copy()), torch.tensor(bias)
        net, cut = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1]), "1"
    elif backend == "keras":
        import keras

        given = keras.Input((6,), name="x")
        hidden = keras.layers.Dense(8, "relu", name="hidden")(given)
        net, cut = keras.Model(given, keras.layers.Dense(3, name="last")(hidden), name="small"), "hidden"
        net.set_weights([kernels[0], biases[0], kernels[1], biases[1]])
    else:
        from flax import nnx

        first, last = nnx.Linear(6, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 3, rngs=nnx.Rngs(0))
        for layer, kernel, bias in zip((first, last), kernels, biases, strict=True):
            layer.kernel[...], layer.bias[...] = kernel, bias
        net, cut = nnx.Sequential(first, nnx.relu, last), "1"
    return Stored(hs.wrap(net, cut=cut, classes=CLASSES, example=data), data, (cut,), {})


def extracted(entry: Stored, backend: str) -> Any:
    """Its features: read where they are in HEADSTART_CACHE, else computed."""
    cuts = None if entry.model.home is not None else list(entry.cuts)
    return hs.extract(entry.model, entry.data, cuts, backend=backend, device="cpu", batch_size=8, **entry.settings)


def digests(entry: Stored, features: Any) -> list[str]:
    """The keys of its trunks."""
    views = range(features.views)
    return [features.key(cut, view).digest for cut in features.cuts for view in views]


# ---- the command


class Result(NamedTuple):
    code: int
    out: str
    err: str


def command(*arguments: object) -> Result:
    """`headstart ARGUMENTS`, in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["headstart", *map(str, arguments)]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_module("headstart", run_name="__main__", alter_sys=False)
    except SystemExit as leave:
        code = leave.code
    finally:
        sys.argv = before
    return Result(code or 0, out.getvalue(), err.getvalue())


# ---- what --json writes: keys and types

CHANCE = {
    "pays_off_after_epochs": (0, None),
    "against_best": (None, {"best": "", "difference": 0.5, "interval": [0.5], "noise": True, "weighted": True}),
    "trained_on": (None, {"samples": 1, "share": 0.5}),
}
"""What a clock, or rounding, decides, by key: values that stand for all that may come."""
BY_DATA = ("pictures", "versions")
"""Dictionaries whose keys are data."""
OPAQUE = ("graph", "per_class", "values", "undefined", "intervals")
"""What is a list, or a dictionary, and no more, here: FORMAT.md has the rest of a graph, and scores depend on
the samples."""


def types_of(*values: Any) -> Any:
    """The JSON types of values that stand in one place: "int", "float|null", `[type of all elements]`, or a
    dictionary with its keys; a key that some lack ends in "?". Mixed ones are {"any of": [...]}."""
    parts: list[Any] = sorted({_scalar(value) for value in values if not isinstance(value, list | dict)})
    if lists := [value for value in values if isinstance(value, list)]:
        elements = [element for value in lists for element in value]
        parts.append([types_of(*elements)] if elements else [])
    if dicts := [value for value in values if isinstance(value, dict)]:
        parts.append(_types_of_dicts(dicts))
    if len(parts) == 1:
        return parts[0]
    return "|".join(parts) if all(isinstance(part, str) for part in parts) else {"any of": parts}


def _scalar(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _types_of_dicts(dicts: list[dict[str, Any]]) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for key in sorted({key for value in dicts for key in value}):
        values = [value[key] for value in dicts if key in value]
        if key in CHANCE:
            values = list(CHANCE[key])
        if key in BY_DATA:
            values = [{"*": element} for value in values for element in value.values()] or [{}]
        name = key if len(values) == len(dicts) or key in (*CHANCE, *BY_DATA) else f"{key}?"
        types[name] = type(values[0]).__name__ if key in OPAQUE else types_of(*values)
    return types


OWN = "--model lenet --weights {made}/lenet.safetensors"
HERE_ALONE = "--backend torch --device cpu"
TRAINED = f"--data {{made}}/images {OWN} {HERE_ALONE} --epochs 2 --batch-size 4 --split 0.6"

NEUTRAL_JSON = {
    "models": "models",
    "models NAME": "models lenet --size 32",
    "weights ls": "weights ls",
    "weights ls MODEL, imported": "weights ls lenet",
    "cache ls": "cache ls",
    "cache ls, shared": "cache ls",
    "cache info": "cache info {key}",
    "cache explain, all there": f"cache explain --data {{made}}/images {OWN} --cuts pool2,relu4",
    "cache explain, views": f"cache explain --data {{made}}/images {OWN} --augment flip,crop --views 2 --seed 3",
    "cache explain, most missing": "cache explain --data digits --size 32",
    "cache explain, nothing there": "cache explain --data digits --size 40",
    "cache verify": "cache verify",
    "cache verify, damaged": "cache verify",
    "cache verify --repair, damaged": "cache verify --repair",
    "cache gc": "cache gc --max-size 0",
    "cache gc --yes": "cache gc --max-size 0 --yes",
    "cache gc --data": "cache gc --data {made}/light",
    "cache gc --data, twice": "cache gc --data {made}/images --data digits",
    "cache gc --data --yes": "cache gc --data {made}/images --yes",
}
"""Every command with --json that needs no framework. Words before a comma are the command's."""

TORCH_JSON = {
    "fit": f"fit {TRAINED}",
    "fit, files left out": f"fit {TRAINED} --data {{made}}/broken --on-error skip",
    "fit, full": f"fit {TRAINED} --mode full --augment flip,crop --schedule cosine --lr-scale 0.1 --head 8,0.5",
    "fit, staged": f"fit {TRAINED} --mode staged --head-epochs 1 --cut pool2 --optimizer sgd",
    "fit, views": f"fit {TRAINED} --augment flip,crop --views 2 --memory 1GB",
    "fit, saved features": f"fit {TRAINED} --features {{made}}/features",
    "plan": f"plan {TRAINED} --cuts pool2,relu4",
    "plan, nothing fits": f"plan {TRAINED} --cuts pool2,relu4 --budget 1kB",
    "sweep": f"sweep {TRAINED} --lr 0.001,0.01 --weight-decay 0,0.1 --seeds 0,1",
    "extract": f"extract --data {{made}}/images {OWN} {HERE_ALONE} --cuts pool2,relu4",
    "evaluate": f"evaluate --run {{made}}/run --data {{made}}/images {HERE_ALONE}",
    "export": "export {made}/run {work}/out.onnx --device cpu",
    "predict --run": f"predict --run {{made}}/run {{made}}/images --top 2 {HERE_ALONE}",
    "predict --model": f"predict {OWN} {{made}}/images/dark/0.png {HERE_ALONE}",
    "cache verify --recompute": f"cache verify --recompute 5 --data {{made}}/images {OWN} {HERE_ALONE}",
    "compare, an error at last": (
        f"compare --backends torch --device cpu --data {{made}}/broken --on-error skip {OWN} --epochs 2 "
        "--batch-size 4 --split 0.6 --modes frozen,cached,full --lr-scale 1e30 --debug-nans --out {work}/compare"
    ),
}
"""Those that train or compute features, with torch on the CPU; `compare` starts a process for it."""


def run_json(name: str, made: Path, work: Path, environment: Any) -> tuple[Result, Any]:
    """Run one of these commands on a copy of the recorded store; returns what it printed, and the JSON.

    `environment(name, value)` sets a variable for the test.
    """
    store = Path(shutil.copytree(made / "store", work / "store"))
    environment("HEADSTART_CACHE", str(store))
    environment("HEADSTART_DATA", str(work / "data"))
    trunks = sorted((store / "features").iterdir())
    if "damaged" in name:
        shard = next(trunks[0].glob("*.safetensors"))
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    if "shared" in name:
        environment("HEADSTART_CACHE", str(work / "empty"))
        environment("HEADSTART_CACHE_SHARED", str(store))
    if "imported" in name:
        command("weights", "import", made / "lenet.safetensors", "--model", "lenet", "--name", "mine")
    viewed = next(trunk.name for trunk in trunks if '"views": {' in (trunk / "trunk.json").read_text())
    line = (NEUTRAL_JSON | TORCH_JSON)[name]
    words = [word.format(made=made, work=work, key=viewed[:12]) for word in line.split()]
    result = command(*words, "--json", work / "figures.json")
    file = work / "figures.json"
    return result, json.loads(file.read_text()) if file.exists() else None


# ---- options and mistakes

COMMANDS = (
    *("", "compare", "fit", "report", "plan", "sweep", "extract", "evaluate", "export", "predict", "models"),
    *("cache", *(f"cache {name}" for name in ("ls", "info", "explain", "verify", "gc"))),
    *("weights", *(f"weights {name}" for name in ("ls", "fetch", "update", "import", "rm", "pin"))),
)


def printed_options(name: str, environment: Any, *words: str) -> dict[str, str | None]:
    """Option -> its default as `headstart NAME --help` prints it, None where it prints none. The command takes
    the words.

    All that knows how help looks: rows that begin with an option, in a frame, with "[default: ...]" or
    "(default: ...)" at the end. `--help` itself has no row but in the list of all commands.
    """
    parsed(name, *words)
    environment("COLUMNS", MAX_WIDTH)
    result = command(*name.split(), "--help")
    assert (result.code, result.err) == (0, ""), result
    options: dict[str, str | None] = {"--help": None}
    row: list[str] = []
    for line in result.out.splitlines():
        text = line.strip(" │|*")
        framed = line.startswith(("│", "|"))  # examples, which go on in another line, are not
        if framed and (names := re.match(r"(--[a-z][\w-]*[ ,/]*)+", text)):
            row = re.findall(r"--[a-z][\w-]*", names[0])
            options |= dict.fromkeys(row)
        elif not text or not framed:
            row = []
        default = re.search(r"[\[(]default: (.*?)[\])]\s*$", text)
        if row and default:
            options |= dict.fromkeys(row, default[1].strip("'\""))
    return options


def parsed(name: str, *words: str) -> None:
    """Raises what the command line's library raises unless the command takes these words."""
    from headstart.cli.app import build

    app = build()
    line = [*name.split(), *words, *REQUIRED.get(name, "").split()]
    (app if name else app.meta).parse_args(line, exit_on_error=False, print_error=False)


MISTAKES = {
    "a model": "models resnet9",
    "a size": "models lenet --size -3",
    "no run": "predict --run nowhere x.jpg",
    "a run and a model": "predict --run a --model b x.jpg",
    "neither": "predict x.jpg",
    "no weights": "predict --model lenet x.jpg",
    "an empty value": "predict --run= x.jpg",
    "a dash": "models -",
    "a key": "cache info ffff",
    "a number of bytes": "cache gc --max-size huge",
    "no limit": "cache gc",
    "yes and no": "cache gc --yes --dry-run",
    "recompute what": "cache verify --recompute 5",
    "no file": "report missing.json",
    "no weight file": "weights import missing.safetensors --model lenet",
    "no imported weights": "weights rm mine --model lenet --yes",
    "a level": "--log-level loud models",
    "a folder for a file": "models --json .",
}
"""What is answered with one line and an exit code, without a framework."""

MISTAKES_OF_TRAINING = {
    "a mode": "fit --mode cashed",
    "data": "extract --data no/such",
    "a backend": "fit --backend tf",
    "a cut": "fit --cut layer9",
    "a head": "fit --head a,b",
    "a rate of what": "fit --lr-scale layer3=",
    "a share": "fit --split 1.5",
    "no epochs": "fit --epochs 0",
    "a grid": "sweep --lr a,b",
    "a budget": "plan --budget soon",
    "modes": "compare --modes cached,cashed",
    "an optimiser": "compare --optimizer adam",
    "backends": "compare --backends torch,torch",
}
"""Likewise; these ask first whether there is a backend."""

MISTAKES_OF_PARSING = {
    "an option": ("fit --nope", "--nope"),
    "an option's value": ("fit --epochs many", "--epochs"),
    "a number": ("fit --lr fast", "--lr"),
    "a range": ("predict --model lenet --top 0 x.jpg", "--top"),
    "another range": ("cache verify --recompute 0 --data digits --model lenet", "--recompute"),
    "no value": ("fit --epochs", "--epochs"),
    "a command": ("trian", "trian"),
    "a command of a group": ("cache delete", "delete"),
    "no argument": ("predict", "(?i)images"),
    "no key": ("cache info", "(?i)key"),
    "no option": ("weights rm mine", "--model"),
    "too many arguments": ("cache ls more", "more"),
}
"""What the library of the command line answers, in its own words; they hold a match of the second."""


def answer(line: str) -> list[Any]:
    """Exit code and standard error of a wrong command line; of a list of names only that it follows."""
    result = command(*line.split())
    assert result.out == "", result
    return [result.code, re.sub(r"([Ee]xpected one of).*", r"\1 ...", result.err.rstrip("\n"))]


def refused(name: str, option: str, value: str) -> bool:
    """Whether the command answers this value of an option as it parses, and names the option."""
    result = command(*name.split(), *REQUIRED.get(name, "").split(), option, value)
    return result.code == 2 and option in result.err and result.out == ""


REQUIRED = {
    **dict.fromkeys(("report", "predict", "cache info", "weights fetch", "weights update"), "x"),
    "evaluate": "--run x --data x",
    "export": "x x.onnx",
    "weights import": "x --model lenet",
    "weights rm": "x --model lenet",
}
"""What must be there for the rest to be parsed."""
