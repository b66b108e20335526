"""The door of JAX's settings, behind which arrays are made on the host: what is made somewhere else says so.

Invariant: nothing lies on JAX's default device, such as a machine's first GPU, unless it computes there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import jax

from headstart.backends.doors import jax as doors
from headstart.backends.jax.arrays import host
from headstart.common.settled import behind
from headstart.common.settled import settled as behind_one


@contextmanager
def door() -> Iterator[None]:
    with doors.door(device=host()):
        yield


@contextmanager
def owners_door() -> Iterator[None]:
    """For a module as its owner runs it, whose numbers may have 64 bits. Where its parameters lie on a GPU it is
    run there, and compared with float32 that is none of TF32's."""
    here = host()
    with ExitStack() as stack:
        stack.enter_context(doors.door(wide=True, device=here))
        if here is not None:
            stack.enter_context(jax.default_matmul_precision("highest"))
        yield


settled = functools.partial(behind_one, door)
behind_door = functools.partial(behind, door)
as_its_owner = functools.partial(behind_one, owners_door)
