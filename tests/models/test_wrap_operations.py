"""Torch modules that call operations which the program has registered with torch: their code is in the key."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from own import P, X, key

import headstart as hs
from headstart.testing import relative_error

pytestmark = pytest.mark.of("torch")


@pytest.fixture(scope="module")
def operations(backend: str) -> Any:
    import own_operations

    return own_operations


def key_of(operations: Any, function: Any, looks: bool) -> Any:
    import torch

    module = operations.Calls(function, looks).eval()
    model = hs.wrap(module, "its end", preprocess=P, head="linear", classes=2)
    with torch.no_grad():
        expected = module(torch.from_numpy(X).permute(0, 3, 1, 2)).numpy()
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
    return key(model)


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize(
    "how", ["by name", "by a function", "by itself", "imported", "imported from", "by text", "by a variable"]
)
def test_the_code_of_a_custom_operation_is_in_the_key(operations: Any, looks: bool, how: str) -> None:
    keys = []
    for make in (operations.squashing, operations.rectifying, operations.squashing):
        operation = make()
        operation.register_fake(lambda x: x.new_empty(x.shape))
        functions = {"by a function": operations.calling(operation), "by itself": operation}
        function = functions.get(how) or getattr(operations, how.replace(" ", "_"))
        keys.append(key_of(operations, function, looks))
    assert keys[0] == keys[2]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("looks", [False, True])
def test_the_file_that_registers_an_operation_is_in_the_key(operations: Any, looks: bool, tmp_path: Path) -> None:
    keys = []
    for function in ("tanh", "relu", "tanh"):
        file = tmp_path / f"{function}_{len(keys)}.py"
        file.write_text(operations.LIBRARY.format(function))
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        keys.append(key_of(operations, operations.of_library, looks))
        made.library._destroy()
    assert keys[0] == keys[2]
    assert keys[0] != keys[1]
