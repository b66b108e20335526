"""What a backend owes of modules: its own, which it makes of graphs, and those of its users, which it takes in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headstart.common.errors import ProfileError
from headstart.common.memory import aligned_empty
from headstart.contract import registry
from headstart.contract.description import PROFILE, WRAP
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.contract.wrapping import END, Wrapping, WrapRequest
from headstart.data import Arrays, Preprocess
from headstart.graph import Graph, Node
from headstart.testing import reference
from headstart.testing.known import hits, softmax_loss
from headstart.testing.samples import every_op, relative_error, tiny_model
from headstart.testing.suite import Suite, recipe_of


class Modules(Suite):
    """`native`, `call`; `owns`, `inputs`, `wrap`, `attempt`; `profile`, `exports`."""

    @pytest.fixture(scope="class")
    @classmethod
    def module(cls, framework: Backend) -> SimpleNamespace:
        """A module of the framework, which `native` has made of a small network, and what it gives."""
        graph = tiny_model().graph
        params = reference.random_params(graph, 0)
        x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
        native = framework.native(graph, params)
        return SimpleNamespace(
            graph=graph,
            params=params,
            native=native,
            x=x,
            expected=reference.run(graph, params, x),
        )

    def test_native_gives_what_the_graph_gives(self, framework: Backend, module: SimpleNamespace) -> None:
        logits = framework.call(module.native, module.x)
        assert type(logits) is np.ndarray
        assert logits.dtype == np.float32
        assert relative_error(logits, module.expected["fc"]) < 1e-4

    def test_native_is_in_inference_mode(self, framework: Backend) -> None:
        """With what drops at random, and with batch norms."""
        graph = every_op()
        params = reference.random_params(graph, 0)
        x = np.random.default_rng(1).standard_normal((2, 17, 11, 3)).astype(np.float32)
        expected = reference.run(graph, params, x)[graph.output]
        assert relative_error(framework.call(framework.native(graph, params), x), expected) < 1e-4

    def test_native_gives_the_nodes_asked_for(self, framework: Backend, module: SimpleNamespace) -> None:
        """In the framework's own layout, of which only vectors are alike everywhere."""
        part = module.graph.upto("avgpool")
        params = {name: module.params[name] for name in part.param_shapes()}
        native = framework.native(part, params, ["layer", "avgpool"])
        outputs = self.run_native(native, module.x)
        assert set(outputs) == {"layer", "avgpool"}
        actual = framework.numpy(outputs["avgpool"])
        # its user's own call: where there is a device, with the framework's own default, which may be TF32
        near = 1e-4 if self.on_cpu() else self.tolerance("tf32")
        assert relative_error(actual, module.expected["avgpool"]) < near
        assert sorted(outputs["layer"].shape) == sorted(module.expected["layer"].shape)

    def run_native(self, native: Any, images: np.ndarray) -> Any:
        """What a module of the framework itself gives for float32 `(n, h, w, c)`, in its own layout, called as its
        users call it. Override it where that is not `native(images)`."""
        return native(images)

    # ---- users' own: WRAP

    @pytest.fixture(scope="class")
    @classmethod
    def wraps(cls) -> None:
        cls.require(WRAP)

    def test_it_owns_its_own_modules_only(self, framework: Backend, module: SimpleNamespace, wraps: None) -> None:
        assert framework.owns(module.native) is True
        for other in (None, module.x, "module", object(), {}, int):
            assert framework.owns(other) is False, other

    def test_a_module_says_what_it_takes_or_nothing(
        self, framework: Backend, module: SimpleNamespace, wraps: None
    ) -> None:
        said = framework.inputs(module.native)
        assert said is None or isinstance(said, Preprocess | Arrays)

    def test_a_wrapped_module_gives_what_the_module_gives(
        self, framework: Backend, module: SimpleNamespace, place: Place, wraps: None
    ) -> None:
        """And has the same parameters; the module is as it was."""
        before = framework.call(module.native, module.x)
        wrapping = framework.wrap(_request(module.native, module.x))
        trunk = wrapping.trunk
        assert trunk.backend == framework.name
        assert tuple(trunk.output) == (10,)
        assert {name: value.shape for name, value in wrapping.params.items()} == dict(trunk.shapes)
        sizes = sorted(value.size for value in module.params.values())
        assert set(sizes) <= {value.size for value in wrapping.params.values()}
        graph, params = _wrapped(wrapping)
        runnable = framework.trunk(graph, params, ["trunk"], place)
        assert relative_error(framework.numpy(runnable.run(module.x)["trunk"]), module.expected["fc"]) < 1e-4
        for name, value in runnable.params().items():
            np.testing.assert_array_equal(value, params[name], err_msg=name)
        np.testing.assert_array_equal(framework.call(module.native, module.x), before)

    def test_a_wrapped_module_is_trained(
        self, framework: Backend, module: SimpleNamespace, place: Place, wraps: None
    ) -> None:
        """As other layers are: its loss is of what the module gives, and its own statistics stay as they are."""
        graph, params = _wrapped(framework.wrap(_request(module.native, module.x)))
        trainer = framework.trainer(graph, params, recipe_of(), place)
        y = np.array([3, 7])
        losses, right = trainer.step(module.x, y, 0.01)
        loss, _ = softmax_loss(module.expected["fc"], y, 0.0)
        assert losses[0] == pytest.approx(loss, rel=1e-3)
        assert right == hits(module.expected["fc"], y)
        after = trainer.params()
        kept = graph.buffers()
        assert kept
        for name, value in params.items():
            if name not in graph.volatile():
                assert np.array_equal(after[name], value) == (name in kept), name

    def test_what_a_module_itself_gives_is_witnessed(
        self, framework: Backend, module: SimpleNamespace, wraps: None
    ) -> None:
        """By the module and not by a copy."""
        witness = framework.wrap(_request(module.native, module.x)).witness
        if witness is None:
            pytest.skip(f"{self.backend} cannot run the module itself")
        end = witness(module.x).end
        assert end is not None
        assert relative_error(end, module.expected["fc"]) < 1e-4

    def test_a_module_is_attempted_as_it_is(
        self, framework: Backend, module: SimpleNamespace, wraps: None
    ) -> None:
        """What its code raises comes through, and it is left as it was."""
        before = framework.call(module.native, module.x)
        framework.attempt(module.native, module.x)
        with pytest.raises(Exception, match=r".") as caught:
            framework.attempt(module.native, module.x[..., :2])
        assert not isinstance(caught.value, AssertionError)
        np.testing.assert_array_equal(framework.call(module.native, module.x), before)

    # ---- other programs

    def test_a_profile_is_written(self, framework: Backend, module: SimpleNamespace, tmp_path: Path) -> None:
        self.require(PROFILE)
        with framework.profile(tmp_path):
            framework.call(module.native, module.x)
            with pytest.raises(ProfileError), framework.profile(tmp_path / "second"):
                pass
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files
        assert sum(path.stat().st_size for path in files) > 100

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_features_are_handed_out_without_a_copy(self, framework: Backend, dtype: str) -> None:
        """As the framework's own tensors, which share the array's memory."""
        targets = registry.describe(self.backend).exports
        if not targets:
            pytest.skip(f"backend {self.backend!r} hands out nothing, and says so")
        for target, modules in targets.items():
            if missing := [module for module in modules if find_spec(module) is None]:
                pytest.skip(f"{target!r} needs {missing[0]}, which is not installed")
            array = aligned_empty((6, 5), np.dtype(dtype))
            array[:] = np.arange(30).reshape(6, 5)
            assert registry.exporting(target)[0] == self.backend
            tensor = framework.exports().tensor(array)
            np.testing.assert_array_equal(np.asarray(tensor), array)
            array[2, 3] = 99
            assert np.asarray(tensor)[2, 3] == 99, "it is a copy"


def _wrapped(wrapping: Wrapping) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph of the module alone, and its parameters."""
    node = Node("trunk", "native", ("input",), {"part": wrapping.trunk})
    graph = Graph((Node("input", "input", (), {"shape": (32, 32, 3)}), node), "trunk")
    return graph, {f"trunk.{name}": value for name, value in wrapping.params.items()}


def _request(native: Any, example: np.ndarray) -> WrapRequest:
    return WrapRequest(native, END, False, example, None, None, False, False, None, "")
