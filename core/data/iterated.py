"""Sets that are read in one pass, of tf.data, Keras and loaders: the line of code that makes a data set of one.

Invariant: the line reads images and labels in one pass, loses no sample and takes none twice; what a set says of
its files, classes and weights is in it. Nothing is read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart.data.pairs import entries_of, pairs_line

ARRAYS = "hs.data.arrays(images, labels)"
CHANNELS = (1, 3, 4)


def line_of_iterated(thing: Any, argument: str) -> str:
    """What to write of a set of tf.data, which `argument` is the name of."""
    classes: Any = getattr(thing, "class_names", None)
    named = f", classes={argument}.class_names" if _are_texts(classes) else ""
    files: Any = getattr(thing, "file_paths", None)
    if named and _are_texts(files) and {Path(file).parent.name for file in files} <= set(classes):
        return (
            "from pathlib import Path, then "
            f"hs.data.wrap([(path, Path(path).parent.name) for path in {argument}.file_paths]{named})"
        )
    spec: Any = getattr(thing, "element_spec", None)
    samples = f"{_unbatched(thing, argument, spec)}.as_numpy_iterator()"
    if isinstance(spec, Mapping) and (line := pairs_line(spec, samples)):
        return line
    if isinstance(spec, tuple) and len(spec) == 3:
        return (
            f"images, labels, weights = zip(*{samples}), then hs.data.arrays(images, labels{named}, "
            "weights=weights), of uint8 images"
        )
    if isinstance(spec, tuple) or spec is None:
        return f"images, labels = zip(*{samples}), then hs.data.arrays(images, labels{named}), of uint8 images"
    return f"images = list({samples}), then {ARRAYS}, of uint8 images, with labels that the set does not have"


def line_of_batches(argument: str) -> str:
    """What to write of a sequence of batches, such as Keras' PyDataset."""
    return (
        f"images, labels = map(np.concatenate, zip(*({argument}[i] for i in range(len({argument}))))), then "
        f"{ARRAYS}, of uint8 images"
    )


def line_of_chosen(loader: Any, argument: str) -> str:
    """What to write of a loader whose sampler takes some of its set's samples alone; "" of another one."""
    indices: Any = getattr(getattr(loader, "sampler", None), "indices", None)
    held: Any = getattr(loader, "dataset", None)
    if not hasattr(indices, "__len__") or not hasattr(held, "__len__") or len(indices) == len(held):
        return ""
    subset = f"{type(loader).__module__.rpartition('.')[0]}.Subset"
    return f"hs.data.wrap({subset}({argument}.dataset, list({argument}.sampler.indices)))"


def _are_texts(values: Any) -> bool:
    return isinstance(values, Sequence) and bool(values) and all(isinstance(value, str) for value in values)


def _unbatched(thing: Any, argument: str, spec: Any) -> str:
    """What gives single samples: its batches are taken apart, where it has such, and of one that repeats without
    end a number is taken."""
    count = getattr(thing, "cardinality", lambda: 0)
    taken = argument if _is_single(spec) else f"{argument}.unbatch()"
    return f"{taken}.take(n)" if int(count()) == -1 else taken


def _is_single(spec: Any) -> bool:
    """Whether each element is one sample: its label has no axis, or its image is one picture with channels and its
    label as one-hot rows have it."""
    names = entries_of(spec)
    if names is not None and isinstance(spec, Mapping):
        image, label = spec[names[0]], spec[names[1]]
    elif isinstance(spec, tuple) and len(spec) > 1:
        image, label = spec[0], spec[1]
    else:
        image, label = spec, None
    of_image, of_label = _shape(image), _shape(label)
    if of_label == ():
        return True
    return (label is None or of_label is None or len(of_label) == 1) and (
        of_image is not None and len(of_image) == 3 and of_image[-1] in CHANNELS
    )


def _shape(spec: Any) -> tuple[Any, ...] | None:
    """The axes, None for those of any length; None where their number is not known."""
    shape = getattr(spec, "shape", None)
    rank = getattr(shape, "rank", None)
    if rank is None or shape is None:
        return None
    return tuple(shape) if hasattr(shape, "__iter__") else (None,) * rank
