"""Where and how it is computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headstart.training.option import BY_ITSELF, FUNCTIONS, IN_PROCESS, Rule, one_known, option, whole

if TYPE_CHECKING:
    from headstart.features.engines.settings import Ray


def _backends() -> Iterable[str]:
    from headstart.contract.registry import names

    return names()


def _devices() -> Iterable[str]:
    from headstart.contract.devices import AUTO, named
    from headstart.contract.registry import device_kinds

    return (AUTO, *named(device_kinds()))


def _precisions() -> Iterable[str]:
    from headstart.contract.recipe import PRECISIONS

    return PRECISIONS


def _is_engine(value: object) -> bool:
    from headstart.features.engines.settings import Engine

    return isinstance(value, Engine)


@dataclass(frozen=True)
class Computing:
    """Where and how it is computed."""

    backend: str | None = option(
        None,
        "torch, keras or jax.",
        one_known(_backends),
        takers=IN_PROCESS,
        unset="HEADSTART_BACKEND, else the only one",
        recorded=False,
    )
    device: str = option(
        "auto",
        "auto, cpu, cuda or cuda:N; mps, xpu or tpu where the backend has it.",
        one_known(_devices),
        takers=FUNCTIONS,
    )
    precision: str = option(
        "float32",
        "Arithmetic: float32, tf32, bfloat16 or, for frozen trunks, float16.",
        one_known(_precisions),
        takers=FUNCTIONS,
        more='"float32" is float32 throughout, whatever the framework\'s own default. "tf32": float32 numbers, '
        "multiplied with TF32's ten bits where the device has that. What is trained behind a trunk in "
        '"float16" computes in float32.',
    )
    workers: int | None = option(
        None,
        "Threads that decode images.",
        whole(1),
        takers=FUNCTIONS,
        text=int,
        unset="as many as CPUs",
        recorded=False,
    )
    engine: Ray | None = option(
        None,
        "Who extracts features that the cache lacks: hs.Ray(...), the actors of a cluster.",
        Rule("an hs.Ray(...)", _is_engine),
        takers=BY_ITSELF,
        text=None,
        unset="this process",
        recorded=False,
        more="On the command line --ray and what goes with it. See `extract`.",
    )
