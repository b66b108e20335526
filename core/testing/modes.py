"""What is trained and stored with a backend as users do it: every mode, the store, saved runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.contract.protocol import Backend
from headstart.data import Dataset
from headstart.models import Model
from headstart.testing import reference
from headstart.testing.samples import images_of, relative_error, small_data, tiny_model
from headstart.testing.suite import Suite
from headstart.training.modes import MODES

BLOCK = "block"


class Modes(Suite):
    """`fit`, `extract` and what comes of them."""

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls) -> tuple[Dataset, Dataset]:
        return small_data(96)

    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls, data: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
        """One run of every mode."""
        cache = tmp_path_factory.mktemp("cache")
        return {mode: cls.fit(data, cache, mode=mode) for mode in MODES}

    @classmethod
    def fit(cls, data: tuple[Dataset, Dataset], cache: Path, model: Model | None = None, **settings: Any) -> Any:
        settings = {"epochs": 2, "batch_size": 24, "dtype": "float32", "lr": 0.01, **settings}
        return hs.fit(model or tiny_model(), *data, backend=cls.backend, device=cls.on(), cache=cache, **settings)

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
        """With a linear head on float32 features, and a head of convolutions and batch norms on float16 ones."""
        pair = [self.fit(data, tmp_path, mode=mode, cut=BLOCK, dtype="float16") for mode in ("frozen", "cached")]
        for frozen, cached, tolerance in ((runs["frozen"], runs["cached"], 1e-3), (*pair, 1e-2)):
            for a, b in zip(frozen.history, cached.history, strict=True):
                np.testing.assert_allclose(a.step_losses, b.step_losses, rtol=tolerance)
                assert a.val_loss == pytest.approx(b.val_loss, rel=tolerance)

    def test_a_frozen_trunk_is_bit_equal_afterwards(self, runs: Mapping[str, Any]) -> None:
        before = tiny_model().params
        for mode in ("frozen", "cached"):
            run = runs[mode]
            trunk = run.model.graph.upto(run.cut).param_shapes()
            assert len(trunk) == 15
            assert all(np.array_equal(run.model.params[name], before[name]) for name in trunk)
            head = set(run.model.params) - set(trunk)
            assert head
            assert all(not np.array_equal(run.model.params[name], before[name]) for name in head)
        assert not np.array_equal(runs["full"].model.params["conv1.weight"], before["conv1.weight"])

    def test_the_same_seed_gives_the_same_history(
        self, runs: Mapping[str, Any], data: tuple[Dataset, Dataset], tmp_path: Path
    ) -> None:
        def figures(run: Any) -> list[tuple[Any, ...]]:
            return [(r.step_losses, r.accuracy, r.val_loss, r.val_accuracy) for r in run.history]

        for mode in ("cached", "full"):
            again = figures(self.fit(data, tmp_path, mode=mode))
            if self.on_cpu():
                assert again == figures(runs[mode]), mode
            else:  # some gradients are sums whose order a device does not promise
                for repeated, first in zip(again, figures(runs[mode]), strict=True):
                    np.testing.assert_allclose(repeated[0], first[0], rtol=1e-3, err_msg=mode)
        assert figures(self.fit(data, tmp_path, mode="cached", seed=1)) != figures(runs["cached"])

    def test_native_equals_predict(
        self, framework: Backend, runs: Mapping[str, Any], data: tuple[Dataset, Dataset]
    ) -> None:
        images = np.stack([np.asarray(data[1].load(i)[0]) for i in range(8)])
        run = runs["full"]
        logits = run.predict(images, device=self.on())
        assert logits.shape == (8, 10)
        assert logits.dtype == np.float32
        ready = np.stack([run.model.preprocess.apply(data[1].load(i)[0]) for i in range(8)])
        ready = run.model.preprocess.normalise(ready)
        assert relative_error(framework.call(run.native, ready), logits) < 1e-4
        assert relative_error(run.predict(ready, device=self.on()), logits) < 1e-4
        right = run.predict(data[1], device=self.on()).argmax(1) == data[1].labels
        assert right.mean() == pytest.approx(run.history.best.val_accuracy, abs=0.05)

    def test_a_saved_run_predicts_the_same(self, data: tuple[Dataset, Dataset], tmp_path: Path) -> None:
        run = self.fit(data, tmp_path, hs.model("lenet", classes=10), mode="cached", epochs=1)
        loaded = hs.load(run.save(tmp_path / "run"), backend=self.backend)
        again, logits = (each.predict(data[1], device=self.on()) for each in (loaded, run))
        if self.on_cpu():
            np.testing.assert_array_equal(again, logits)
        else:  # compiled anew, it may be of other kernels
            assert relative_error(again, logits) < self.tolerance()
        assert loaded.history.as_list() == run.history.as_list()
        assert loaded.model.classes == run.model.classes

    # ---- the store

    @pytest.mark.parametrize(("dtype", "rounding"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 1e-2)])
    def test_features_are_stored_once(
        self, data: tuple[Dataset, Dataset], tmp_path: Path, dtype: str, rounding: float
    ) -> None:
        model, cuts = tiny_model(), [BLOCK, "avgpool"]

        def extract() -> Any:
            return hs.extract(
                model, data[1], cuts, backend=self.backend, device=self.on(), dtype=dtype, cache=tmp_path
            )

        first, second = extract(), extract()
        distinct = len(set(data[1].ids))
        assert (first.stats.extracted, first.stats.reused) == (distinct, 0)
        assert (second.stats.extracted, second.stats.reused) == (0, distinct)
        preprocess = images_of(model)
        x = preprocess.normalise(np.stack([preprocess.apply(data[1].load(i)[0]) for i in range(len(data[1]))]))
        expected = reference.run(model.graph.upto(*cuts), model.params, x)
        for cut in cuts:
            stored = second.numpy(cut)
            assert str(stored.dtype) == dtype
            assert relative_error(stored.astype(np.float32), expected[cut]) < max(rounding, self.tolerance())
        assert np.array_equal(second.labels, data[1].labels)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_features_train(
        self, data: tuple[Dataset, Dataset], tmp_path: Path, dtype: str, runs: Mapping[str, Any]
    ) -> None:
        run = self.fit(data, tmp_path, mode="cached", dtype=dtype)
        for half, whole in zip(run.history, runs["cached"].history, strict=True):
            np.testing.assert_allclose(half.step_losses, whole.step_losses, rtol=2e-2)
