"""A run written as a folder: `run.json`, and the weights it names, `weights-<digits of their sha256>.safetensors`,
with torchvision's names and layout, so that torchvision's own models load them. No pickle.

`weights.safetensors`, as the file was called before, is a link to it where links can be made: for people and
other programs, and never read here.

Invariant: `run.json` is the one point at which a save counts. It is written last and names its weights by their
digest, so whatever moment a save is killed at, the folder holds the run of before or the new one, and never the
weights of one with the record of the other. The weights of before and whatever killed saves left go after that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from headstart.common.errors import SettingError
from headstart.common.files import PARTIAL_PREFIX, replace_whole
from headstart.common.outputs import json_text, writing_into
from headstart.common.places import expanded
from headstart.common.version import __version__
from headstart.models import Model
from headstart.models.layouts import published
from headstart.models.tensors import tensor_chunks
from headstart.models.weights import meaning
from headstart.store.keys import spec_digest
from headstart.training.run_record import RunRecord

FORMAT = 2
RECORD = "run.json"
WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")
WEIGHTS_BEFORE = "weights.safetensors"
"""as the weights were always called in format 1"""


def save(run: RunRecord, path: str | Path) -> Path:
    """See `Run.save`."""
    folder = expanded(path)
    m = run.model
    chunks = weights_chunks(m)
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    sha256 = digest.hexdigest()
    name = f"weights-{sha256[:16]}.safetensors"
    about = {
        "format": FORMAT,
        "headstart": __version__,
        "weights": {"file": name, "sha256": sha256},
        **_about(run),
    }
    text = json_text({**about, "checksum": checksum(about)}, indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with writing_into(folder, alone=True):
            had_record = (folder / RECORD).is_file()
            replace_whole(folder / name, chunks)
            link = folder / WEIGHTS_BEFORE
            if link.is_symlink() and WEIGHTS.fullmatch(str(link.readlink())):
                link.unlink()  # missing for a moment is better than leading to the weights of another record
            replace_whole(folder / RECORD, [text.encode()])
            _link(link, name, had_record)
            _remove_weights(folder, name, had_record)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"{folder}: the run cannot be written there ({getattr(error, 'strerror', None) or error})"
        ) from error
    return folder


def checksum(about: Mapping[str, Any]) -> str:
    """Of all that a record says but for its checksum: 32 hex digits."""
    plain = json.loads(json_text({key: value for key, value in about.items() if key != "checksum"}))
    return spec_digest(plain)


def weights_chunks(model: Model, said: Mapping[str, str] | None = None) -> list[bytes | memoryview]:
    """The model's weights as a safetensors file, with what is to be known of them in its metadata; `said`: further
    entries there. In pieces, and equal ones for equal models."""
    metadata = {
        "format": "pt",
        "architecture": model.name,
        "preprocess": json.dumps(model.preprocess.as_dict()),
        **({"classes": json.dumps(list(model.classes))} if model.named_classes else {}),
        **meaning(model.task, model.threshold),
        **(said or {}),
    }
    return tensor_chunks(published(model.graph, model.params, model.layouts[0]), metadata)


def _link(link: Path, name: str, had_record: bool) -> None:
    """Make the link to the weights, unless something stands there that is no file of an earlier run."""
    is_earlier = had_record and link.is_file() and not link.is_symlink()
    if is_earlier or not os.path.lexists(link):
        made = link.with_name(f"{PARTIAL_PREFIX}{uuid4().hex}")
        with contextlib.suppress(OSError):  # some file systems know no links, and nothing depends on this one
            made.symlink_to(name)
            made.replace(link)


def _remove_weights(folder: Path, kept: str, had_record: bool) -> None:
    """Remove the weights of earlier saves; of a file called as they once were, only where a run was there."""
    for path in folder.iterdir():
        ours = WEIGHTS.fullmatch(path.name) or (had_record and path.name == WEIGHTS_BEFORE)
        if ours and path.name != kept and path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):  # the run is saved; on Windows somebody may be reading this one
                path.unlink()


def _about(run: RunRecord) -> dict[str, Any]:
    m = run.model
    return {
        "model": {
            "name": m.name,
            "classes": list(m.classes),
            "named_classes": m.named_classes,
            "head": m.head if isinstance(m.head, str) else list(m.head),
            "preprocess": m.preprocess.as_dict(),
            "weights": m.weights,
            "auxiliary": bool(m.graph.auxiliary),
            "task": m.task,
            "threshold": m.threshold,
            "wrapped": spec_digest({"graph": m.graph.spec()}) if m.home is not None else None,
        },
        "mode": run.mode,
        "cut": run.cut,
        "backend": run.backend,
        "best_epoch": run.best_epoch,
        "history": run.history.as_list(),
        "head_best_epoch": run.head_history.best_epoch or None,
        "head_history": run.head_history.as_list(),
        "extraction": vars(run.extraction) if run.extraction else None,
        "seconds": run.seconds,
        "settings": dict(run.settings),
        "data": dict(run.data),
        "trained": run.trained,
        "train_ids": run.train_ids.as_dict() if run.train_ids else None,
        "validation": run.validation.as_dict() if run.validation else None,
        "scores": run.scores.as_dict() if run.scores else None,
        **({} if run.folds is None else {"folds": run.folds.as_dict()}),
    }
