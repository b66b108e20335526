"""`hs.extract`: the features of a data set, or of one part of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headstart.common.log import LOG
from headstart.contract import registry
from headstart.data import Dataset
from headstart.data.augment import Augment
from headstart.data.copies import warn_of_parts
from headstart.data.door import as_data_set, check_data_set
from headstart.data.summary import say
from headstart.features.dividing import WorkPart, part_of
from headstart.features.engines.settings import Ray, processes_on
from headstart.features.extractor import Extractor
from headstart.features.feature_set import FeatureSet
from headstart.models import Model, check_model


def extract(
    model: Model,
    data: Dataset,
    cuts: str | Sequence[str] | None = None,
    *,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    dtype: str = "float16",
    batch_size: int | str = 64,
    workers: int | None = None,
    cache: str | Path | None = None,
    augment: str | Augment | None = None,
    views: int = 1,
    seed: int = 0,
    part: tuple[int, int] | str | None = None,
    push: str | None = None,
    engine: Ray | None = None,
    devices: str | Sequence[str] | None = None,
) -> FeatureSet:
    """The features of `data` at the legal `cuts` of `model` (default: what its classifier takes), from the store
    where it has them, computed where it lacks them (and then kept). Several cuts take one pass over the data.

    The cut "input" keeps the decoded, cropped and resized images themselves, uint8 `(n, size, size, 3)`: no
    trunk is run for them, and `fit` in the modes that see images reads them with `cut="input"`.

    `precision`: of the trunk's arithmetic, "float32", "tf32", "bfloat16" or "float16". `dtype`: of the stored
    features, "float16" (default; half the bytes), "float32" or "bfloat16" (float16's bytes, float32's range).
    `cache`: the
    store's folder, default HEADSTART_CACHE or the user's cache directory.
    `batch_size`: samples that are run at once, or "auto": as many as the device's free memory has room for, 256 at
    most; 64 on a CPU. What a device has no room for is run in halves, with a DeviceWarning.
    `views`: how many augmented copies of every sample, view v drawn by `augment` ("flip", "crop", "flip,crop" or
    an `hs.Augment`) from (`seed`, v, the sample's id): what an uncached run with that seed draws in epoch v.

    `part`: (3, 8) or "3/8": only the third of eight parts of the samples, whose features are then returned;
    "auto": the part that a launcher (torchrun, srun, an array of SLURM's, mpirun) or the framework's process group
    gives this process. So processes that share the store fill it together; the same call without a part computes
    what is left.

    `push`: the URL of a store, such as "s3://bucket/team", to which each finished shard is written on, while the
    next ones are computed. What cannot be written there is a StoreWarning with the reason;
    `headstart.cache.push` moves it, and what was in the cache before.

    `engine`: None, or `hs.Ray(...)`: what is lacking is computed by Ray's actors, on the machines of a cluster
    that all see the images and the store, or reach the URL `push`, from where features then come into the store,
    or on the GPUs of this machine; `workers` and `batch_size` are then each actor's. EngineError where it cannot
    begin, or no actor is left; RemoteError where an actor cannot push, or nothing comes from there.

    `devices`: "all", or names such as ["cuda:0", "cuda:1"], in the place of `device`: what is lacking is computed
    by processes of this machine, one for each of them, which see one card each and share the CPUs; `workers` and
    `batch_size` are each process's. With one device this process extracts on it. What a process that dies had not
    stored is computed again. EngineError where one cannot begin, or a task ends every process.

    Raises CutError, DeviceMemoryError (no room for one sample), ImageError (an image that cannot be decoded),
    FeatureOverflowError, FeatureUnderflowError, DiskSpaceError, CacheNotWritableError, FeatureDriftError; Ctrl-C
    raises ExtractionInterrupted, and keeps what is finished.
    """
    check_model(model)
    data = as_data_set(data)
    check_data_set(data, "data")
    engine_now, device = processes_on(devices, engine, device)
    divided = None if part is None else part_of(part, lambda: registry.rank(backend, model.home))
    extractor = Extractor(
        model,
        cuts,
        backend=backend,
        device=device,
        precision=precision,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        cache=cache,
        augment=augment,
        views=views,
        seed=seed,
        push=push,
        engine=engine_now,
    )
    say(data)
    warn_of_parts(data)
    return extractor(data if divided is None else _divided(data, divided))


def _divided(data: Dataset, part: WorkPart) -> Dataset:
    """The part's samples."""
    of_part = data.subset(part.positions(data.ids))
    source = f" ({part.source})" if part.source else ""
    LOG.info("%s%s: %s of %s samples", part, source, f"{len(of_part):,}", f"{len(data):,}")
    return of_part
