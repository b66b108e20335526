"""Operations that are registered with torch, and a module that calls one of them, `test_wrap_operations`'s."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

NAME = "headstart_tests::bent"
LIBRARY = """
import torch

library = torch.library.Library("headstart_tests_too", "DEF")
library.define("bent(Tensor x) -> Tensor")
library.impl("bent", lambda x: x.{}(), "CompositeExplicitAutograd")
"""
"""a file that registers one without saying its function to anybody but torch"""


def squashing() -> Any:
    @torch.library.custom_op(NAME, mutates_args=())
    def bent(x: torch.Tensor) -> torch.Tensor:
        return x.tanh()

    return bent


def rectifying() -> Any:
    @torch.library.custom_op(NAME, mutates_args=())
    def bent(x: torch.Tensor) -> torch.Tensor:
        return x.relu()

    return bent


def calling(operation: Any) -> Any:
    return lambda x: operation(x)


def by_name(x: torch.Tensor) -> Any:
    return torch.ops.headstart_tests.bent(x)


def imported(x: torch.Tensor) -> Any:
    import torch as other

    return other.ops.headstart_tests.bent(x)


def imported_from(x: torch.Tensor) -> Any:
    from torch import ops

    return ops.headstart_tests.bent(x)


def by_text(x: torch.Tensor) -> Any:
    return getattr(torch.ops.headstart_tests, "bent")(x)  # noqa: B009 - what is looked for


def by_a_variable(x: torch.Tensor) -> Any:
    operations = torch.ops.headstart_tests
    return operations.bent(x)


def of_library(x: torch.Tensor) -> Any:
    return torch.ops.headstart_tests_too.bent(x)


class Calls(nn.Module):
    def __init__(self, function: Any, looks: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.function, self.looks = nn.Conv2d(3, 8, 3), function, looks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.looks and x.sum() > 1e9:  # so it is not traced
            x = x * 2
        rows: torch.Tensor = self.function(self.conv(x)).mean((2, 3))
        return rows
