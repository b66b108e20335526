"""How published files name and shape the parameters of our graphs. A layout is a function from our name and shape
to theirs, so that one table serves both directions: saving applies it, and reading looks up what it gives.

Invariant: what is read fits the graph exactly, name by name and shape by shape, or nothing is read. Reshaping
never moves a number: sides of 1 come and go, and a fully connected layer may be published as a convolution over
the whole map.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from headstart.common.errors import WeightsError
from headstart.common.text import first_few
from headstart.graph import Graph, Shape
from headstart.models.positions import resample, resizable

# Counters that state dicts of torch carry and inference does not use: of batch norms, of averages of weights.
IGNORED = ("num_batches_tracked", "n_averaged")
# What wrappers put before every name: DataParallel, torch.compile, training scripts.
PREFIXES = ("module.", "_orig_mod.", "model.", "state_dict.")

Rename = Callable[[str, Shape], tuple[str, Shape]]


@dataclass(frozen=True)
class Layout:
    """The names of one library."""

    name: str
    """"torchvision" or "timm\""""
    rename: Rename
    """(our parameter, its shape) -> (their name, their shape)"""

    def names(self, graph: Graph) -> dict[str, tuple[str, Shape]]:
        """Our parameter -> their name and shape."""
        return {name: self.rename(name, shape) for name, shape in graph.param_shapes().items()}


SAME = Layout("torchvision", lambda name, shape: (name, shape))


def by_rules(name: str, *rules: tuple[str, str] | tuple[str, str, Callable[[Shape], Shape]]) -> Layout:
    """A layout of rows (pattern that our whole name matches, their name with \\1 and so on, change of shape);
    the first that matches is taken, a name that none matches stays."""

    @cache
    def compiled() -> list[tuple[re.Pattern[str], str, Callable[[Shape], Shape] | None]]:
        """When a name is asked for, since most of a process's architectures are never made."""
        return [(re.compile(rule[0]), rule[1], rule[2] if len(rule) > 2 else None) for rule in rules]

    def rename(ours: str, shape: Shape) -> tuple[str, Shape]:
        for pattern, theirs, change in compiled():
            if found := pattern.fullmatch(ours):
                return found.expand(theirs), change(shape) if change is not None else shape
        return ours, shape

    return Layout(name, rename)


def timm_of_features(last: int, *blocks: tuple[str, str]) -> Layout:
    """timm's names for what torchvision has as `features` and `classifier`: stem, last convolution and classifier,
    which it names alike in all such families. `last`: number of the last of the features. `blocks`: rules, as of
    `by_rules`, for those between."""
    return by_rules(
        "timm",
        (r"features\.0\.0\.(\w+)", r"conv_stem.\1"),
        (r"features\.0\.1\.(\w+)", r"bn1.\1"),
        (rf"features\.{last}\.0\.(\w+)", r"conv_head.\1"),
        (rf"features\.{last}\.1\.(\w+)", r"bn2.\1"),
        (r"classifier\.1\.(\w+)", r"classifier.\1"),
        *blocks,
    )


def own_names(graph: Graph) -> Layout:
    """The names that a wrapped module's parameters have in it, without those of our nodes; with them where a name
    would stand twice."""
    table = {
        name: name.removeprefix(f"{node.name}.") if node.op == "native" else name
        for node in graph.nodes
        for name in node.param_shapes()
    }
    if len(set(table.values())) != len(table):
        return SAME
    return Layout("own", lambda name, shape: (table.get(name, name), shape))


def published(graph: Graph, params: Mapping[str, np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
    """`params` by the layout's names, in its shapes. WeightsError for one that is not shaped as the graph has it:
    of as many numbers in another order, a reshape would make something else."""
    differing = [
        f"{name} {params[name].shape} instead of {shape}"
        for name, shape in graph.param_shapes().items()
        if params[name].shape != shape
    ]
    misfit("what is to be saved", [], [], differing)
    return {
        theirs: np.ascontiguousarray(params[ours]).reshape(shape)
        for ours, (theirs, shape) in layout.names(graph).items()
    }


def unwrapped(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the prefixes that wrappers put before every name, and without counters."""
    found = {name: value for name, value in params.items() if not name.endswith(IGNORED)}
    while found and (prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in found)), None)):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def without_prefixes(params: Mapping[str, np.ndarray]) -> list[Mapping[str, np.ndarray]]:
    """The parameters as they are called, and without the first, the second ... part that all names begin with:
    whoever trains a network inside of another saves it as `backbone.conv1.weight`."""
    ways = [params]
    while params and len(first := {name.partition(".")[0] for name in params}) == 1:
        prefix = f"{first.pop()}."
        if not all(name.startswith(prefix) for name in params):
            break
        params = {name.removeprefix(prefix): value for name, value in params.items()}
        ways.append(params)
    return ways


def fitted(
    source: str,
    params: Mapping[str, np.ndarray],
    graph: Graph,
    layouts: Sequence[Layout],
    skip: Collection[str] = (),
    optional: Collection[str] = (),
    spare: Mapping[str, Shape] | None = None,
    replaced: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """The parameters of `graph` by our names, from a file's `params`, in whichever of `layouts` fits best.

    Those of `skip` (our names) may be there in any shape and are left out; those of `optional` are taken where
    the file has them, and those of `spare` (our name -> shape) may be there though the graph lacks them, as may
    whatever lies in the modules `replaced` (our names), such as a classifier of several layers.
    Positions of another image size are resampled. Raises WeightsError that lists every kind of misfit, in the
    file's names.
    """
    known_shapes = {**(spare or {}), **graph.param_shapes()}

    def known_names(params: Mapping[str, np.ndarray], layout: Layout) -> int:
        return sum(layout.rename(*entry)[0] in params for entry in known_shapes.items())

    ways = [(named, layout) for named in without_prefixes(unwrapped(params)) for layout in layouts]
    params, layout = max(ways, key=lambda way: known_names(*way))
    table = layout.names(graph)
    shapes = graph.param_shapes()
    positions = {f"{node.name}.weight" for node in graph.nodes if node.op == "position"}
    fitting: dict[str, np.ndarray] = {}
    missing, differing = [], []
    for ours, (theirs, shape) in table.items():
        if ours in skip or (ours in optional and theirs not in params):
            continue
        if theirs not in params:
            missing.append(theirs)
            continue
        value = params[theirs]
        if ours in positions and value.shape != shape and resizable(value.shape, shapes[ours]):
            value = resample(value, shapes[ours])
        elif value.shape != shape:
            differing.append(f"{theirs} {tuple(value.shape)} instead of {tuple(shape)}")
            continue
        fitting[ours] = np.ascontiguousarray(value).reshape(shapes[ours])
    known = {theirs for theirs, _ in table.values()}
    known |= {layout.rename(name, shape)[0] for name, shape in (spare or {}).items()}
    inside = tuple(
        f"{name}." for module in replaced for name in (module, layout.rename(f"{module}.weight", (1, 1))[0][:-7])
    )
    extra = [name for name in params if name not in known and not name.startswith(inside)]
    misfit(source, missing, extra, differing)
    return fitting


def misfit(source: str, missing: Sequence[str], extra: Sequence[str], differing: Sequence[str]) -> None:
    """Raise WeightsError if any of the lists has an entry."""
    parts = [
        f"{what}: {first_few(names, 8)}"
        for what, names in (("missing", missing), ("left over", extra), ("of another shape", differing))
        if names
    ]
    if parts:
        raise WeightsError(f"{source} does not fit the model; {'; '.join(parts)}")
