"""How much samples count: by their class, and by what the data say of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import DataError, DataWarning, SettingError, UnknownNameError
from headstart.data import Dataset
from headstart.testing import small_model
from headstart.training.options import OPTIONS
from headstart.training.sample_weights import checked_weights, sample_weights

CLASSES = ("common", "rare", "absent")


def images_of(labels: list[int], weights: Any = None) -> Dataset:
    """An image a sample, of two kinds that are hard to tell apart; equal labels have different images."""
    rng = np.random.default_rng(0)
    images = [(rng.random((16, 16, 3)) * (180 + 40 * label)).astype(np.uint8) for label in labels]
    return hs.data.arrays(images, labels, classes=CLASSES, weights=weights)


def weights_of(data: Dataset, asked: Any) -> list[float] | None:
    weights = sample_weights(data, asked)
    return None if weights is None else weights.tolist()


@pytest.mark.neutral
class TestCounting:
    def test_balanced_is_scikit_learns(self) -> None:
        from sklearn.utils.class_weight import compute_sample_weight

        for seed in range(20):
            labels = np.random.default_rng(seed).integers(0, 2, 11).tolist()
            expected = compute_sample_weight("balanced", labels)
            np.testing.assert_allclose(sample_weights(images_of(labels), "balanced"), expected, rtol=1e-6)

    def test_balanced_classes_count_alike_whatever_samples_weigh(self) -> None:
        """As in scikit-learn's `LogisticRegression(class_weight="balanced").fit(..., sample_weight=...)`. One of
        weight 0 is not there, and one of 2 is there twice."""
        rng = np.random.default_rng(0)
        labels, given = [0] * 7 + [1] * 4 + [2], [*rng.integers(0, 4, 11).tolist(), 0]
        made = sample_weights(images_of(labels, weights=given), "balanced")
        assert made is not None
        of_class = np.bincount(labels, made, 3)
        assert of_class == pytest.approx([sum(given) / 2, sum(given) / 2, 0]), "alike, of those that are there"
        again = sample_weights(images_of(np.repeat(labels, given).tolist()), "balanced")
        np.testing.assert_allclose(np.repeat(made / np.maximum(given, 1), given), again, rtol=1e-6)

    def test_names_of_classes_are_composed(self) -> None:
        """As macOS writes them they are two characters more."""
        assert checked_weights("class_weights", {"e\u0301": 2}) == {"\xe9": 2.0}

    def test_classes_and_samples_multiply(self) -> None:
        data = images_of([0, 0, 1], weights=[1.0, 0.5, 2.0])
        assert weights_of(data, None) == [1.0, 0.5, 2.0]
        assert weights_of(data, {"rare": 3.0}) == [1.0, 0.5, 6.0]
        assert weights_of(images_of([0, 0, 1]), {"rare": 3.0, "absent": 9.0}) == [1.0, 1.0, 3.0]
        assert weights_of(images_of([0, 0, 1]), None) is None

    @pytest.mark.parametrize("scale", [1e-44, 1e-37, 1e37, 1.5e38])
    def test_only_how_they_stand_beside_each_other_counts(self, scale: float) -> None:
        """Products and sums of such numbers leave the range of 32 bits: NaN in one framework, 0 in another."""
        plain, labels = [2.0, 1.0, 0.0], [0, 0, 1]
        data = images_of(labels, weights=[scale * weight for weight in plain])
        assert data.weights is not None and data.weights[0] == pytest.approx(2 * data.weights[1], rel=1e-6)
        assert 1 <= data.weights[0] < 2 and data.weights[2] == 0
        made = sample_weights(images_of(labels, [2.0, 1.0, 1.0]), {"common": scale, "rare": scale / 2})
        assert made is not None and made / made[1] == pytest.approx([2, 1, 0.5], rel=0.2), "1e-44 has few digits"
        assert 1 <= made[0] < 2.0

    def test_what_is_next_to_nothing_beside_the_largest_is_0_and_told(self) -> None:
        with pytest.warns(
            DataWarning, match="2 of 4 weights in column 'weights' are less than 8e-31 of the largest"
        ):
            data = images_of([0, 0, 1, 1], weights=[3.0, 1e-20, 1e-40, 1e-300])
        assert data.weights is not None and (data.weights[:2] / data.weights[0]).tolist() == pytest.approx(
            [1, 1e-20 / 3]
        )
        assert data.weights[2:].tolist() == [0, 0]

    def test_what_cannot_count_is_refused(self) -> None:
        with pytest.raises(UnknownNameError, match=r"rar.*rare"):
            sample_weights(images_of([0, 1]), {"rar": 2.0})
        with pytest.raises(DataError, match="all of their weights are 0"):
            sample_weights(images_of([0, 1]), {"common": 0, "rare": 0})

    @pytest.mark.parametrize(
        "wrong", ["balance", {}, {"rare": -1}, {"rare": "much"}, {"rare": float("nan")}, {"rare": 1e39}, 2.0]
    )
    def test_settings_are_checked_before_anything_is_read(self, wrong: Any) -> None:
        with pytest.raises(SettingError, match="class_weights"):
            hs.fit(None, object(), class_weights=wrong)

    def test_a_command_line_names_classes(self) -> None:
        parse = OPTIONS["class_weights"].parse
        assert parse is not None
        assert parse("balanced") == "balanced"
        assert parse("a=2, b=c=0.5") == {"a": 2.0, "b=c": 0.5}
        with pytest.raises(SettingError, match="expected balanced, or names such as"):
            parse("a=two")


def losses(run: hs.Run) -> list[float]:
    return [loss for record in run.history for loss in record.step_losses]


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model(classes=CLASSES)


@pytest.mark.slow("keras", "jax")  # the suite weighs samples in each way
def test_a_weight_of_two_is_a_sample_that_is_there_twice(model: Any, backend: str) -> None:
    """In a batch of all: losses and all that is learnt from them."""
    once, twice = [0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]
    data = images_of(once)
    doubled = data.subset([0, 1, 2, 3, 4, 3, 4])
    assert doubled.labels.tolist() == twice
    settings: dict[str, Any] = {"epochs": 4, "optimizer": "sgd", "lr": 0.1, "backend": backend, "batch_size": 64}
    weighted = hs.fit(model, data, class_weights={"rare": 2.0}, **settings)
    np.testing.assert_allclose(losses(weighted), losses(hs.fit(model, doubled, **settings)), rtol=1e-4)
    by_sample = hs.fit(model, images_of(once, weights=[1, 1, 1, 2, 2]), **settings)
    np.testing.assert_allclose(losses(by_sample), losses(weighted), rtol=1e-6)
    plain = losses(hs.fit(model, data, **settings))
    assert abs(plain[-1] / losses(weighted)[-1] - 1) > 1e-3, "the weights change nothing"
    assert weighted.settings["class_weights"] == {"rare": 2.0}


@pytest.mark.of("torch")  # core looks at the data
@pytest.mark.parametrize("folds", [None, 2])
def test_samples_that_count_are_to_tell_something(model: Any, backend: str, folds: int | None) -> None:
    """As without the others, which are not there: of one class nothing is learnt, however the rest is left out."""
    labels = [0, 1] * 6
    settings: dict[str, Any] = {"epochs": 1, "backend": backend, "folds": folds}
    with pytest.raises(DataError, match="training samples are of one class; at least two are needed"):
        hs.fit(model, images_of(labels).subset(range(0, 12, 2)), **settings)
    said = r"all \d training samples that count are of one class; at least two are needed"
    for weights, asked in ((labels, None), (None, {"common": 0.0})):
        with pytest.raises(DataError, match=said):
            hs.fit(model, images_of(labels, weights=weights), class_weights=asked, **settings)
        if folds is not None:
            with pytest.raises(DataError, match=said):
                grid = {"lr": [0.1, 0.01]}
                hs.sweep(model, images_of(labels, weights=weights), class_weights=asked, grid=grid, **settings)
    pictures = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    several = hs.data.arrays(pictures, [[1, 0]] * 2 + [[0, 1]] * 2, ["a", "b"], task="multi", weights=[0, 0, 1, 1])
    with pytest.raises(DataError, match=r"all 2 training samples that count have the same labels \('b'\)"):
        hs.fit(small_model(classes=("a", "b")), several, epochs=1, backend=backend)


@pytest.mark.slow("keras", "jax")  # the suite weighs samples in each way
def test_every_way_of_feeding_counts_alike(model: Any, backend: str) -> None:
    """Features on the device, through the trunk in every epoch, and heads side by side. (In pools from the disk:
    test_feeds.)"""
    rng = np.random.default_rng(1)
    data = images_of(rng.integers(0, 2, 40).tolist(), weights=rng.uniform(0.1, 3, 40))
    settings: dict[str, Any] = {"epochs": 2, "lr": 0.01, "backend": backend, "batch_size": 8}
    settings["class_weights"] = "balanced"
    cached = hs.fit(model, data, **settings)
    frozen = hs.fit(model, data, mode="frozen", **settings)
    np.testing.assert_allclose(losses(frozen), losses(cached), rtol=1e-3)
    del settings["lr"]
    train, val = data.split(0.8)
    swept = hs.sweep(model, train, val, grid={"lr": [0.01, 0.001]}, optimizer="adamw", **settings)
    alone = hs.fit(model, train, val, lr=0.01, optimizer="adamw", **settings)
    run = swept.runs[swept.points.index({"lr": 0.01})]
    np.testing.assert_allclose(losses(run), losses(alone), rtol=1e-3)
