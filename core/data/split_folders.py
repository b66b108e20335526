"""A folder that holds train/, val/ and test/, each with a folder a class: one data set in named parts.

Invariant: a class is one class in all parts, whichever of them have it. Names decide what is a part, and only
where `train` is among them; what is told otherwise (folds, two folders for one part, images beside masks) is
refused by `headstart.data.layouts`, as nobody can say what was meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from headstart.common.errors import DataError
from headstart.data.annotations import PARTS
from headstart.data.file_system import Folder
from headstart.data.labels import warn_of_missing
from headstart.data.layouts import layout_in, refuse_layout, role_of
from headstart.data.left_out import Skipped
from headstart.data.names import shown, spelt_twice, twins, warn_of_kin
from headstart.data.samples import Samples
from headstart.data.untrained import warn_of_untrained
from headstart.data.walk import Walker


def parts_among(root: Folder, names: Sequence[str]) -> dict[str, str]:
    """Part -> the folder of these in `root` that is it; empty where they are not the parts of one split."""
    if layout_in(root, names) != "split":
        return {}
    of_role = {name: role_of(name) for name in names}
    named = {role: name for name, role in of_role.items() if role in PARTS}
    parts = sum(role in PARTS for role in of_role.values())
    return named if len(named) == parts > 1 and "train" in named else {}


class Sorted(NamedTuple):
    """The files of all parts and classes."""

    paths: list[str]
    labels: list[int]
    classes: list[str]
    parts: np.ndarray
    """`(n,)`, positions in `PARTS`"""


def sort_files(
    root: Folder,
    folders: dict[str, dict[str, str]],
    asked: Sequence[str] | None,
    left_out: Sequence[Skipped],
    on_error: str,
) -> tuple[Sorted, list[Skipped]]:
    """The files below class folders, part -> class -> path, and what was left out.

    Raises DataError for a part without a class folder or an image, classes that are none, one folder in two
    parts or classes, and for a class of the training part without an image; DataWarning for a class that only
    other parts have.
    """
    walker = Walker(root.path, root.files)
    walker.left_out += left_out
    for part, of_class in folders.items():
        if not of_class:
            raise DataError(
                f"{root} holds the parts of a split, and no folder a class in its part {part!r}: sort its images "
                "into such folders, or move that part elsewhere. If the parts are classes, say so: "
                "hs.data.folder(path, classes=[...])"
            )
        if asked is None:
            refuse_layout(root.at(next(iter(of_class.values()))).parent, list(of_class))
    walker.add({f"{part}/{name}": path for part, of_class in folders.items() for name, path in of_class.items()})
    walker.check(on_error)
    every = sorted({name for of_class in folders.values() for name in of_class})
    if same := twins(every) if asked is None else spelt_twice(every):
        raise DataError(
            f"{root} holds class folders whose names look the same: {', '.join(map(ascii, same))}; rename or "
            "merge them, in all parts"
        )
    if asked is None:
        warn_of_kin(every)
        warn_of_missing(every)
    classes = every if asked is None else list(asked)
    number = {name: k for k, name in enumerate(classes)}
    paths, labels, parts = [], [], []
    for part, of_class in folders.items():
        for name in sorted(of_class, key=number.__getitem__):
            files = list(walker.files(of_class[name])) if walker.was_read(of_class[name]) else []
            paths += files
            labels += [number[name]] * len(files)
            parts += [PARTS.index(part)] * len(files)
        if not parts or parts[-1] != PARTS.index(part):
            raise DataError(
                f"{root} has no usable image in its part {part!r}; expected at least one in the class folders of "
                "each part. Add some, or move the folder of that part elsewhere"
            )
    return Sorted(paths, labels, classes, np.array(parts, np.int8)), walker.left_out


def check_classes(root: Folder, data: Samples, named: bool) -> None:
    """DataError where fewer than two classes, or no image, are left to train on; DataWarning for classes that
    only another part has, unless they are `named`: somebody said which classes there are."""
    classes, of = data.classes, data.annotations.parts
    to_train = np.bincount(data.labels[of == PARTS.index("train")], minlength=len(classes)) > 0
    if to_train.sum() < (1 if named else 2):
        names = [name for name, there in zip(classes, to_train, strict=True) if there]
        raise DataError(
            f"{root} has {'only the class ' + shown(names[0]) if names else 'no usable image'} to train on; "
            "expected at least two class folders with images in its training part. Add images to it"
        )
    if not named:
        warn_of_untrained(data.annotations, str(root))
