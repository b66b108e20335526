"""Backends with a fault each: torch's own, but for one thing. Not collected by itself: `test_planted` runs it."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import planted_heads  # noqa: F401 - its faults are among FAULTS
import pytest
from conformance import Torch
from planting import FAULTS, Faulty, Trained, fails, faulty_training

from headstart.contract import registry
from headstart.contract.checked import CheckedBackend, Passing
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place
from headstart.graph import Graph, Node

# ---- what a trainer is asked for


@fails("test_each_parameter_has_its_own_rate[sgd]")
class RatesIgnored(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        return self.made(graph, params, replace(recipe, rates={}), place)


@fails("test_a_rate_of_zero_leaves_a_parameter_bit_equal[adamw]")
class DecayOfWhatIsNotTrained(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        rates = {name: rate or 1e-4 for name, rate in recipe.rates.items()}
        return self.made(graph, params, replace(recipe, rates=rates), place)


@fails("test_auxiliary_losses_count_in_training")
class AuxiliaryLossesIgnored(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        weightless = tuple((name, 0.0) for name, _ in graph.auxiliary)
        return self.made(replace(graph, auxiliary=weightless), params, recipe, place)


@fails("test_what_is_dropped[drop_path]")
class DropPathAsDropout(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        nodes = tuple(
            Node(node.name, "dropout", node.inputs, node.attrs) if node.op == "drop_path" else node
            for node in graph.nodes
        )
        return self.made(replace(graph, nodes=nodes), params, recipe, place)


@fails("test_what_is_dropped[dropout]")
class RateOfWhatIsKept(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        nodes = tuple(
            replace(node, attrs={"rate": 1 - node.attrs["rate"]}) if node.op == "dropout" else node
            for node in graph.nodes
        )
        return self.made(replace(graph, nodes=nodes), params, recipe, place)


@fails("test_training_computes_in_the_precision_of_its_place")
class PrecisionIgnored(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        return self.made(graph, params, recipe, replace(place, precision="float32"))


@fails("test_label_smoothing_is_in_the_loss")
class SmoothingIgnored(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        return self.made(graph, params, replace(recipe, loss=Softmax()), place)


@fails("test_what_is_dropped[dropout]")
class SeedIgnored(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        return self.made(graph, params, replace(recipe, seed=3), place)


@fails("test_a_batch_is_normalized_by_the_statistics_asked_for[train]")
class NormsNeverTrained(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        return self.made(graph, params, replace(recipe, train_statistics=False), place)


@fails("test_running_statistics_follow_the_batches[keep]")
class NormsAlwaysTrained(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        return self.made(graph, params, replace(recipe, train_statistics=True), place)


# ---- what a trainer does, and answers


def halved(trainer: Any, layer: str) -> Any:
    """The trainer with half of the gradient behind a layer of torch's network."""

    def halve(module: Any, inputs: Any, output: Any) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient / 2)

    trainer.network.get_submodule(layer).register_forward_hook(halve)
    return trainer


@fails("test_gradients_reach_every_layer_of_a_network")
class GradientsLost(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        return halved(self.made(graph, params, recipe, place), "conv2")


@fails("test_gradients_go_through_every_op")
class GradientsOfTokensLost(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        return halved(self.made(graph, params, recipe, place), "qkv")


@fails("test_what_is_dropped[dropout]")
class DrawsFromTheCallers(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        seed = int(np.random.randint(1 << 30))
        return self.made(graph, params, replace(recipe, seed=seed), place)


@faulty_training("LossesWeighted", "test_losses_come_back_unweighted")
class _Weighted(Trained):
    def changed(self, result: Any) -> Any:
        losses, right = result
        return losses * np.float32([1.0, *(weight for _, weight in self.graph.auxiliary)]), right


@faulty_training("OtherRowsWithoutAnOrder", "test_without_an_order_rows_come_as_they_lie[float32]")
class _OtherRows(Trained):
    def epoch(self, rows: Any, labels: Any, order: Any, rates: Any) -> Any:
        if order is None:  # every so manieth row, and not one after the other
            order = np.arange(len(labels)).reshape(-1, len(rates)).T
        return self._inner.epoch(rows, labels, order, rates)


@faulty_training("OtherLabels", "test_an_order_says_which_rows_a_step_has")
class _OtherLabels(Trained):
    def epoch(self, rows: Any, labels: Any, order: Any, rates: Any) -> Any:
        return self._inner.epoch(rows, labels if order is None else np.roll(labels, 1), order, rates)


@faulty_training("VarianceNeverMoves", "test_running_statistics_follow_the_batches[train]")
class _StillVariance(Trained):
    def params(self) -> Any:
        return {
            name: self.start[name] if name.endswith("running_var") else value
            for name, value in self._inner.params().items()
        }


@faulty_training("BiasedVariance", "test_running_statistics_follow_the_batches[train]")
class _Biased(Trained):
    def params(self) -> Any:
        params = self._inner.params()
        kept = 0.7 * self.start["bn.running_var"]  # of 160 numbers each
        return {**params, "bn.running_var": kept + (params["bn.running_var"] - kept) * np.float32(159 / 160)}


@faulty_training("HitsOfTheLastOutput", "test_hits_are_those_of_the_output")
class _LastHits(Trained):
    def _of_last(self, x: np.ndarray, labels: np.ndarray) -> int:
        last, params = self.graph.outputs[-1], self._inner.params()
        logits = x @ params[f"{last}.weight"].T + params[f"{last}.bias"]
        return int((logits.argmax(1) == labels).sum())

    def epoch(self, rows: Any, labels: Any, order: Any, rates: Any) -> Any:
        right = self._of_last(rows.numpy()[order[0]], labels[order[0]])
        return self._inner.epoch(rows, labels, order, rates)[0], right

    def step(self, inputs: Any, labels: Any, rate: Any) -> Any:
        right = self._of_last(inputs, labels)
        return self._inner.step(inputs, labels, rate)[0], right


@faulty_training("HitsOfNaN", "test_no_hit_is_counted_where_the_loss_is_not_finite")
class _HitsOfNaN(Trained):
    def step(self, inputs: Any, labels: Any, rate: Any) -> Any:
        losses, right = self._inner.step(inputs, labels, rate)
        return losses, right if np.isfinite(losses[0]) else int((labels == 0).sum())


@faulty_training("ParametersReadOnce", "test_parameters_are_read_back_from_the_device")
class _ReadOnce(Trained):
    read: Any = None

    def params(self) -> Any:
        self.read = self.read or self._inner.params()
        return self.read


@faulty_training("ParametersShared", "test_parameters_are_read_back_from_the_device")
class _Shared(Trained):
    read: Any = None

    def params(self) -> Any:
        current = self._inner.params()
        if self.read is None:
            self.read = current
        for name, value in current.items():
            self.read[name][...] = value
        return self.read


@faulty_training("SnapshotFollows", "test_a_snapshot_is_of_its_moment")
class _Following(Trained):
    def snapshot(self) -> Any:
        return self._inner.params


@faulty_training("SquareWeightsTurned", "test_parameters_of_every_op_come_back_as_they_went_in")
class _Turned(Trained):
    def params(self) -> Any:
        square = {name: value for name, value in self._inner.params().items() if len({*value.shape[:2]}) == 1}
        turned = {name: value.swapaxes(0, 1).copy() for name, value in square.items() if value.ndim > 1}
        return {**self._inner.params(), **turned}


@faulty_training("OneRateAnEpoch", "test_optimizers_follow_their_rules[sgd]")
class _OneRate(Trained):
    def epoch(self, rows: Any, labels: Any, order: Any, rates: Any) -> Any:
        return self._inner.epoch(rows, labels, order, np.full_like(rates, rates[0]))


@faulty_training("MomentsForgotten", "test_optimizers_follow_their_rules[momentum]")
class _Forgetful(Trained):
    def epoch(self, rows: Any, labels: Any, order: Any, rates: Any) -> Any:
        self._inner = self.remake(self._inner.params())
        return self._inner.epoch(rows, labels, order, rates)


@fails("test_trainers_know_nothing_of_each_other")
class OneTrainerForAll(Faulty):
    made_before: Any = None

    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        self.made_before = self.made_before or self.made(graph, params, recipe, place)
        return self.made_before


@faulty_training("RowsWritten", "test_what_a_trainer_is_given_is_left_as_it_is")
class _Writing(Trained):
    def epoch(self, rows: Any, labels: Any, order: Any, rates: Any) -> Any:
        result = self._inner.epoch(rows, labels, order, rates)
        rows.mul_(0.5)
        return result


@faulty_training("HalfRowsAsBits", "test_without_an_order_rows_come_as_they_lie[float16]")
class _Bits(Trained):
    def put(self, rows: np.ndarray) -> Any:
        return self._inner.put(rows if rows.itemsize > 2 else rows.view(np.int16).astype(np.float32))


@faulty_training("LogitsInTraining", "test_what_is_dropped[dropout]")
class _LogitsInTraining(Trained):
    def logits(self, inputs: Any, start: int, stop: int) -> Any:
        network = self._inner.network
        network.eval = network.train
        return self._inner.logits(inputs, start, stop)


@faulty_training("LogitsOfTheFirstRows", "test_logits_are_of_the_rows_asked_for")
class _FirstRows(Trained):
    def logits(self, inputs: Any, start: int, stop: int) -> Any:
        return self._inner.logits(inputs, 0, min(stop, len(inputs)) - start)


# ---- what a training goes on from


def forgetting(name: str, test: str, *parts: str) -> None:
    """Register a backend whose trainers do not put back what has one of `parts` in its name."""

    class Forgetting(Trained):
        def load_state(self, state: Any) -> None:
            here = self._inner.state()
            lost = {key: here[key] for key in state if any(part in key for part in parts)}
            assert lost
            self._inner.load_state({**state, **lost})

    faulty_training(name, test)(Forgetting)


forgetting("VelocityForgotten", "test_moments_go_on_from_a_state[sgd]", ".momentum")
forgetting("MomentsForgotten", "test_moments_go_on_from_a_state[adamw]", ".average", ".square")
forgetting("CountOfStepsForgotten", "test_moments_go_on_from_a_state[adamw]", ".steps")
forgetting("MasksForgotten", "test_what_is_dropped_goes_on_from_a_state[sgd]", "masks")
forgetting("StatisticsForgotten", "test_statistics_go_on_from_a_state[sgd]", "running_")
forgetting("ModulesStatisticsForgotten", "test_a_wrapped_module_goes_on_from_a_state", "running_")


@faulty_training("StateOnlyOnceBegun", "test_a_state_has_the_same_names_at_all_times[sgd]")
class _Late(Trained):
    def state(self) -> Any:
        begun = any(not np.array_equal(value, self.start[name]) for name, value in self._inner.params().items())
        return {n: v for n, v in self._inner.state().items() if begun or not n.startswith("optimizer")}


@faulty_training("StateShared", "test_a_state_is_a_copy[sgd]")
class _Lent(Trained):
    def state(self) -> Any:
        tensors = self._inner.network.tensors()
        return self._inner.state() | {f"tensor.{name}": t.detach().numpy() for name, t in tensors.items()}


@fails("test_a_state_of_something_else_is_refused")
class NothingRefused(Passing):
    """As were it the door that let it through."""

    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        trainer = Passing(self._inner.trainer(graph, params, recipe, place))
        trainer.state = dict
        return trainer


# ---- trunks


@fails("test_a_trunk_gives_the_nodes_asked_for")
class OtherNodes(Passing):
    def trunk(self, graph: Graph, params: Any, outputs: Any, place: Place) -> Any:
        trunk = self._inner.trunk(graph, params, outputs, place)

        def run(images: Any) -> Any:
            return dict(zip(outputs, reversed(trunk.run(images).values()), strict=True))

        return SimpleNamespace(run=run, params=trunk.params)


@fails("test_a_trunk_may_be_given_a_larger_graph")
class RunsAllOfTheGraph(Passing):
    def trunk(self, graph: Graph, params: Any, outputs: Any, place: Place) -> Any:
        trunk = self._inner.trunk(graph, params, outputs, place)
        return SimpleNamespace(run=trunk.run, params=lambda: dict(params))


@fails("test_the_parameters_of_a_trunk_are_read_from_the_device")
class TrunksParametersFromTheHost(Passing):
    def trunk(self, graph: Graph, params: Any, outputs: Any, place: Place) -> Any:
        trunk = self._inner.trunk(graph, params, outputs, place)
        kept = {name: value.copy() for name, value in params.items()}
        return SimpleNamespace(run=trunk.run, params=lambda: kept, network=trunk.network)


@fails("test_the_parameters_of_a_trunk_are_those_that_it_runs_with")
class TrunksParametersFromTheCaller(Passing):
    def trunk(self, graph: Graph, params: Any, outputs: Any, place: Place) -> Any:
        trunk = self._inner.trunk(graph, params, outputs, place)
        return SimpleNamespace(run=trunk.run, params=lambda: dict(params))


@fails("test_what_a_trunk_is_given_is_left_as_it_is")
class ImagesWritten(Passing):
    def trunk(self, graph: Graph, params: Any, outputs: Any, place: Place) -> Any:
        trunk = self._inner.trunk(graph, params, outputs, place)

        def run(images: Any) -> Any:
            images *= 2
            return trunk.run(images)

        return SimpleNamespace(run=run, params=trunk.params)


@fails("test_arrays_come_out_as_numpy_in_cores_layout")
class MapsAsTheFrameworkHasThem(Passing):
    def numpy(self, array: Any) -> np.ndarray:
        array = self._inner.numpy(array)
        return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


# ---- places


@fails("test_a_place_is_what_was_asked_for")
class PrecisionNotKept(Passing):
    def place(self, device: str, precision: str) -> Place:
        return Place(self._inner.place(device, precision).device, "float32")


@fails("test_a_missing_device_is_named")
class OtherDevice(Passing):
    def place(self, device: str, precision: str) -> Place:
        return Place("cpu", precision)


@fails("test_threads_are_a_count")
class NoThreads(Passing):
    def threads(self) -> int:
        return 0


@fails("test_other_errors_say_nothing_of_memory")
class EverythingIsOutOfMemory(Passing):
    def is_out_of_memory(self, error: BaseException) -> bool:
        return True


@fails("test_memory_is_the_devices_own")
class MemoryOfACpu(Passing):
    def memory(self, place: Place) -> int:
        return 0


# ---- modules


@fails("test_native_gives_the_nodes_asked_for")
class OutputsIgnored(Passing):
    def native(self, graph: Graph, params: Any, outputs: Any = ()) -> Any:
        return self._inner.native(graph, params)


@fails("test_native_is_in_inference_mode")
class NativeInTraining(Passing):
    def native(self, graph: Graph, params: Any, outputs: Any = ()) -> Any:
        return self._inner.native(graph, params, outputs).train()


@fails("test_native_gives_what_the_graph_gives")
class Probabilities(Passing):
    def call(self, native: Any, images: Any) -> np.ndarray:
        z = np.exp(self._inner.call(native, images))
        return z / z.sum(1, keepdims=True)


@fails("test_it_owns_its_own_modules_only")
class OwnsAll(Passing):
    def owns(self, native: Any) -> bool:
        return True


@fails("test_a_module_says_what_it_takes_or_nothing")
class SaysNonsense(Passing):
    def inputs(self, native: Any) -> Any:
        return {"size": 224}


@fails("test_a_wrapped_module_gives_what_the_module_gives")
class WrapChangesTheModule(Passing):
    def wrap(self, request: Any) -> Any:
        wrapping = self._inner.wrap(request)
        request.native.train()
        return wrapping


@fails("test_a_wrapped_module_is_trained")
class WrappedStaysFrozen(Faulty):
    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        native = {name: 0.0 for node in graph.nodes if node.op == "native" for name in node.param_shapes()}
        return self.made(graph, params, replace(recipe, rates=native), place)


@fails("test_what_a_module_itself_gives_is_witnessed")
class WitnessesSomethingElse(Passing):
    def wrap(self, request: Any) -> Any:
        wrapping = self._inner.wrap(request)
        witness = wrapping.witness
        return replace(wrapping, witness=lambda x: replace(witness(x), end=witness(x).end + 1))


@fails("test_a_module_is_attempted_as_it_is")
class NothingAttempted(Passing):
    def attempt(self, native: Any, example: Any) -> None:
        pass


@fails("test_a_profile_is_written")
class NothingProfiled(Passing):
    def profile(self, folder: Any) -> Any:
        return nullcontext()


@fails("test_a_profile_is_written")
class ProfilesInProfiles(Passing):
    running = False

    def profile(self, folder: Any) -> Any:
        return nullcontext() if self.running else self.first(folder)

    @contextmanager
    def first(self, folder: Any) -> Any:
        with self._inner.profile(folder):
            self.running = True
            yield
            self.running = False


@fails("test_features_are_handed_out_without_a_copy[float32]")
class FeaturesCopied(Passing):
    def exports(self) -> Any:
        real = self._inner.exports()
        return SimpleNamespace(tensor=lambda array: real.tensor(array.copy()))


def suite_of(fault: type[Passing]) -> type:
    """The conformance suite of a backend with the fault."""

    class Suite(Torch):
        backend = "torch"

        @pytest.fixture(scope="class")
        @classmethod
        def framework(cls) -> Any:
            real: Any = registry.load("torch")
            return CheckedBackend(fault(real._inner), "torch", registry.describe("torch"))

    Suite.__name__ = Suite.__qualname__ = f"Test{fault.__name__}"
    return Suite


for fault in (Passing, *(fault for fault, _ in FAULTS.values())):
    globals()[f"Test{fault.__name__}"] = suite_of(fault)
