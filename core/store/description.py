"""trunk.json, the file beside the shards that says what the features depend on.

Invariant: a description is refused where one byte differs from what a writer writes, or where it lies in the
folder of another trunk key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from headstart.common.errors import DamagedDescriptionError, SettingError
from headstart.common.files import read_whole
from headstart.store.keys import FORMAT_VERSION, TrunkKey, canonical_json, spec_digest
from headstart.store.shard import has_gone, raise_unreadable

DESCRIPTION = "trunk.json"
MAX_DESCRIPTION_NBYTES = 2 << 20  # a graph of ten thousand nodes; read, it takes up to thirty times as much memory


def description_of(spec: Mapping[str, Any], label: Mapping[str, Any]) -> bytes:
    """The bytes of trunk.json. Its checksum covers the label, which the digest leaves out."""
    content = {"digest": spec_digest(spec), "label": label, "spec": spec}
    checksum = blake3(canonical_json(content).encode("ascii")).hexdigest(length=16)
    return (json.dumps(content | {"checksum": checksum}, indent=2, sort_keys=True) + "\n").encode("ascii")


def read_key(folder: Path) -> TrunkKey | None:
    """The trunk key whose features the folder holds; None where it has no description. StoreError for a wrong
    description."""
    found = read_description(folder)
    return None if found is None else TrunkKey(folder.name, *found)


def read_description(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Spec and label from a folder's trunk.json; None where there is none. StoreError for a wrong description."""
    path = folder / DESCRIPTION
    try:
        data = read_whole(path, MAX_DESCRIPTION_NBYTES)
    except EOFError:
        data = b""
    except OSError as error:
        if has_gone(error) or isinstance(error, NotADirectoryError):
            return None
        raise_unreadable(path, error)
    cure = (
        "no features were used. `headstart cache verify --repair` sets it aside, and the next extraction "
        "writes it anew"
    )
    return parse_description(data, folder.name, path, cure)


def format_of_others(folder: Path) -> str | None:
    """What to say of a folder that a version of headstart with another format has written, whose files are not
    damaged because this one cannot read them; None for any other folder. The spec must give the folder's name, so
    a number that was damaged is no other format."""
    try:
        content = json.loads(read_whole(folder / DESCRIPTION, MAX_DESCRIPTION_NBYTES).decode("ascii"))
        number = content["spec"]["format"]
        named = spec_digest(content["spec"]) == folder.name
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError, SettingError):
        return None
    if not named or type(number) is not int or number == FORMAT_VERSION:
        return None
    return f"of format {number}, which another version of headstart has written; this one reads {FORMAT_VERSION}"


def parse_description(
    data: bytes, key_digest: str, where: Path | str, cure: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Spec and label from the bytes of a trunk.json that lies in the folder `key_digest`; `where` and `cure` are
    for the message. DamagedDescriptionError for what no writer has written there."""
    try:
        if len(data) > MAX_DESCRIPTION_NBYTES:
            raise ValueError
        content = json.loads(data.decode("ascii"))
        spec, label = dict(content["spec"]), dict(content["label"])
        same = description_of(spec, label) == data
    except (ValueError, KeyError, TypeError, RecursionError):
        same = False
    if not same:
        raise DamagedDescriptionError(f"{where} is not as it was written: damaged, or edited; {cure}")
    if content["digest"] != key_digest:
        raise DamagedDescriptionError(
            f"{where} describes the trunk {content['digest']}, its folder is {key_digest}; {cure}"
        )
    return spec, label
