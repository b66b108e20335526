"""What is in the `.stablehlo` files that the JAX backend writes: a plain network that any machine's JAX may run.
What they compute is held to the run in `tests/training/test_framework_files.py`, as of every format."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import CLASSES, small_model
from families import SMALL

import headstart as hs
from headstart.contract import registry
from headstart.contract.programs import IMAGES, SOFTMAX, Input, Program, loader
from headstart.errors import ExportError
from headstart.graph import OPS, Graph, fold, without_inert
from headstart.models import Model
from headstart.models.initial import initial_params
from headstart.testing.samples import every_op

pytestmark = pytest.mark.of("jax")

CHECKS = {"shape_assertion"}
"""the one call that any of them has: JAX's own check of the batch, which is gone when that is known"""


def written(path: Path, model: Model | None = None) -> Path:
    """A small model, which nobody has run."""
    return hs.export(model or small_model(), path, verify=False, backend="jax").path


def opened(path: Path) -> Any:
    """By what docs/export.md says."""
    from jax import export

    return export.deserialize(path.read_bytes())


def program_of(graph: Graph, shape: tuple[int, ...]) -> Program:
    folded, params = fold(without_inert(graph.main), initial_params(graph, 0))
    graph = folded.normalized((0.02, 0.02, 0.02), (-2.0, -2.0, -2.0), False)
    outputs = {"logits": "", "probabilities": SOFTMAX}
    return Program(graph, params, (Input(IMAGES, shape, "uint8"),), False, outputs)


def is_plain(text: str) -> bool:
    """Whether a module calls no library, and multiplies in float32 wherever that is done."""
    calls = set(re.findall(r"custom_call @([\w.$]+)", text)) | set(re.findall(r'call_target_name = "(.*?)"', text))
    products = re.findall(r"stablehlo\.(?:dot_general|convolution|dot)\b.*?(?=\n)", text)
    assert products
    return calls <= CHECKS and all("HIGHEST" in product and "DEFAULT" not in product for product in products)


NETWORKS = ("every op", "inception", "vit", "densenet")


def network(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Graph, tuple[int, ...]]:
    """A graph, and the shape of its images."""
    if name == "every op":
        return every_op(), (17, 11, 3)
    small = SMALL[name]
    return small.graph(monkeypatch, name), (small.size, small.size, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_op_is_plain_and_for_any_batch(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.stablehlo"
    graph, shape = network(name, monkeypatch)
    program = program_of(graph, shape)
    registry.load("jax").write(program, "stablehlo", path, {})
    exported = opened(path)
    assert is_plain(exported.mlir_module())
    assert exported.platforms == ("cpu", "cuda", "tpu") and exported.nr_devices == 1
    shapes = [(str(aval.dtype), tuple(map(str, aval.shape))) for aval in (*exported.in_avals, *exported.out_avals)]
    (classes,) = graph.shapes(shape)[graph.output]
    outputs = [("float32", ("n", str(classes)))] * 2
    assert shapes == [("uint8", ("n", *map(str, shape))), *outputs]
    if name in ("inception", "vit"):  # the others would take too long to compile, for what they would show
        images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
        backend = registry.load("jax")
        expected = backend.call(backend.native(program.graph, program.params), images)
        np.testing.assert_allclose(exported.call(images=images)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_no_op_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [program_of(*network(name, monkeypatch)) for name in NETWORKS]
    there = {node.op for program in programs for node in program.graph.nodes}
    # folded, doing nothing in inference, or a user's own
    assert set(OPS) - there <= {"scale", "dropout", "drop_path", "native"}


def test_a_file_depends_on_the_model_alone(tmp_path: Path) -> None:
    """Not on what its user has set in JAX, nor on where headstart lies on this machine, which concerns nobody."""
    import jax

    plain = written(tmp_path / "plain.stablehlo").read_bytes()
    frames = jax.config.jax_traceback_in_locations_limit
    with jax.enable_x64(True), jax.default_matmul_precision("bfloat16"), jax.numpy_dtype_promotion("strict"):
        assert written(tmp_path / "set.stablehlo").read_bytes() == plain
    assert jax.config.jax_traceback_in_locations_limit == frames
    assert not re.search(rb"\w\.py\b|headstart/|backends/", plain)


def test_texts_lie_behind_what_jax_reads(tmp_path: Path) -> None:
    """Also where weights look like the end of a zip archive; and however often they are changed."""
    model = small_model()
    bias = model.params["fc.bias"].copy()
    bias[:] = np.frombuffer(b"PK\5\6" + b"\0" * 12, np.float32)
    model = replace(model, params={**model.params, "fc.bias": bias})
    path = written(tmp_path / "out.stablehlo", model)
    assert b"PK\5\6" + b"\0" * 12 in path.read_bytes()[:-1000]
    module, note = opened(path).mlir_module_serialized, loader(registry.formats()["stablehlo"][1].loader).note
    sizes = []
    for said in ("a" * 4000, "b"):
        note(str(path), {"verified": said})
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == ["headstart.json"] and archive.testzip() is None
            texts = json.loads(archive.read("headstart.json"))
        assert texts["verified"] == said and json.loads(texts["classes"]) == list(CLASSES)
        assert opened(path).mlir_module_serialized == module
        sizes.append(path.stat().st_size)
    assert sizes[0] - sizes[1] == 4000 - 1


def of_one_machine(x: Any) -> Any:
    import jax

    return jax.ffi.ffi_call("library_of_one_machine", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


def test_a_call_that_no_other_machine_has_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.backends.jax import emit

    monkeypatch.setitem(emit.FUNCTIONS, "relu", lambda attrs: of_one_machine)
    with pytest.raises(ExportError, match=r"jax\.export cannot write this model .*custom calls.*another format"):
        written(tmp_path / "out.stablehlo")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("by_shape", [True, False])
def test_a_pair_of_functions_for_any_batch(by_shape: bool, tmp_path: Path) -> None:
    """Of one that is for the batch it is called with, JAX says why it has no program for every batch."""

    def trunk(params: Any, x: Any) -> Any:
        return x.reshape(x.shape[0] if by_shape else len(x), -1) @ params

    x = np.random.default_rng(0).standard_normal((9, 2, 3)).astype(np.float32)
    data = hs.data.arrays(x, np.arange(9) % 3)
    params = (np.eye(6, dtype=np.float32)[::-1].copy(), None)
    model = hs.wrap((trunk, None), params=params, head="linear", classes=3, example=data)
    path = tmp_path / "out.stablehlo"
    if by_shape:
        made = opened(written(path, model)).call(inputs=x)
        np.testing.assert_allclose(made["logits"], hs.predict(model, x, device="cpu"), rtol=1e-4, atol=1e-6)
        return
    with pytest.raises(ExportError, match=r"TypeError: .*x\.shape\[0\], not len\(x\)"):
        written(path, model)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("how", ["remat", "scan", "weight norm"])
def test_a_module_that_writes_to_its_variables_as_it_is_traced(how: str, tmp_path: Path) -> None:
    """As NNX's own transforms do, and norms of weights."""
    from own_jax_transforms import transformed

    x = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    model = hs.wrap(transformed(how), head="linear", classes=3, example=x)
    made = opened(written(tmp_path / "out.stablehlo", model)).call(inputs=x)
    np.testing.assert_allclose(made["logits"], hs.predict(model, x, device="cpu"), rtol=1e-4, atol=1e-6)


def test_a_module_that_computes_in_bfloat16_is_held_to_that(tmp_path: Path) -> None:
    """Compiled as another program, its sums are rounded at other places."""
    import jax.numpy as jnp
    from flax import nnx

    rngs, kind = nnx.Rngs(0), {"dtype": jnp.bfloat16}
    layers = [nnx.Linear(6, 32, **kind, rngs=rngs), nnx.gelu, nnx.LayerNorm(32, **kind, rngs=rngs)]
    module = nnx.Sequential(*layers, nnx.Linear(32, 3, **kind, rngs=rngs))
    x = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    model = hs.wrap(module, classes=3, example=x)
    made = hs.export(model, tmp_path / "out.stablehlo", x, backend="jax", device="cpu")
    assert made.verification is not None and made.verification.tolerance == 8 * 2.0**-7
