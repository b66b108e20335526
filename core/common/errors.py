"""Every mistake a user can make has a type here, so that callers can tell them apart and the command line
can answer with one line and exit code 2. A message says what came, what is allowed, and how to mend it.

Anything that is *not* a `HeadstartError` and reaches a user is a bug of ours.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from headstart.common.redact import redact_raised, redacted

__all__ = [
    "BackendError",
    "CacheNotWritableError",
    "CheckpointError",
    "CutError",
    "DamagedDescriptionError",
    "DamagedShardError",
    "DataError",
    "DataWarning",
    "DeviceMemoryError",
    "DeviceWarning",
    "DiskSpaceError",
    "DivergedWarning",
    "DownloadError",
    "EngineError",
    "ExportError",
    "ExportMismatchError",
    "ExtractionInterrupted",
    "FeatureDriftError",
    "FeatureOverflowError",
    "FeatureUnderflowError",
    "FrozenWarning",
    "GraphError",
    "HeadstartError",
    "ImageError",
    "MissingAbilityError",
    "MissingFeaturesError",
    "ModelFileError",
    "ModelFileWarning",
    "NonFiniteError",
    "ProfileError",
    "RemoteDamagedError",
    "RemoteError",
    "RemoteNotFoundError",
    "RemoteRefusedError",
    "SavedFeaturesError",
    "SettingError",
    "StoreError",
    "StoreWarning",
    "TransferInterrupted",
    "TrunkChangedError",
    "UnderflowWarning",
    "UnknownNameError",
    "UnknownOptionError",
    "UnreadableShardError",
    "UnsupportedOpError",
    "WatchingWarning",
    "WeightsError",
]


class HeadstartError(Exception):
    """Base of all errors that headstart raises on purpose. Its text holds no credentials, nor do the texts of what
    it is raised from, which stand in the same traceback."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(argument) if isinstance(argument, str) else argument for argument in args))
        redact_raised(sys.exception())

    def __str__(self) -> str:
        return redacted(super().__str__())


class SettingError(HeadstartError, ValueError):
    """An argument, option or environment variable has a value that is not allowed."""


MANY = 12
"""names that a guess stands behind, at most; else before them"""


class UnknownNameError(SettingError):
    """A name (backend, model, mode, optimiser ...) is not one of the known ones."""

    def __init__(
        self, kind: str, received: object, allowed: Iterable[str], hint: str = "", meant: str | None = None
    ) -> None:
        """`meant`: the one that it is another name for; None: one that is written nearly so is guessed."""
        allowed = list(allowed)
        near = [meant] if meant in allowed else difflib.get_close_matches(str(received), allowed, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        names = ", ".join(allowed) or "none"
        first = near and len(allowed) > MANY  # behind so many names nobody sees it
        told = f"{guess} Expected one of {names}" if first else f"; expected one of {names}{guess}"
        super().__init__(f"unknown {kind} {received!r}{hint}{told}")


class UnknownOptionError(UnknownNameError, TypeError):
    """A keyword argument that a function does not have, such as a misspelt option."""


class BackendError(HeadstartError):
    """No backend could be chosen, or the chosen one's framework is not installed."""


class DeviceMemoryError(BackendError):
    """A device has no room for what is to be computed there, not even for one sample at a time."""


class MissingAbilityError(BackendError):
    """The backend lacks an optional ability, and there is no other way without it."""

    def __init__(self, backend: str, what: str, instead: str) -> None:
        """`what` it cannot do, and what the user can do `instead`."""
        super().__init__(f"backend {backend!r} cannot {what}; {instead}")
        self.backend, self.what, self.instead = backend, what, instead

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return (type(self), (self.backend, self.what, self.instead))


class UnsupportedOpError(HeadstartError):
    """A graph holds an op that a backend, or a file format, has no translation for."""


class CutError(SettingError):
    """The cut does not exist, or not every path through the graph passes through it."""


class GraphError(HeadstartError, ValueError):
    """A graph is malformed: a shape rule fails, an input is missing, a name stands twice."""


class WeightsError(HeadstartError):
    """A weight file cannot be read, its names or shapes do not fit the model, or a frozen trunk's hold NaN."""


class DataError(HeadstartError):
    """A data set cannot be used as it is: empty class, one class only, label out of range, bad archive."""


class ImageError(DataError):
    """One image cannot be decoded, or is larger than allowed. `source` names it, `mend` says how to go on."""

    def __init__(self, source: str | Path, reason: str, mend: str = "") -> None:
        super().__init__(f"{source}: {reason}{mend}")
        self.source = str(source)
        self.reason = reason
        self.mend = mend

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return (type(self), (self.source, self.reason, self.mend))


class DataWarning(UserWarning):
    """Data that can be trained on give figures that may mean little: equal pictures in training and validation,
    one picture under two labels."""


class DownloadError(DataError):
    """A download failed, or what came does not have the published checksum."""


class EngineError(HeadstartError):
    """What is to extract on other machines or GPUs cannot begin, or none of its workers is left. What was stored
    is kept."""


class StoreError(HeadstartError):
    """The feature store cannot do what was asked; what it already holds is intact."""


class CacheNotWritableError(StoreError):
    """The cache folder cannot be created or written."""


class DiskSpaceError(StoreError):
    """The features would not fit on the disk. Says how much is needed and how much is free."""


class MissingFeaturesError(StoreError):
    """Samples have no features in the store, or have none any more."""


class DamagedShardError(StoreError):
    """A shard's bytes are not what was written. `path` names it; none of its rows is used."""

    cure = (
        "`headstart cache verify --repair` sets damaged shards aside, and the next extraction computes just "
        "their rows"
    )

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; none of its rows was used. {self.cure}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return (type(self), (self.path, self.reason))


class DamagedDescriptionError(StoreError):
    """A trunk.json is not as it was written, or another trunk's."""


class UnreadableShardError(DamagedShardError):
    """The disk does not give a shard's bytes back. They may be what was written, so nothing moves the file."""

    cure = "Try again; where it stays so, delete that file, and the next extraction computes just its rows"


class RemoteError(StoreError):
    """An object store cannot be reached, or does not give or take an object. `url` names it."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return (type(self), (self.url, self.reason))


class RemoteDamagedError(RemoteError):
    """A shard in an object store is not what was written under its name. None of its rows is used."""


class RemoteNotFoundError(RemoteError):
    """There is no such object."""


class RemoteRefusedError(RemoteError):
    """The credentials at hand are none, or do not allow this."""


class StoreWarning(UserWarning):
    """Part of a shared cache cannot be used; what it would have given is computed instead."""


class DeviceWarning(UserWarning):
    """A device is there that the framework cannot compute on, and none was asked for by name: it is not used. Or
    one has no room for as many samples at once as were asked for, and computes fewer."""


class WatchingWarning(UserWarning):
    """What watches a training, TensorBoard's files or a profiler, cannot go on; the training does."""


class DivergedWarning(UserWarning):
    """A training's last loss or its weights are not finite; or a model's logits, which name no class and count as
    wrong."""


class FrozenWarning(UserWarning):
    """A mode that trains everything leaves a wrapped module's trunk as it is, since its owner froze it. Or a
    learning rate, or statistics that follow the batches, are asked for of what is not trained."""


class CheckpointError(HeadstartError):
    """A training cannot go on from this: it is damaged, or the state of another graph, optimiser or backend."""


class SavedFeaturesError(StoreError):
    """A folder is no saved feature set, or no longer the one that was saved."""


class ExportError(HeadstartError):
    """Features, or a model, cannot be handed over in this form: a package for it is missing, or it cannot hold
    them."""


class ExportMismatchError(ExportError):
    """An exported model does not compute what the run does, or cannot be opened again. It was not kept."""


class ModelFileError(HeadstartError):
    """The file of an exported model cannot be read or run, or is none that headstart wrote."""


class FeatureOverflowError(StoreError):
    """A feature is not finite in the stored dtype. Refused, never clipped."""


class FeatureUnderflowError(StoreError):
    """Features are so small that the stored dtype makes zeros, or a few digits, of most of them."""


class ModelFileWarning(UserWarning):
    """An exported file computes with something else than was written into it."""


class UnderflowWarning(UserWarning):
    """Some channels of the features became zero in the stored dtype."""


class FeatureDriftError(StoreError):
    """Stored features differ from what this machine's trunk computes for the same samples."""


class TrunkChangedError(HeadstartError):
    """A frozen trunk's weights were not the same after training as before it: a bug, never served."""


class NonFiniteError(HeadstartError):
    """NaN or infinity came up in training, where `debug_nans` was asked for."""

    def __init__(
        self,
        message: str,
        *,
        what: str,
        stage: str,
        node: str | None,
        epoch: int | None,
        batch: int | None,
        samples: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.what = what
        """where it came up first: "input", "output" (of the node), "loss" or "update" (of the node's parameters);
        "weights": in the parameters that training was to begin with"""
        self.stage = stage
        """as `on_epoch` is told, "head" or "all"; or "extraction" """
        self.node = node
        self.epoch = epoch
        """from 1, as in the records; None in an extraction"""
        self.batch = batch
        """of the epoch, from 1; None in validation and extraction"""
        self.samples = tuple(samples)
        """the samples concerned: paths, or e.g. "image 3 of arrays"; empty where it is no matter of samples"""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_non_finite, (str(self), dict(vars(self))))


def _non_finite(message: str, about: dict[str, Any]) -> NonFiniteError:
    return NonFiniteError(message, **about)


class ProfileError(HeadstartError):
    """A framework's profiler could not be started."""

    def __init__(self, framework: str, reason: str) -> None:
        super().__init__(
            f"the profiler of {framework} cannot be started: {reason}. End the other one, or leave out profile="
        )
        self.framework = framework
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return (type(self), (self.framework, self.reason))


class ExtractionInterrupted(HeadstartError, KeyboardInterrupt):  # noqa: N818 - it is an interrupt
    """Ctrl-C came during extraction; what was finished is kept, and the message says how much."""


class TransferInterrupted(HeadstartError, KeyboardInterrupt):  # noqa: N818 - it is an interrupt
    """Ctrl-C came while shards were pushed or pulled; what has moved stays, and the message says how much."""
