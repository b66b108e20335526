"""What frameworks are told through the environment, where they have not read it yet: by the command line for
itself, by `compare` for its children.

Threads that compute together wait for each other, and by default OpenMP's do so by spinning. Alone that spares a
few microseconds a time. On a machine that others use too it takes the very core that the thread waited for
needs, and training becomes many times slower. So threads are told to sleep soon. Not at once: `PASSIVE` makes
torch's training alone 10 to 25 % slower, where a few thousand turns, some ten microseconds, cost up to 5 % and
harm nobody. OpenBLAS has threads of its own, once in NumPy and once in SciPy, which spin for 26 ms after each
product: what computes with both by turns (L-BFGS, scikit-learn's regressions) takes up to ten times as long on two
cores as with one thread. And there are no more threads than the CPUs that affinity and control groups leave, of
which frameworks see the affinity only.

Invariant: whatever the user has said of it stands.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from headstart.common.machine import CPUS_VARIABLE, Cpus, cpus_allowed

WAITING: Mapping[str, tuple[str, tuple[str, ...]]] = {
    # The GNU library, which torch brings, reads the first; LLVM's and Intel's the second.
    "GOMP_SPINCOUNT": ("3000", ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY")),
    "KMP_BLOCKTIME": ("0", ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_LIBRARY")),
    # a power of two of cycles: some hundred microseconds
    "OPENBLAS_THREAD_TIMEOUT": ("18", ()),
}
"""variable -> what it is set to, and the others that say the same"""
SAID_OF_WAITING = frozenset(WAITING) | {other for _, others in WAITING.values() for other in others}
"""all variables that say how threads wait"""
COUNTS: Mapping[str, tuple[str, ...]] = {"OMP_NUM_THREADS": ("MKL_NUM_THREADS",)}
"""variables that hold a number of threads, and others that do. What one framework alone reads, and not before it
computes, its backend sets"""


def for_child(quiet: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that imports a framework. `quiet`: of its description, where the user has said
    nothing else."""
    return {**quiet, **os.environ, **for_frameworks(os.environ)}


def for_frameworks(environment: Mapping[str, str], cpus: Cpus | None = None) -> dict[str, str]:
    """What to add to `environment` before a framework is imported in it."""
    cpus = cpus_allowed() if cpus is None else cpus
    counts = {name: (str(cpus.count), others) for name, others in COUNTS.items()} if cpus.limited else {}
    return {
        name: value
        for name, (value, others) in {**WAITING, **counts}.items()
        if not {name, *others} & {said for said, text in environment.items() if text}
    }


def kept_to(count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to `environment` for a process that is to keep to so many CPUs, before it imports a framework:
    the number is told whatever is said of threads already, which is about all of the machine's."""
    names = (CPUS_VARIABLE, *(name for first, others in COUNTS.items() for name in (first, *others)))
    told = dict.fromkeys(names, str(count))
    return told | for_frameworks({**environment, **told})
