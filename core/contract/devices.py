"""What `device=` may say, and what becomes of it: one grammar and one set of sentences for all backends.

    "auto" | kind | kind:index          "cpu", "cuda", "cuda:1", "mps", "xpu", "tpu"

Invariant: a device is decided here, by what a backend answers; and nothing is asked of a kind that nobody asked
for, so that `device="cpu"` starts no other device's driver.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence

from headstart.common.errors import BackendError, DeviceWarning, UnknownNameError

AUTO = "auto"
"""a device that every backend takes, and decides"""
CPU = "cpu"
KINDS = {
    CPU: "CPU",
    "cuda": "CUDA device",
    "mps": "Metal device",
    "xpu": "Intel GPU",
    "tpu": "TPU",
}
"""kind -> what it is called in a sentence"""


def parse(device: str, kinds: Sequence[str] = tuple(KINDS), whose: str = "") -> tuple[str, int]:
    """ "cuda:1" -> ("cuda", 1); without an index it is 0. UnknownNameError for what is no device of `kinds`, which
    are those of `whose` (" (of backend 'name')"); a CPU is one, and has no index."""
    match = re.fullmatch(r"([a-z][a-z0-9]*)(?::(0|[1-9][0-9]{0,3}))?", device) if isinstance(device, str) else None
    if match is None or match[1] not in kinds or (match[1] == CPU and match[2]):
        # The letters of "gpu" are nearest to one maker's kind.
        raise UnknownNameError("device", device, [AUTO, *named(kinds)], whose, AUTO if device == "gpu" else None)
    return match[1], int(match[2] or 0)


def named(kinds: Sequence[str]) -> list[str]:
    """How devices of these kinds may be named: "cpu", "cuda", "cuda:N"."""
    return [name for kind in kinds for name in ((kind,) if kind == CPU else (kind, f"{kind}:N"))]


def name_of(kind: str, index: int = 0) -> str:
    """The name by which a device is recorded: that of a kind's first one is the kind."""
    return f"{kind}:{index}" if index else kind


def decide(
    backend: str,
    device: str,
    kinds: Sequence[str],
    count: Callable[[str], int],
    trial: Callable[[str], object],
) -> str:
    """What a backend's `place` makes of a device: the name of one that is there and computes.

    `kinds`: those that the backend can use, beside the CPU, best first. `count`: how many of a kind there are.
    `trial`: runs one small kernel on a device, by its name, and raises where that fails: there are devices that a
    driver lists and that the framework has no code for.

    "auto" is the first kind of which there is a device and whose trial succeeds; else "cpu", with a DeviceWarning
    where one was there. BackendError where the device that was asked for is not there, or does not compute.
    """
    if device == AUTO:
        for kind in kinds:
            if kind != CPU and count(kind):
                try:
                    trial(kind)
                except Exception as error:  # a framework's own, of any kind
                    warnings.warn(
                        f"device 'auto': {backend} finds a {KINDS.get(kind, kind)} and cannot compute on it "
                        f"({reason_of(error)}), so it is not used; device='cpu' asks for none",
                        DeviceWarning,
                        stacklevel=3,
                    )
                else:
                    return kind
        return CPU
    kind, index = parse(device, tuple(dict.fromkeys((CPU, *kinds))))
    if kind == CPU:
        return CPU
    words = KINDS.get(kind, kind)
    if not (there := count(kind)):
        raise BackendError(f"device {device!r} was asked for, and {backend} finds no {words}; use device='cpu'")
    if index >= there:
        raise BackendError(
            f"device {device!r} was asked for, and {backend} finds {there} of that kind, the last of which is "
            f"{name_of(kind, there - 1)!r}; use device={name_of(kind, there - 1)!r}, or use device='cpu'"
        )
    try:
        trial(name_of(kind, index))
    except Exception as error:
        raise BackendError(
            f"device {device!r} was asked for, and {backend} cannot compute on it ({reason_of(error)}); "
            "use device='cpu'"
        ) from error
    return name_of(kind, index)


def reason_of(error: BaseException) -> str:
    """The first line of an error, with its type."""
    text = str(error).strip()
    first = text.splitlines()[0][:200] if text else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
