"""Shards, descriptions, archives and images made to do harm."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from faults.campaigns import campaign
from faults.hostile import MEMORY_NBYTES


def test_fuzzed_headers(tmp_path: Path, figure: Any) -> None:
    seconds = float(os.environ.get("HEADSTART_FUZZ_SECONDS") or 600)
    seed = int(os.environ.get("HEADSTART_FUZZ_SEED") or secrets.randbelow(10**6))
    with figure(f"hostile shards and trunk.json, seed {seed}") as it:
        found = campaign("fuzz", tmp_path, timeout=seconds + 120, seconds=seconds, seed=seed)
        it.count = found["cases"]
        kinds = ", ".join(f"{count} {name!r}" for name, count in found["outcomes"].items())
        it.result = (
            f"typed errors, or right; within {MEMORY_NBYTES >> 20} MiB, the slowest in {found['slowest']:.2f} s: "
            f"{kinds}"
        )


def test_hostile_archives(tmp_path: Path, figure: Any) -> None:
    with figure("hostile archives unpacked, or read as CIFAR-10") as it:
        found = campaign("hostile_archives", tmp_path, mebibytes=3 << 10)
        it.count = found["archives"]
        it.result = (
            f"{found['refused']} refused, {found['right']} right; nothing outside touched; "
            f"{found['peak'] >> 20} MiB at the peak, bombs of 3 GiB among them"
        )
    assert found["archives"] == found["refused"] + found["right"] > 200
    assert found["peak"] < 256 << 20


def test_image_bombs(tmp_path: Path, figure: Any) -> None:
    with figure("image bombs") as it:
        found = campaign("image_bombs", tmp_path, mebibytes=1 << 10)
        it.count = found["bombs"]
        it.result = (
            f"{found['refused']} refused, {found['decoded']} decoded within the limit of pixels; "
            f"{found['peak'] >> 20} MiB at the peak, where 50 million pixels were coded progressively"
        )
    assert found["bombs"] == found["refused"] + found["decoded"] > 40
