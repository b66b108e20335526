"""JAX's programs as XLA compiles them for an H100, without one: how many kernels they are, of which kinds, and how
many bytes those move.

Needs JAX's CUDA plugin (`tox -e device`), and no card.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from jax_epochs import STEPS, epoch_of

import headstart as hs
from headstart.contract.recipe import Place

pytestmark = [
    pytest.mark.of("jax"),
    pytest.mark.skipif(find_spec("jax_cuda13_plugin") is None, reason="JAX's CUDA plugin is not installed"),
]

BATCH = 64
ITEMSIZE = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}
# instructions that launch nothing
FREE = frozenset({"parameter", "get-tuple-element", "tuple", "constant", "bitcast"})
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\([^=]*?\)|\S+) ([a-z\-]+)\((.*)")


class Program(NamedTuple):
    text: str
    kernels: Counter[str]
    """what is launched, by kind: of the whole, or of a loop's body"""
    nbytes: int
    """that kernels read and write"""


@pytest.fixture(scope="module")
def compiled(backend: str) -> Any:
    """(jitted function, arguments) -> its program for an H100. Devices that are called "cuda" are the CPU."""
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    import jax
    from jax.experimental import topologies

    from headstart.backends.doors import jax_devices

    card = Path(__file__).with_name("h100.txtpb").read_text()
    topology = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=card)
    major, minor = map(int, re.findall(r"dnn_version_info { major: (\d+) minor: (\d+)", card)[0])
    version = 10000 * major + 100 * minor  # as cuDNN counts
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])

    def abstract(leaf: Any) -> Any:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not jax.numpy.issubdtype(dtype, jax.dtypes.extended):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return jax.ShapeDtypeStruct(np.shape(leaf), dtype, sharding=sharding)

    def compile(jitted: Any, *arguments: Any) -> str:
        traced = jitted.trace(*jax.tree.map(abstract, arguments))
        return str(traced.lower(lowering_platforms=("cuda",)).compile().as_text())

    with pytest.MonkeyPatch.context() as patch:
        cpu = jax.devices("cpu")
        # It would load cuDNN's library, which compiling does without.
        patch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: version)
        patch.setattr(jax_devices, "devices_of", lambda kind: cpu if kind in ("cpu", "cuda") else [])
        yield compile


def size(shape: str) -> int:
    """Bytes of a shape such as `f32[2,3]{1,0}`, or of a tuple of them."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(ITEMSIZE.get(t, 0) * math.prod(map(int, filter(None, dims.split(",")))) for t, dims in arrays)


def program(text: str, computation: str = "ENTRY ") -> Program:
    """What a computation of a compiled program launches."""
    body = re.search(rf"^{computation}.*?\{{\n(.*?)^\}}", text, re.S | re.M)
    assert body is not None
    sizes: dict[str, int] = {}
    kernels: Counter[str] = Counter()
    total = 0
    for line in body[1].splitlines():
        if (match := INSTRUCTION.match(line)) is None:
            continue
        name, shape, op, rest = match.groups()
        sizes[name] = size(shape.split("]")[0] + "]" if op == "custom-call" else shape)  # without its workspace
        if op in FREE:
            continue
        target = re.search(r'custom_call_target="([^"]+)"', line)
        kernels[target[1] if target else op] += 1
        total += sizes[name] + sum(sizes.get(name, 0) for name in re.findall(r"%([\w.\-]+)", rest.split(")")[0]))
    return Program(text, kernels, total)


def trunk_program(compiled: Callable[..., str], name: str, precision: str) -> Program:
    from headstart.contract import registry
    from headstart.features.inference import pixel_trunk

    model = hs.model(name, classes=10)
    trunk = pixel_trunk(model, [model.default_cut], registry.load("jax"), Place("cuda", precision))
    images = np.zeros((BATCH, *model.input_shape), np.uint8)
    of_backend = trunk._inner  # behind what checks its outputs
    return program(compiled(of_backend._run, of_backend.state, images))


def test_a_residual_network_is_its_fused_convolutions(compiled: Callable[..., str]) -> None:
    """Each with its bias, the sum behind it and the rectifier behind that; 57 MB an image is the least."""
    fused = trunk_program(compiled, "resnet50", "bfloat16")
    assert fused.kernels["__cudnn$convBiasActivationForward"] == 53
    assert fused.kernels.total() <= 60
    assert fused.nbytes / BATCH <= 65e6
    assert "__onednn" not in fused.text


def test_a_vision_transformer_is_its_fused_attentions(compiled: Callable[..., str]) -> None:
    fused = trunk_program(compiled, "vit_b_16", "bfloat16")
    assert fused.kernels["__cudnn$fmhaSoftmax"] == 12
    assert fused.kernels["__cublas$lt$matmul"] == 48, "each with its bias, and the activation behind it"
    assert fused.kernels.total() <= 120
    assert fused.nbytes / BATCH <= 160e6


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("many", [False, True], ids=["one head", "64 heads"])
def test_an_epoch_is_one_loop(compiled: Callable[..., str], precision: str, many: bool) -> None:
    """Of which XLA knows the end, whose state is updated in place, and whose steps are few kernels."""
    import jax

    trainer, arguments = epoch_of(Place("cuda", precision), many)
    text = compiled(trainer._epoch, *arguments)
    assert re.findall(r'known_trip_count":\{"n":"(\d+)"', text) == [str(STEPS)]
    (body,) = re.findall(r"body=(%?[\w.\-]+)", text)
    assert program(text, re.escape(body)).kernels.total() <= (20 if many else 16 if precision == "float32" else 17)
    leaves = len(jax.tree.leaves(trainer.carry))
    aliased = re.search(r"input_output_alias=\{(.*?)\}, entry", text)
    assert aliased is not None
    assert aliased[1].count("-alias") == leaves


@pytest.mark.parametrize(("precision", "operands"), [("float32", "highest"), ("tf32", "high")])
def test_float32_is_multiplied_in_full(compiled: Callable[..., str], precision: str, operands: str) -> None:
    text = trunk_program(compiled, "resnet18_half", precision).text
    assert re.findall(r"operand_precision=\{(\w+),(\w+)", text) == [(operands, operands)] * 20


def test_an_exported_file_is_for_a_gpu_too(compiled: Callable[..., str], tmp_path: Path) -> None:
    """Opened by JAX alone, at a batch that its export did not know."""
    import jax
    from jax import export

    model = hs.model("resnet18_half", weights=None, classes=3)
    path = hs.export(model, tmp_path / "out.stablehlo", verify=False, backend="jax").path
    program = export.deserialize(path.read_bytes())
    text = compiled(
        jax.jit(lambda images: program.call(images=images)), np.zeros((5, *model.input_shape), np.uint8)
    )
    assert text.count('custom_call_target="__cudnn$conv') == 17  # and three of one pixel, which are products
    assert set(re.findall(r"operand_precision=\{(\w+),(\w+)", text)) == {("highest", "highest")}
