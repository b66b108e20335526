"""Data sets of image files: a folder a class.

Invariant: nothing is left out silently. What cannot be read or is no image is an error, or with `on_error="skip"`
a line in `Dataset.skipped`; a folder that cannot be trained on is refused when it is opened, not later.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headstart.common.errors import DataError
from headstart.common.log import LOG
from headstart.common.text import counted
from headstart.data.annotations import PARTS, Annotations, single
from headstart.data.any_files import folder_at
from headstart.data.dataset import Dataset, FileSource
from headstart.data.encoded import sound
from headstart.data.file_system import BROKEN, FOLDER, Folder
from headstart.data.formats import SUFFIXES
from headstart.data.labels import warn_of_missing
from headstart.data.layouts import (
    listed,
    no_class_hint,
    one_class_hint,
    refuse_file,
    refuse_layout,
    refuse_layout_below,
    refuse_url,
)
from headstart.data.left_out import SKIP, Skipped, check_on_error
from headstart.data.litter import is_litter
from headstart.data.names import class_list, normal, shown, spelt_twice, twins, warn_of_kin
from headstart.data.split_folders import check_classes, parts_among, sort_files
from headstart.data.walk import Walker, broken, named, unread


def folder(
    path: str | Path,
    on_error: str = "raise",
    classes: Sequence[str] | None = None,
    truncated: str = "raise",
) -> Dataset:
    """Images in a folder a class: `path/<class>/**/<image>`, classes sorted by name. Or in the parts of a split,
    with a folder a class in each: `path/train/<class>/**/<image>`, beside it `val` (valid, validation, dev ...),
    `test`, or both; then `.train`, `.val` and `.test` are these, and the whole is all their samples. Classes are
    joined by name across the parts, which may lack some: of one that `train` has not a `DataWarning` says so.

    `path` may be a URL: `s3://bucket/photos`, `gs://bucket/photos`, `az://container/photos`. What lies there is
    listed once, and images are fetched as they are needed, ahead of what decodes them; one of more than 256 MiB is
    refused, and one that changes or goes meanwhile is an error as a file's would be. Raises RemoteError and its
    kin where the bucket cannot be reached, is not there, or does not let us in.

    The formats are those of `headstart.data.formats`, by content and not by name; of several frames or pages the
    first is taken, which is counted and said. What systems and programs leave behind
    (dotfiles, Thumbs.db, @eaDir ...: `headstart.data.litter`) and files beside the class folders are ignored.
    Links are followed, each folder once; a link that leads back is cut and listed in `.skipped`. Any other file
    raises `ImageError`. With `on_error="skip"`, every file is decoded once at opening, and what fails is left out
    and listed in `.skipped`, as are links and folders that cannot be read. A JPEG that breaks off is an error too;
    `truncated="keep"` takes it, what is missing of it grey, and the number of such is said.

    `classes`: names of the class folders, in the order in which they are numbered, such as `train.classes` for a
    validation folder. A class without a folder or an image is fine then, a folder that is not named is an error
    (with "skip": left out and listed), and names such as "train" and "val" are taken for the classes they are.

    Class names are kept composed (NFC). Raises `DataError` for a folder that cannot be trained on: missing, no or
    just one class, an empty class, the parts of a split beside other folders, folds, or images beside masks in
    place of classes, links and folders that cannot be read, one folder under two classes or parts, two class names
    that look the same. Where all class folders hold the same folders, which may be the classes, a `DataWarning`
    says so.
    """
    check_on_error(on_error)
    asked = None if classes is None else class_list(classes)
    root = _root(path)
    folders, left_out = _class_folders(root, asked)
    parts = parts_among(root, list(folders))
    if parts and not set(parts.values()) & set(asked or ()):
        return _in_parts(root, folders, parts, asked, left_out, on_error, truncated)
    if asked is None:
        refuse_layout(root, list(folders))
    else:
        folders = _named_only(root, folders, asked, left_out, on_error)
    walker = Walker(root.path, root.files)
    walker.left_out += left_out
    walker.add(folders)
    walker.check(on_error)
    folders = {name: top for name, top in folders.items() if walker.was_read(top)}
    if asked is None:
        _two_classes(root, list(folders), walker.left_out)
        warn_of_missing(folders)
        refuse_layout_below(root, {name: walker.below(top) for name, top in folders.items()})
    names = list(folders) if asked is None else list(asked)
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = list(walker.files(folders[name])) if name in folders else []
        paths += files
        labels += [label] * len(files)
    _no_empty_class(root, names, labels, walker.left_out, asked is not None)
    annotations = single(labels, names)
    source = FileSource(paths, truncated, root.files)
    data = sound(source, annotations, root.files.full_name(root.path), walker.left_out, on_error)
    _no_empty_class(root, names, data.labels.tolist(), list(data.skipped), asked is not None)
    return data


def _in_parts(
    root: Folder,
    folders: dict[str, str],
    parts: dict[str, str],
    asked: Sequence[str] | None,
    left_out: list[Skipped],
    on_error: str,
    truncated: str,
) -> Dataset:
    """The data set of a root that holds train/, val/ or test/: `parts`, part -> which of `folders` it is."""
    if others := sorted(folders.keys() - set(parts.values())):
        left_out += [Skipped(folders[name], "is no part of the split") for name in others]
        if on_error == "raise":
            raise DataError(
                f"{root} holds the parts of a split, {', '.join(map(shown, parts.values()))}, not classes, "
                f"and beside them {', '.join(map(shown, others))}. Move what is no part elsewhere, or leave it "
                f"out: {SKIP}; or name one part: --data {root / parts['train']}. "
                "If these are classes, say so: hs.data.folder(path, classes=[...])"
            )
    below: dict[str, dict[str, str]] = {}
    for part in (part for part in PARTS if part in parts):
        below[part], of_part = _class_folders(root.at(folders[parts[part]]), asked)
        left_out += of_part
        if asked is not None:
            below[part] = _named_only(root.at(folders[parts[part]]), below[part], asked, left_out, on_error)
        if not below[part] and part != "train" and on_error == "skip":
            left_out.append(Skipped(folders[parts[part]], "holds no class folders"))
            del below[part]
    files, left_out = sort_files(root, below, asked, left_out, on_error)
    annotations = Annotations(np.array(files.labels, np.int64), tuple(files.classes), parts=files.parts)
    source = FileSource(files.paths, truncated, root.files)
    data = sound(source, annotations, root.files.full_name(root.path), left_out, on_error)
    check_classes(root, data, asked is not None)
    return data


def _named_only(
    root: Folder, folders: dict[str, str], asked: Sequence[str], left_out: list[Skipped], on_error: str
) -> dict[str, str]:
    """The class folders that classes= names; DataError for others, or with "skip" they are left out."""
    not_named = sorted(folders.keys() - set(asked))
    left_out += [Skipped(folders[name], "is none of the classes") for name in not_named]
    if not_named and on_error == "raise":
        raise DataError(
            f"{root} holds folders that are none of the classes (classes=, or those of the run or of other data): "
            f"{', '.join(map(shown, not_named))}; name them, remove them, or leave them out: {SKIP}"
        )
    return {name: top for name, top in folders.items() if name not in set(not_named)}


def _root(path: str | Path) -> Folder:
    if not isinstance(path, str | os.PathLike):
        raise DataError(f"the data folder is {type(path).__name__} {path!r:.80}; expected a path")
    if not os.fspath(path):
        raise DataError("the path of the data folder is empty; expected a path (a variable of the shell not set?)")
    refuse_url(path)
    root = folder_at(path)
    try:
        kind = root.files.kind(root.path)
        if kind == FOLDER:
            return root
        if kind not in (None, BROKEN):
            refuse_file(root)
    except OSError as error:
        raise DataError(f"the data folder {root} cannot be read: {error.strerror}") from error
    if kind == BROKEN:
        raise DataError(f"the data folder {named([broken(root.path)])}")
    raise DataError(
        f"the data folder {root} does not exist: check the path; expected a folder that holds one folder a class"
    )


def _class_folders(root: Folder, asked: Sequence[str] | None) -> tuple[dict[str, str], list[Skipped]]:
    """Class name -> path of its folder, sorted by name; and what lies beside them and is left out."""
    class_folders: list[tuple[str, str]] = []
    left_out: list[Skipped] = []
    loose = 0
    try:
        entries = root.files.scan(root.path)
    except OSError as error:
        raise DataError(f"the data folder {root} cannot be read: {error.strerror}") from error
    for entry in entries:
        if is_litter(entry.name) and normal(entry.name) not in (asked or ()):
            LOG.debug("ignored: %s", entry.path)
            continue
        try:
            if entry.is_dir():
                class_folders.append((entry.name, entry.path))
            elif entry.is_symlink() and not entry.is_file():
                left_out.append(broken(entry.path))
            else:
                loose += entry.name.lower().endswith(SUFFIXES)
        except OSError as error:
            left_out.append(unread(entry.path, error))
    names = [name for name, _ in class_folders]
    # One normal form cannot hold both spellings; names that only look alike may be meant, where they are given.
    same = twins(names) if asked is None else spelt_twice(names)
    if same:
        raise DataError(
            f"{root} holds class folders whose names look the same: {', '.join(map(ascii, same))}; rename or "
            "merge them"
        )
    if asked is None:
        warn_of_kin(names)
    if loose:
        where = "beside the class folders" if names else "right in it"
        left_out.append(Skipped(str(root), f"holds {counted(loose, 'image')} {where}, in no class"))
    return dict(sorted((normal(name), path) for name, path in class_folders)), left_out


def _two_classes(root: Folder, names: list[str], left_out: list[Skipped]) -> None:
    if len(names) > 1:
        return
    only = f"only one class folder, {shown(names[0])}" if names else "no class folders"
    loose = any(skipped.path == str(root) for skipped in left_out)
    hint = one_class_hint(root, names[0]) if names else no_class_hint(root, loose)
    left = f" Left out: {named(left_out)}." if left_out else ""
    raise DataError(f"{root} holds {only}; expected at least two, each with the images of one class.{hint}{left}")


def _no_empty_class(
    root: Folder, names: Sequence[str], labels: list[int], skipped: list[Skipped], were_named: bool
) -> None:
    present = set(labels)
    empty = [name for label, name in enumerate(names) if label not in present]
    if not empty or (were_named and present):
        return
    such = "such as .jpg, .png or .webp"
    left_out = f" {counted(len(skipped), 'file')} left out, the first: {named(skipped[:1])}." if skipped else ""
    if not present:
        raise DataError(
            f"{root} has no usable image in any of its class folders, {listed(names)}.{left_out} Expected images "
            f"({such}) in a folder for each class: {root}/CLASS/IMAGE. Is this the folder above or below the "
            "right one?"
        )
    raise DataError(
        f"{root} has no usable image in its class {'folder' if len(empty) == 1 else 'folders'} {listed(empty)}."
        f"{left_out} Expected at least one ({such}) for every class: add images to it, or remove the folder. In "
        "Python classes that are named may be empty: hs.data.folder(path, classes=[...])"
    )
