"""What is cached, and how much of it is held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.common.objects import is_url
from headstart.training.option import BY_ITSELF, FOLDER, FUNCTIONS, Rule, one_of, option, whole


def _dtypes() -> Iterable[str]:
    from headstart.features.trunk_keys import DTYPES

    return DTYPES


def _is_batch(value: object) -> bool:
    return value == "auto" if isinstance(value, str) else whole(1).holds(value)


def _batch(value: Any) -> int | str:
    return value if isinstance(value, str) else int(value)


def _parsed(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


@dataclass(frozen=True)
class Caching:
    """What is cached, and how much of it is held."""

    dtype: str = option(
        "float16",
        "Type of stored features: float16, float32 or bfloat16.",
        one_of(_dtypes),
        takers=FUNCTIONS,
        recorded="feature_dtype",
    )
    cache: str | Path | None = option(
        None,
        "Folder of the feature store.",
        FOLDER,
        takers=FUNCTIONS,
        text=None,
        unset="HEADSTART_CACHE, else the user's cache folder",
        recorded=False,
    )
    views: int | None = option(
        None,
        "Keep so many augmented views of every image, for features in the cache; augment says how they are drawn.",
        whole(1),
        text=int,
        more="Epoch e reads view e mod `views`. View v is what an uncached run of that seed draws in epoch v.",
    )
    memory: int | str | None = option(
        None,
        "Bytes of cached features held at once, such as 512MB; more are streamed.",
        Rule("a number of bytes, or a text such as '512MB'"),
        takers=FUNCTIONS,
        unset="half of what is free",
        recorded=False,
        more="In Python also a number of bytes. What is streamed comes from the disk, shuffled in blocks; "
        "where the features were stands in the run's settings.",
    )
    extraction_batch: int | str | None = option(
        None,
        "Images at once while features are extracted; auto: as many as the device's memory has room for.",
        Rule("an integer of 1 or more, or 'auto'", _is_batch, _batch),
        takers=BY_ITSELF,
        parse=_parsed,
        unset="batch_size",
        recorded=False,
        more='"auto" is 256 at most, and 64 on a CPU. Features do not depend on it, but for rounding.',
    )
    push: str | None = option(
        None,
        "Write each finished shard of features on to the store behind this URL, such as s3://bucket/team.",
        Rule("a URL, such as 's3://bucket/team'", is_url),
        takers=BY_ITSELF,
        recorded=False,
        more="It is done while the next ones are computed. What cannot be written there is a StoreWarning with "
        "the reason; `headstart.cache.push` moves it, and what was in the cache before.",
    )
