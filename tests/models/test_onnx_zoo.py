"""Architectures of each family of the zoo as ONNX graphs, by ONNX's own inference of shapes and without weights.
What the graphs compute is held beside torchvision and timm in `tests/parity`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from known_answers import ONE_OF_EACH

from headstart.contract.programs import FEATURES, IMAGES, PIXEL_VALUES
from headstart.graph import without_inert
from headstart.models import architecture
from headstart.models.exporting.onnx_graph import BATCH, FIRST, LAST, TOKEN, Emission
from headstart.models.exporting.onnx_ops import emit_graph
from headstart.models.exporting.parts import OUTPUTS

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.neutral


class Weightless(Emission):
    """Weights as inputs, of which nothing but the shape counts."""

    def constant(self, name: str, value: Any, dtype: np.dtype[Any] | None = None) -> str:
        if np.asarray(value).dtype.kind == "i" or np.ndim(value) == 0:
            return super().constant(name, value, dtype)
        if name not in {info.name for info in self.proto.value_info}:
            self.proto.value_info.append(
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, np.shape(value))
            )
        return name


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_value_has_the_shape_of_its_node(name: str) -> None:
    size = architecture(name).preprocess.size
    graph = without_inert(architecture(name).graph(3, size=size).main)
    ends = {IMAGES, PIXEL_VALUES, FEATURES, *(end for outputs in OUTPUTS.values() for end in outputs.names)}
    assert ends.isdisjoint(node.name for node in graph.nodes), "a file would have two values of that name"
    params = {key: np.broadcast_to(np.float32(1), shape) for key, shape in graph.param_shapes().items()}
    e = Weightless(graph, params, (size, size, 3), "float32")
    e.input("pixel_values", FIRST, "float32")
    emit_graph(e, graph)
    file = onnx.shape_inference.infer_shapes(e.file, check_type=True, strict_mode=True, data_prop=True)
    sides = {
        info.name: [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in file.graph.value_info
    }
    for node in graph.nodes[1:]:
        shape = e.shapes[node.name]
        *before, channels = shape
        form = e.forms(node.name)[0]
        expected = {FIRST: [channels, *before], LAST: list(shape), TOKEN: [channels]}[form]
        assert sides[node.name] == [BATCH, *expected], node.name
