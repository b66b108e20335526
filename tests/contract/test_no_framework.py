"""Core names no framework: what one is called, and what only one has, stands with its backend.

Read from the syntax trees of core: every name, attribute, keyword and text in its code. Prose aside, which is a
text with a space in it (help, errors) or a docstring, and addresses of weights and data.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import headstart

pytestmark = pytest.mark.neutral

CORE = Path(headstart.__file__).parent
FRAMEWORKS = {"torch", "keras", "tensorflow", "tf", "jax", "jaxlib", "flax", "nnx", "optax"}
# file -> what it may name, and why
ALLOWED: dict[str, tuple[set[str], str]] = {
    "models/pickles.py": ({"torch"}, "reads the pickles that weights are published as, a format of torch's own"),
    "models/pickled_tensors.py": ({"torch"}, "as pickles.py, of before 1.6"),
    "models/efficientnet_lite.py": ({"tf"}, "timm calls networks and weights so, by where they come from"),
    "models/inception.py": ({"tf"}, "timm calls weights so, by where they were trained"),
    "features/feature_set.py": (
        {"torch", "tf", "jax"},
        "public aliases of to(...), to_dataset(...)",
    ),
}


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of everything that is named, and of every text in the code that is no prose."""
    prose = {
        id(statement.value)
        for node in ast.walk(tree)
        for statement in (node.body if isinstance(getattr(node, "body", None), list) else ())
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            text = node.value
            if isinstance(text, str) and id(node) not in prose and " " not in text and "://" not in text:
                yield node.lineno, text
            continue
        for _, value in ast.iter_fields(node):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield getattr(node, "lineno", 0), text


def words(name: str) -> set[str]:
    """The words of a name: of snake_case, CamelCase, paths. TF32 is a kind of numbers, and one word."""
    return set(re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower().replace("tf32", " ")))


def named(text: str) -> list[tuple[int, str]]:
    return [(line, name) for line, name in names(ast.parse(text)) if words(name) & FRAMEWORKS]


FILES = sorted(path for path in CORE.rglob("*.py") if "backends" not in path.relative_to(CORE).parts)


def test_core_names_no_framework() -> None:
    assert len(FILES) > 100
    wrong = []
    for path in FILES:
        place = path.relative_to(CORE).as_posix()
        allowed, _ = ALLOWED.get(place, (set(), ""))
        for line, name in named(path.read_text()):
            if words(name) & FRAMEWORKS - allowed:
                wrong.append(f"{place}:{line}: {name}")
    assert wrong == []


def test_what_is_allowed_is_there() -> None:
    for place, (allowed, _) in ALLOWED.items():
        there = {word for _, name in named((CORE / place).read_text()) for word in words(name)}
        assert allowed <= there, place


@pytest.mark.parametrize(
    "code",
    [
        "import torch",
        "from a.flax import b",
        "x.of_torch()",
        "TorchThing = 1",
        "f(keras=1)",
        "x = 'jax'",
        "x = {'TF_COUNT': 1}",
        "def as_tf(): ...",
        "match x:\n    case 'optax': pass",
        "x = f'{x}tensorflow'",
    ],
)
def test_what_counts_as_naming_one(code: str) -> None:
    assert named(code)


@pytest.mark.parametrize(
    "code",
    [
        "x = 'of a torch tensor: x.numpy()'",
        "x = 'https://download.tensorflow.org/x'",
        "class A:\n    'torch'",
        "x = 1\n'keras'",
        "torchvision = 1",
        "ajax = 'output'",
    ],
)
def test_what_does_not(code: str) -> None:
    assert not named(code)
