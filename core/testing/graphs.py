"""The graph's meaning: what each op computes, that folding keeps it, and what runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import UnsupportedOpError
from headstart.contract.protocol import Backend
from headstart.contract.recipe import PRECISIONS, Place
from headstart.features.inference import frozen
from headstart.graph import OPS, Builder, Graph, Node
from headstart.graph.ops import Op
from headstart.models.initial import initial_params
from headstart.store.keys import params_digest, stored_dtype
from headstart.testing import reference
from headstart.testing.samples import (
    every_op,
    images_of,
    linear_graph,
    of_shape,
    relative_error,
    shaken,
    small_model,
    tiny_model,
)
from headstart.testing.suite import Suite, recipe_of


class Graphs(Suite):
    """What graphs mean."""

    @pytest.fixture(scope="class")
    @classmethod
    def ops(cls, framework: Backend, place: Place) -> SimpleNamespace:
        """A graph of every op, a trunk that has computed all of its nodes, and what they are."""
        graph, rng = every_op(), np.random.default_rng(0)
        params = {
            name: rng.uniform(0.3, 1.0, value.shape).astype(np.float32) if value.ndim == 1 else value
            for name, value in initial_params(graph, 1).items()
        }
        x = rng.standard_normal((2, 17, 11, 3)).astype(np.float32)
        trunk = framework.trunk(graph, params, [node.name for node in graph.nodes[1:]], place)
        return SimpleNamespace(
            graph=graph, params=params, x=x, outputs=trunk.run(x), expected=reference.run(graph, params, x)
        )

    def test_every_op_equals_a_naive_reference(self, framework: Backend, ops: SimpleNamespace) -> None:
        # two are in the graphs of the suite's models; `native` has no meaning of its own
        others = {"normalize", "global_avg_pool", "native"}
        assert {node.op for node in ops.graph.nodes} | others == set(OPS)
        for node in ops.graph.nodes[1:]:
            actual = framework.numpy(ops.outputs[node.name])
            assert relative_error(actual, ops.expected[node.name]) < self.tolerance(), node.name

    def test_arrays_come_out_as_numpy_in_cores_layout(self, framework: Backend, ops: SimpleNamespace) -> None:
        shapes = ops.graph.shapes((17, 11, 3))
        for name in ("conv", "tokens", "out"):  # a map, tokens, a vector
            array = framework.numpy(ops.outputs[name])
            assert type(array) is np.ndarray
            assert array.dtype == np.float32
            assert array.shape == (2, *shapes[name])

    def test_an_op_without_a_layer_is_refused(
        self, framework: Backend, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(OPS, "twirl", Op("twirl", lambda a, s: s[0]))
        graph = Graph((Node("input", "input"), Node("turn", "twirl", ("input",))), "turn")
        with pytest.raises(UnsupportedOpError, match=rf"{self.backend} backend has no layer for op 'twirl'"):
            framework.trunk(graph, {}, ["turn"], place)

    @pytest.mark.parametrize("channels", ["rgb", "bgr"])
    def test_pixels_are_normalized_on_the_device(self, framework: Backend, place: Place, channels: str) -> None:
        model = shaken(tiny_model())
        preprocess = replace(images_of(model), channels=channels, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
        graph = model.graph.upto("conv1").normalized(*preprocess.affine(), preprocess.reverse)
        params = {"conv1.weight": model.params["conv1.weight"]}
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
        trunk = framework.trunk(graph, params, ["conv1"], place)
        expected = reference.run(graph, params, pixels)["conv1"]
        assert relative_error(framework.numpy(trunk.run(pixels)["conv1"]), expected) < self.tolerance()

    @pytest.mark.parametrize("scale", [1.0, 1e6, 1e-12], ids=["held", "too large", "too small"])
    def test_a_stream_gives_what_runs_give(self, framework: Backend, place: Place, scale: float) -> None:
        """In order; and in float32 what the stored type does not hold."""
        model = shaken(tiny_model())
        graph = model.graph.upto("layer").normalized(*images_of(model).affine(), reverse=False)
        params = {name: model.params[name] for name in graph.param_shapes()}
        params |= {name: params[name] * np.float32(scale) for name in ("bn2.weight", "bn2.bias")}
        rng = np.random.default_rng(3)
        batches = [rng.integers(0, 256, (3, 32, 32, 3), np.uint8) for _ in range(5)]
        trunk = framework.trunk(graph, params, ["relu", "layer"], place)
        dtypes: dict[str, np.dtype[Any]] = {"relu": np.dtype("float32"), "layer": np.dtype("float16")}
        results = list(trunk.stream(iter(batches), dtypes))
        assert len(results) == len(batches)
        for images, rows in zip(batches, results, strict=True):
            outputs = trunk.run(images)
            for node, received in rows.items():
                expected = framework.numpy(outputs[node])
                near = self.tolerance() if received.dtype == np.float32 else 1e-3
                assert relative_error(received.astype(np.float32), expected) < near, node
            assert rows["relu"].dtype == np.float32
            assert rows["layer"].dtype in ((np.float32, np.float16) if scale == 1 else (np.float32,))

    def test_folding_changes_nothing(self) -> None:
        """Nor is there a difference between a network with its batch norms and numpy's."""
        model = shaken(tiny_model())
        x = np.random.default_rng(1).standard_normal((3, 32, 32, 3)).astype(np.float32)
        cuts = ["relu", "block", "layer", "logits"]
        expected = reference.run(model.graph, model.params, x)
        for folded in (True, False):
            outputs = hs.forward(model, x, cuts, backend=self.backend, device=self.on(), folded=folded)
            for cut in cuts:
                assert relative_error(outputs[cut], expected[model.graph.resolve(cut)]) < self.tolerance(), (
                    cut,
                    folded,
                )

    @pytest.fixture(scope="class")
    @classmethod
    def pooled(cls) -> SimpleNamespace:
        """Pictures, and what the shipped trunk gives for them in float32."""
        x = np.random.default_rng(2).standard_normal((4, 32, 32, 3)).astype(np.float32)
        full = hs.forward(small_model(), x, "avgpool", backend=cls.backend, device=cls.on())["avgpool"]
        return SimpleNamespace(x=x, full=full)

    @pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "float32"])
    def test_low_precision_is_close(self, pooled: SimpleNamespace, precision: str) -> None:
        """And is low: but for TF32, which not every device has."""
        settings: dict[str, Any] = {"backend": self.backend, "device": self.on(), "precision": precision}
        low = hs.forward(small_model(), pooled.x, "avgpool", **settings)["avgpool"]
        cosine = (low * pooled.full).sum(1) / np.linalg.norm(low, axis=1) / np.linalg.norm(pooled.full, axis=1)
        assert low.dtype == np.float32
        assert cosine.min() > (0.995 if precision == "bfloat16" else 0.9999)
        if precision == "tf32" and self.on_cpu():
            assert relative_error(low, pooled.full) < self.tolerance(), "a CPU has no TF32"
        elif precision != "tf32" and Place(self.on(), precision).arithmetic == precision:
            assert relative_error(low, pooled.full) > 1e-5, f"the arithmetic was not in {precision}"

    @pytest.mark.parametrize("kind", ["linear", "conv", "grouped"])
    def test_float32_keeps_all_of_its_bits(self, framework: Backend, place: Place, kind: str) -> None:
        """Of 1 + 2^-13 ten bits of mantissa leave 1, and so they do of a weight."""
        graph, shape = _product(kind)
        fine, plain = np.float32(1 + 2.0**-13), np.float32(1)
        for of_input, of_weight in ((fine, plain), (plain, fine)):
            params = {name: np.full(size, of_weight) for name, size in graph.param_shapes().items()}
            trunk = framework.trunk(graph, params, [graph.output], place)
            output = framework.numpy(trunk.run(np.full((8, *shape), of_input))[graph.output])
            terms = output / fine
            np.testing.assert_allclose(terms, np.round(terms), rtol=2e-6, err_msg=f"{kind} is not float32")


class Trunks(Suite):
    """What a frozen graph that runs owes."""

    def test_a_trunk_gives_the_nodes_asked_for(self, framework: Backend, place: Place) -> None:
        """Those and no others, each under its own name, though all have the same shape."""
        graph = every_op()
        params = reference.random_params(graph, 0)
        x = np.random.default_rng(3).standard_normal((2, 17, 11, 3)).astype(np.float32)
        names = ["uncounted", "silu", "counted"]
        part = graph.upto(*names)
        outputs = framework.trunk(part, _of(part, params), names, place).run(x)
        assert set(outputs) == set(names)
        expected = reference.run(part, params, x)
        for name in names:
            assert relative_error(framework.numpy(outputs[name]), expected[name]) < self.tolerance(), name

    def test_a_trunk_may_be_given_a_larger_graph(self, framework: Backend, place: Place) -> None:
        """It runs what its outputs need, and holds no other parameters. The same goes for a native model."""
        graph = every_op()
        params = reference.random_params(graph, 0)
        x = np.random.default_rng(3).standard_normal((2, 17, 11, 3)).astype(np.float32)
        trunk = framework.trunk(graph, params, ["norm"], place)
        outputs = trunk.run(x)
        assert set(outputs) == {"norm"}
        assert (
            relative_error(framework.numpy(outputs["norm"]), reference.run(graph, params, x)["norm"])
            < self.tolerance()
        )
        assert trunk.params().keys() == graph.upto("norm").param_shapes().keys()
        assert framework.native(graph, params, ["norm"]) is not None

    def test_a_trunk_takes_any_number_of_samples(self, framework: Backend, place: Place) -> None:
        graph = linear_graph()
        params = initial_params(graph, 0)
        trunk = framework.trunk(graph, params, ["fc"], place)
        x = np.random.default_rng(4).standard_normal((5, 7)).astype(np.float32)
        expected = reference.run(graph, params, x)["fc"]
        for start, stop in ((0, 1), (0, 5), (3, 5)):
            output = framework.numpy(trunk.run(x[start:stop])["fc"])
            assert relative_error(output, expected[start:stop]) < self.tolerance()

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_rows_in_half_precision_are_numbers_as_others(
        self, framework: Backend, place: Place, dtype: str
    ) -> None:
        """As a store keeps features: what is computed of them is in the precision of the place. Weights may be
        larger than float16 holds."""
        graph = linear_graph()
        params = initial_params(graph, 0)
        params["fc.weight"] = params["fc.weight"] * np.float32(1e6)
        trunk = framework.trunk(graph, params, ["fc"], place)
        x = np.random.default_rng(4).standard_normal((5, 7)).astype(stored_dtype(dtype))
        expected = reference.run(graph, params, x.astype(np.float32))["fc"]
        assert relative_error(framework.numpy(trunk.run(x)["fc"]), expected) < self.tolerance()

    def test_parameters_of_every_op_come_back_as_they_went_in(self, framework: Backend, place: Place) -> None:
        """Of every shape: a square weight that comes back the other way round is as large as before."""
        graph, rng = every_op(), np.random.default_rng(5)
        params = {name: rng.random(shape).astype(np.float32) for name, shape in graph.param_shapes().items()}
        trainer = framework.trainer(graph, params, recipe_of(), place)
        trunk = framework.trunk(graph, params, [graph.output], place)
        for returned in (trainer.params(), trunk.params()):
            assert returned.keys() == params.keys()
            for name, value in params.items():
                np.testing.assert_array_equal(returned[name], value, err_msg=name)

    def test_the_parameters_of_a_trunk_are_those_that_it_runs_with(self, framework: Backend, place: Place) -> None:
        """`params` reads the device's copy. What the caller does to the arrays that it had given, the device may
        share; then both change."""
        graph = linear_graph()
        params = initial_params(graph, 0)
        x = np.random.default_rng(6).standard_normal((3, 7)).astype(np.float32)
        trunk = framework.trunk(graph, params, ["fc"], place)
        for value in params.values():
            value += 1
        output, current = framework.numpy(trunk.run(x)["fc"]), trunk.params()
        assert relative_error(output, reference.run(graph, current, x)["fc"]) < self.tolerance(), (
            "these are not what ran"
        )

    def test_the_parameters_of_a_trunk_are_read_from_the_device(self, framework: Backend, place: Place) -> None:
        """`fit` compares them with what went in: a copy that never left the host would always agree."""
        graph = linear_graph()
        params = initial_params(graph, 0)
        trunk = framework.trunk(graph, params, ["fc"], place)
        trunk.run(np.ones((1, 7), np.float32))
        self.disturb(trunk)
        assert params_digest(trunk.params()) != params_digest(initial_params(graph, 0))

    def disturb(self, trunk: Any) -> None:
        """Change some weight of a trunk where it lies on the device. Override it: only the backend's own
        distribution knows how."""
        pytest.skip(f"nobody says where {self.backend} keeps its weights: override `disturb`")

    def test_the_trunk_that_ran_is_checked(self, framework: Backend, place: Place) -> None:
        """The digest that `fit` compares is taken from the device's copy, and sees a single changed weight."""
        model = tiny_model()
        graph, params = frozen(model.graph.upto("avgpool"), model.params, ["avgpool"])
        changed = {**params, "bn1.bias": np.nextafter(params["bn1.bias"], np.float32(9))}
        digests = [
            params_digest(framework.trunk(graph, p, ["avgpool"], place).params()) for p in (params, changed)
        ]
        assert digests[0] == params_digest(params)
        assert digests[1] != digests[0]

    def test_what_a_trunk_is_given_is_left_as_it_is(self, framework: Backend, place: Place) -> None:
        graph = linear_graph()
        params = initial_params(graph, 0)
        x = np.random.default_rng(7).standard_normal((3, 7)).astype(np.float32)
        before = {name: value.copy() for name, value in params.items()}, x.copy()
        trunk = framework.trunk(graph, params, ["fc"], place)
        first = framework.numpy(trunk.run(x)["fc"]).copy()
        np.testing.assert_array_equal(x, before[1])
        for name, value in params.items():
            np.testing.assert_array_equal(value, before[0][name])
        np.testing.assert_array_equal(framework.numpy(trunk.run(x)["fc"]), first, "a second run gives the same")


def _product(kind: str) -> tuple[Graph, tuple[int, ...]]:
    """A graph of one layer that multiplies, and the shape of its samples: of sizes for which a device may take the
    units that it has for products."""
    b = Builder()
    if kind == "linear":
        return of_shape(
            b.graph(b.add("fc", "linear", "input", in_features=64, out_features=32, bias=False)), (64,)
        ), (64,)
    groups = 4 if kind == "grouped" else 1
    conv = b.conv("conv", "input", 32, 32, 3, pad=1, groups=groups)
    return of_shape(b.graph(conv), (8, 8, 32)), (8, 8, 32)


def _of(graph: Graph, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: params[name] for name in graph.param_shapes()}
