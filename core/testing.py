"""The conformance suite: what every backend must do, as a pytest class to subclass.

    class TestTorch(BackendConformance):
        backend = "torch"

It ships with the package, so that a backend made elsewhere is held to the same. Expected values are computed
here in numpy or are facts of the design; no backend is compared with its own answers, save where sameness is
what is tested. Needs pytest; runs on the bundled digits and the shipped trunk, in about a minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import BackendError
from headstart.contract import registry
from headstart.contract.optimizers import Optimizer
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Recipe
from headstart.data import Dataset, Preprocess
from headstart.features.inference import frozen
from headstart.graph import Builder, Graph
from headstart.models import Model
from headstart.models.initial import initial_params
from headstart.store.keys import params_digest
from headstart.training.modes import MODES

BLOCK_CUT = "layer4.0"


def small_data(count: int = 160) -> tuple[Dataset, Dataset]:
    """The first digits, split in two."""
    return hs.data.digits().subset(np.arange(count)).split(0.75, seed=0, by="position")


def small_model(**settings: Any) -> Model:
    """The shipped trunk at a quarter of its resolution, with ten classes."""
    return hs.model("resnet18_half", **{"weights": "tinyimagenet", "classes": 10, "size": 32, **settings})


def images_of(model: Model) -> Preprocess:
    """How the model's images are prepared."""
    assert isinstance(model.preprocess, Preprocess)
    return model.preprocess


def shaken(model: Model, seed: int = 0) -> Model:
    """The model with random batch-norm statistics, scales and offsets, so that none of them is a neutral
    element that hides a mistake."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, value in model.params.items():
        if value.ndim > 1:
            params[name] = value
        elif name.endswith(("running_var", "weight")):
            params[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
        else:
            params[name] = rng.uniform(-0.3, 0.3, value.shape).astype(np.float32)
    return replace(model, params=params)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference, over the largest absolute value expected."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def every_op() -> Graph:
    """A small graph for `(17, 11, 3)` with every op of the table but those of whole networks (`normalize`,
    `global_avg_pool`), odd sizes, and padding that differs by side."""
    b = Builder()
    x = b.add(
        "conv",
        "conv",
        "input",
        in_channels=3,
        out_channels=8,
        kernel=(3, 5),
        stride=(2, 1),
        padding=((1, 0), (2, 1)),
        bias=True,
    )
    x = b.add("norm", "batch_norm", x, channels=8, epsilon=1e-3)
    # No rectifier before it: padding with zeros instead of minus infinity would show.
    x = b.add("pool", "max_pool", x, kernel=(3, 2), stride=(2, 2), padding=((1, 1), (0, 1)))
    y = b.add(
        "grouped",
        "conv",
        x,
        in_channels=8,
        out_channels=8,
        kernel=(3, 3),
        padding=((1, 1), (1, 1)),
        groups=4,
        bias=False,
    )
    y = b.add("pointwise", "conv", y, in_channels=8, out_channels=8, kernel=(1, 1), bias=False)
    x = b.add("relu", "relu", b.add("add", "add", x, y))
    y = b.add("silu", "silu", b.conv("depthwise", x, 8, 8, 3, pad=1, groups=8))
    y = _averages(b, y)
    factor = b.conv("squeeze", b.add("mean", "adaptive_avg_pool", y, size=(1, 1)), 8, 8, 1, bias=True)
    y = b.add("excite", "multiply", y, b.add("sigmoid", "sigmoid", factor))
    z = b.max_pool("ceil", b.max_pool("stretch", x, 2, 1), 2, 2, ceil=True)
    z = b.add("resize", "adaptive_avg_pool", z, size=(4, 5))
    x = b.add("concat", "concat", b.add("resize2", "adaptive_avg_pool", y, size=(4, 5)), z, z)
    x = b.add("layer_norm", "layer_norm", x, channels=24, epsilon=1e-6)
    x = b.add("gelu", "gelu", b.linear("last_axis", x, 24, 12))
    x = b.add("drop_path", "drop_path", b.add("scale", "scale", x, channels=12), rate=0.2)
    x = b.add("relu6", "relu6", x)
    t = b.add("class_token", "class_token", b.add("tokens", "tokens", x), channels=12)
    t = b.add("position", "position", t, tokens=21, channels=12)
    t = b.add("attention", "attention", b.linear("qkv", t, 12, 36), heads=3)
    t = b.add("quick_gelu", "quick_gelu", b.add("token_concat", "concat", t, t))
    t = b.add("pooled", "concat", b.add("first_token", "first_token", t), b.add("mean_tokens", "mean_tokens", t))
    x = b.add("strided", "conv", x, in_channels=12, out_channels=6, kernel=(1, 1), stride=(2, 2), bias=True)
    x = b.add("flatten", "flatten", x, features=2 * 3 * 6)
    x = b.add("hidden", "linear", b.add("both", "concat", x, t), in_features=84, out_features=12)
    x = b.add("dropout", "dropout", x, rate=0.5)
    return b.graph(b.add("out", "linear", x, in_features=12, out_features=5, bias=False))


def _averages(b: Builder, x: str) -> str:
    """Averages one after the other: padding that counts and does not, by side, and rounding up."""
    sides = ((1, 0), (0, 1))
    rows: dict[str, dict[str, Any]] = {
        "counted": {"padding": ((1, 1), (1, 1))},
        "uncounted": {"padding": ((1, 1), (1, 1)), "count_padding": False},
        "by_side": {"padding": sides},
        "by_side_uncounted": {"padding": sides, "count_padding": False, "stride": (1, 1)},
        "up": {"padding": sides, "ceil": True, "stride": (2, 2)},
    }
    for name, attrs in rows.items():
        x = b.add(name, "avg_pool", x, **{"kernel": (3, 3), "stride": (1, 1), **attrs})
    return x


def reference_update(
    optimizer: Optimizer, gradients: list[np.ndarray], rates: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """The optimisers' update rules, as `headstart.contract.optimizers` states them, in float64."""
    p = start.astype(np.float64)
    if isinstance(optimizer, hs.SGD):
        velocity = np.zeros_like(p)
        for g, rate in zip(gradients, rates, strict=True):
            g = g + optimizer.weight_decay * p
            velocity = optimizer.momentum * velocity + g
            p = p - rate * (g + optimizer.momentum * velocity if optimizer.nesterov else velocity)
        return p
    m, v = np.zeros_like(p), np.zeros_like(p)
    for step, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = optimizer.beta1 * m + (1 - optimizer.beta1) * g
        v = optimizer.beta2 * v + (1 - optimizer.beta2) * g**2
        m_hat, v_hat = m / (1 - optimizer.beta1**step), v / (1 - optimizer.beta2**step)
        p = p - rate * (m_hat / (np.sqrt(v_hat) + optimizer.epsilon) + optimizer.weight_decay * p)
    return p


def linear_gradient(
    weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray, smoothing: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients of softmax regression on `x (n, f)`, by hand."""
    logits = x @ weight.T + bias
    z = np.exp(logits - logits.max(1, keepdims=True))
    probability = z / z.sum(1, keepdims=True)
    target = np.full_like(probability, smoothing / probability.shape[1])
    target[np.arange(len(y)), y] += 1 - smoothing
    loss = float(-(target * np.log(probability)).sum(1).mean())
    error = (probability - target) / len(y)
    return loss, error.T @ x, error.sum(0)


class BackendConformance:
    """Subclass it and set `backend`."""

    backend: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def chosen(cls) -> Backend:
        return registry.load(cls.backend)

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> tuple[Dataset, Dataset]:
        return small_data()

    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls, data: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
        """One run of every mode."""
        cache = tmp_path_factory.mktemp("cache")
        return {mode: cls.fit(data, cache, mode=mode) for mode in MODES}

    @classmethod
    def fit(cls, data: tuple[Dataset, Dataset], cache: Path, model: Model | None = None, **settings: Any) -> Any:
        settings = {"epochs": 2, "batch_size": 24, "dtype": "float32", **settings}
        return hs.fit(model or small_model(), *data, backend=cls.backend, device="cpu", cache=cache, **settings)

    # ---- the graph's meaning

    @pytest.mark.parametrize("channels", ["rgb", "bgr"])
    def test_pixels_are_normalized_on_the_device(self, chosen: Backend, channels: str) -> None:
        place = chosen.place("cpu", "float32")
        model = shaken(small_model())
        preprocess = replace(images_of(model), channels=channels)
        graph = model.graph.normalized(*preprocess.affine(), preprocess.reverse)
        trunk = chosen.trunk(graph, model.params, [graph.output], place)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
        fed = preprocess.normalise(pixels)
        plain = chosen.trunk(model.graph, model.params, [graph.output], place)
        found = chosen.numpy(trunk.run(pixels)[graph.output])
        expected = chosen.numpy(plain.run(fed)[graph.output])
        assert relative_error(found, expected) < 1e-5

    def test_folding_changes_nothing(self) -> None:
        model = shaken(small_model())
        x = np.random.default_rng(1).standard_normal((3, 32, 32, 3)).astype(np.float32)
        cuts = ["relu", "layer2", "layer4.0", "logits"]
        folded = hs.forward(model, x, cuts, backend=self.backend)
        plain = hs.forward(model, x, cuts, backend=self.backend, folded=False)
        for cut in cuts:
            assert relative_error(folded[cut], plain[cut]) < 1e-5, cut

    def test_low_precision_is_close(self) -> None:
        model = small_model()
        x = np.random.default_rng(2).standard_normal((4, 32, 32, 3)).astype(np.float32)
        low = hs.forward(model, x, "avgpool", backend=self.backend, precision="bfloat16")["avgpool"]
        full = hs.forward(model, x, "avgpool", backend=self.backend)["avgpool"]
        cosine = (low * full).sum(1) / np.linalg.norm(low, axis=1) / np.linalg.norm(full, axis=1)
        assert low.dtype == np.float32
        assert cosine.min() > 0.995
        assert relative_error(low, full) > 1e-5, "the arithmetic was not in bfloat16"

    # ---- updates

    @pytest.mark.parametrize(
        "optimizer",
        [
            hs.SGD(lr=0.1, momentum=0),
            hs.SGD(lr=0.1, momentum=0.9, weight_decay=0.01),
            hs.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
            hs.AdamW(lr=0.05, weight_decay=0.1),
        ],
        ids=["sgd", "momentum", "nesterov", "adamw"],
    )
    @pytest.mark.parametrize("resident", [True, False], ids=["epoch", "steps"])
    def test_optimizers_follow_their_rules(self, chosen: Backend, optimizer: Optimizer, resident: bool) -> None:
        """Softmax regression with hand-made gradients, and a rate that changes with every step."""
        rng = np.random.default_rng(3)
        x = rng.standard_normal((40, 7)).astype(np.float32)
        y = rng.integers(0, 4, 40)
        b = Builder()
        graph = b.graph(b.linear("fc", "input", 7, 4))
        graph = Graph((replace(graph.nodes[0], attrs={"shape": (7,)}), *graph.nodes[1:]), "fc")
        start = initial_params(graph, 0)
        order = rng.permutation(40).reshape(5, 8)
        rates = hs.Schedule("cosine", warmup=0.4).rates(optimizer.lr, 5)

        weight, bias = start["fc.weight"].astype(np.float64), start["fc.bias"].astype(np.float64)
        losses, for_weight, for_bias, right = [], [], [], 0
        now = (weight, bias)
        for i, batch in enumerate(order):
            loss, dw, db = linear_gradient(*now, x[batch].astype(np.float64), y[batch], 0.1)
            right += int(((x[batch] @ now[0].T + now[1]).argmax(1) == y[batch]).sum())
            losses.append(loss)
            for_weight.append(dw)
            for_bias.append(db)
            now = (
                reference_update(optimizer, for_weight, rates[: i + 1], weight),
                reference_update(optimizer, for_bias, rates[: i + 1], bias),
            )

        trainer = chosen.trainer(graph, start, Recipe(optimizer, 0.1, False, 0), chosen.place("cpu", "float32"))
        if resident:
            found, correct = trainer.epoch(trainer.put(x), y, order, rates)
        else:
            steps = [trainer.step(x[batch], y[batch], rate) for batch, rate in zip(order, rates, strict=True)]
            found, correct = np.array([loss for loss, _ in steps]), sum(count for _, count in steps)
        assert found.shape == (5, 1)
        np.testing.assert_allclose(found[:, 0], losses, rtol=1e-4)
        assert correct == right
        np.testing.assert_allclose(trainer.params()["fc.weight"], now[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(trainer.params()["fc.bias"], now[1], rtol=1e-3, atol=1e-4)

    def test_parameters_come_back_as_they_went_in(self, chosen: Backend) -> None:
        model = shaken(small_model())
        place = chosen.place("cpu", "float32")
        recipe = Recipe(hs.SGD(), 0.0, False, 0)
        trainer = chosen.trainer(model.graph, model.params, recipe, place)
        trunk = chosen.trunk(model.graph, model.params, [model.graph.output], place)
        assert params_digest(trainer.params()) == params_digest(model.params)
        assert params_digest(trunk.params()) == params_digest(model.params)

    def test_parameters_of_every_op_come_back_as_they_went_in(self, chosen: Backend) -> None:
        """Of every shape: a square weight that comes back the other way round is as large as before."""
        graph, rng = every_op(), np.random.default_rng(5)
        params = {name: rng.random(shape).astype(np.float32) for name, shape in graph.param_shapes().items()}
        place = chosen.place("cpu", "float32")
        trainer = chosen.trainer(graph, params, Recipe(hs.SGD(), 0.0, False, 0), place)
        trunk = chosen.trunk(graph, params, [graph.output], place)
        for returned in (trainer.params(), trunk.params()):
            assert returned.keys() == params.keys()
            for name, value in params.items():
                np.testing.assert_array_equal(returned[name], value, err_msg=name)

    def test_statistics_move_only_when_trained(self, chosen: Backend) -> None:
        model = shaken(small_model())
        place = chosen.place("cpu", "float32")
        rng = np.random.default_rng(4)
        x = rng.standard_normal((8, 32, 32, 3)).astype(np.float32)
        y = rng.integers(0, 10, 8)
        for train_statistics in (False, True):
            trainer = chosen.trainer(
                model.graph, model.params, Recipe(hs.SGD(lr=0.001), 0.0, train_statistics, 0), place
            )
            trainer.step(x, y, 0.001)
            after = trainer.params()
            moved = {n: not np.array_equal(after[n], model.params[n]) for n in after}
            assert all(moved[n] == train_statistics for n in model.graph.buffers())
            assert all(moved[n] for n in moved if n.endswith(("bn1.weight", "bn1.bias", "conv1.weight")))
            if train_statistics:
                # The first batch norm sees the first convolution's output, which can be computed apart.
                seen = hs.forward(model, x, "conv1", backend=self.backend, folded=False)["conv1"]
                expected = 0.9 * model.params["bn1.running_mean"] + 0.1 * seen.mean((0, 1, 2))
                np.testing.assert_allclose(after["bn1.running_mean"], expected, rtol=1e-3, atol=1e-4)

    def test_dropout_is_random_in_training_only(self, chosen: Backend) -> None:
        b = Builder()
        x = b.add("dropout", "dropout", "input", rate=0.5)
        graph = b.graph(b.linear("fc", x, 64, 3))
        graph = Graph((replace(graph.nodes[0], attrs={"shape": (64,)}), *graph.nodes[1:]), "fc")
        params = initial_params(graph, 0)
        place = chosen.place("cpu", "float32")
        rows, labels = np.ones((12, 64), np.float32), np.zeros(12, np.int64)

        def losses(seed: int) -> list[float]:
            trainer = chosen.trainer(graph, params, Recipe(hs.SGD(momentum=0), 0.0, False, seed), place)
            return [float(trainer.step(rows, labels, 1e-9)[0][0]) for _ in range(4)]

        first = losses(0)
        assert len(set(first)) == 4, "every step draws anew"
        assert losses(0) == first
        assert losses(1) != first
        trainer = chosen.trainer(graph, params, Recipe(hs.SGD(), 0.0, False, 0), place)
        expected = rows @ params["fc.weight"].T + params["fc.bias"]
        np.testing.assert_allclose(trainer.logits(rows, 0, 12), expected, rtol=1e-5)

    # ---- modes

    def test_every_mode_learns(self, runs: Mapping[str, Any]) -> None:
        for mode, run in runs.items():
            assert len(run.history) == 2, mode
            assert run.history[1].loss < run.history[0].loss, mode
            record = run.history[-1]
            assert 0 <= record.val_accuracy <= 1
            assert np.isfinite(record.val_loss)
            assert record.seconds.total > 0
            assert (record.seconds.trunk > 0) == (mode == "frozen")
        assert len(runs["staged"].head_history) == 2

    def test_frozen_and_cached_agree_step_by_step(
        self, runs: Mapping[str, Any], data: tuple[Dataset, Dataset], tmp_path: Path
    ) -> None:
        pairs = [(runs["frozen"], runs["cached"], 1e-3)]
        for cut, dtype, tolerance in ((BLOCK_CUT, "float32", 1e-3), (BLOCK_CUT, "float16", 1e-2)):
            pair = [self.fit(data, tmp_path, mode=mode, cut=cut, dtype=dtype) for mode in ("frozen", "cached")]
            pairs.append((pair[0], pair[1], tolerance))
        hidden = [
            self.fit(data, tmp_path, small_model(head=[32]), mode=mode, optimizer="sgd", lr=0.05)
            for mode in ("frozen", "cached")
        ]
        pairs.append((hidden[0], hidden[1], 1e-3))
        for frozen_run, cached_run, tolerance in pairs:
            for a, b in zip(frozen_run.history, cached_run.history, strict=True):
                np.testing.assert_allclose(a.step_losses, b.step_losses, rtol=tolerance)
                assert a.val_loss == pytest.approx(b.val_loss, rel=tolerance)

    def test_a_frozen_trunk_is_bit_equal_afterwards(self, runs: Mapping[str, Any]) -> None:
        before = small_model().params
        for mode in ("frozen", "cached"):
            run = runs[mode]
            trunk = run.model.graph.upto(run.cut).param_shapes()
            assert len(trunk) > 90
            assert all(np.array_equal(run.model.params[n], before[n]) for n in trunk)
            head = set(run.model.params) - set(trunk)
            assert head
            assert all(not np.array_equal(run.model.params[n], before[n]) for n in head)
        assert any(not np.array_equal(runs["full"].model.params[n], before[n]) for n in ("conv1.weight",))

    def test_the_same_seed_gives_the_same_history(
        self, runs: Mapping[str, Any], data: tuple[Dataset, Dataset], tmp_path: Path
    ) -> None:
        def figures(run: Any) -> list[tuple[Any, ...]]:
            return [(r.step_losses, r.accuracy, r.val_loss, r.val_accuracy) for r in run.history]

        for mode in ("cached", "frozen", "full"):
            assert figures(self.fit(data, tmp_path, mode=mode)) == figures(runs[mode]), mode
        assert figures(self.fit(data, tmp_path, mode="cached", seed=1)) != figures(runs["cached"])

    def test_native_equals_predict(
        self, chosen: Backend, runs: Mapping[str, Any], data: tuple[Dataset, Dataset]
    ) -> None:
        images = np.stack([np.asarray(data[1].load(i)[0]) for i in range(8)])
        for mode in ("cached", "full"):
            run = runs[mode]
            logits = run.predict(images)
            assert logits.shape == (8, 10)
            assert logits.dtype == np.float32
            ready = np.stack([run.model.preprocess.apply(data[1].load(i)[0]) for i in range(8)])
            ready = run.model.preprocess.normalise(ready)
            assert relative_error(chosen.call(run.native, ready), logits) < 1e-4
            assert relative_error(run.predict(ready), logits) < 1e-4
        right = runs["full"].predict(data[1]).argmax(1) == data[1].labels
        assert right.mean() == pytest.approx(runs["full"].history[-1].val_accuracy, abs=0.03)

    def test_a_saved_run_predicts_the_same(
        self, runs: Mapping[str, Any], data: tuple[Dataset, Dataset], tmp_path: Path
    ) -> None:
        run = runs["cached"]
        loaded = hs.load(run.save(tmp_path / "run"), backend=self.backend)
        np.testing.assert_array_equal(loaded.predict(data[1]), run.predict(data[1]))
        assert loaded.history.as_list() == run.history.as_list()
        assert loaded.model.classes == run.model.classes

    # ---- the store

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3), ("bfloat16", 1e-2)])
    def test_features_are_stored_once(
        self, data: tuple[Dataset, Dataset], tmp_path: Path, dtype: str, tolerance: float
    ) -> None:
        model, cuts = small_model(), [BLOCK_CUT, "avgpool"]

        def extract() -> Any:
            return hs.extract(model, data[0], cuts, backend=self.backend, dtype=dtype, cache=tmp_path)

        first, second = extract(), extract()
        distinct = len(set(data[0].ids))
        assert (first.stats.extracted, first.stats.reused) == (distinct, 0)
        assert (second.stats.extracted, second.stats.reused) == (0, distinct)
        preprocess = images_of(model)
        x = preprocess.normalise(np.stack([preprocess.apply(data[0].load(i)[0]) for i in range(len(data[0]))]))
        expected = hs.forward(model, x, cuts, backend=self.backend)
        for cut in cuts:
            found = second.numpy(cut)
            assert str(found.dtype) == dtype
            assert relative_error(found.astype(np.float32), expected[cut]) < tolerance
        assert np.array_equal(second.labels, data[0].labels)

    def test_half_precision_features_train(self, data: tuple[Dataset, Dataset], tmp_path: Path) -> None:
        for dtype in ("float16", "bfloat16"):
            for cut in (None, BLOCK_CUT):
                run = self.fit(data, tmp_path, mode="cached", dtype=dtype, cut=cut)
                assert run.history[1].loss < run.history[0].loss

    # ---- what is refused

    def test_a_missing_device_is_named(self, chosen: Backend) -> None:
        if chosen.place("auto", "float32").device == "cuda":
            assert chosen.place("cpu", "float32").device == "cpu"
        else:
            with pytest.raises(BackendError, match="finds no CUDA device; use device='cpu'"):
                chosen.place("cuda", "float32")

    def test_the_trunk_that_ran_is_checked(self, chosen: Backend) -> None:
        """The digest that `fit` compares is taken from the device's copy, and sees a single changed weight."""
        model = small_model()
        graph, params = frozen(model.graph.upto("avgpool"), model.params, ["avgpool"])
        changed = {**params, "bn1.bias": np.nextafter(params["bn1.bias"], np.float32(9))}
        place = chosen.place("cpu", "float32")
        digests = [params_digest(chosen.trunk(graph, p, ["avgpool"], place).params()) for p in (params, changed)]
        assert digests[0] == params_digest(params)
        assert digests[1] != digests[0]
