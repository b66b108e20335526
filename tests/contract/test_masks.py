"""What is dropped is as good as drawn, and stays what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headstart.contract import masks

STEPS, SHAPE, RATE = 12, (64, 320), 0.2


def drawn(step: int = 0, op: str = "dropout", seed: int = 0, name: str = "drop", shape: Any = SHAPE) -> np.ndarray:
    """What is kept, as numbers of mean 0 and variance 1."""
    kept = masks.factors(op, RATE, seed, name, step, shape) > 0
    return (kept - (1 - RATE)) / np.sqrt(RATE * (1 - RATE))


@pytest.fixture(scope="module")
def steps() -> np.ndarray:
    return np.stack([drawn(step) for step in range(STEPS)])


def deviations(x: np.ndarray) -> float:
    """By how many standard deviations the mean is off 0."""
    return abs(float(x.mean())) * np.sqrt(x.size)


def test_masks_do_not_change() -> None:
    """A training that is resumed, and one that is done again by another version, drops the same."""
    np.testing.assert_array_equal(masks.mixed(np.arange(3, dtype=np.uint32)), [0, 1753845952, 3507691905])
    assert masks.key_of(7, "classifier.0") == 1107020530
    kept = masks.factors("dropout", 0.5, 7, "classifier.0", 3, (2, 2, 2, 4)) / 2
    np.testing.assert_array_equal(np.packbits(kept.astype(bool)), [42, 209, 67, 81])
    whole = masks.factors("drop_path", 0.5, 7, "classifier.0", 3, (8, 2, 2, 4)) / 2
    assert whole.shape == (8, 1, 1, 1)
    np.testing.assert_array_equal(np.packbits(whole.astype(bool)), [199])


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_the_share_that_is_kept(steps: np.ndarray, axes: tuple[int, ...]) -> None:
    """In all, and by step, sample, element and pairs of them: as far from the rate as binomial numbers are."""
    means = steps.mean(tuple({0, 1, 2} - set(axes)))
    z = means * np.sqrt(steps.size / means.size)
    assert np.abs(z).max() < 6
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / z.size), "as the squares of a normal distribution's numbers"


def test_masks_know_nothing_of_each_other(steps: np.ndarray) -> None:
    """Those of other steps, shifted along or not, and of other layers and seeds; and neighbours in one."""
    for lag in (1, 2, 7):
        assert deviations(steps[lag:] * steps[:-lag]) < 5
        assert deviations(steps[:, lag:] * steps[:, :-lag]) < 5
        assert deviations(steps[:, :, lag:] * steps[:, :, :-lag]) < 5
    assert deviations(steps[0] * drawn(name="drop2")) < 5
    assert deviations(steps[0] * drawn(seed=1)) < 5
    corners = steps[:, 1:, 1:] * steps[:, 1:, :-1] * steps[:, :-1, 1:] * steps[:, :-1, :-1]
    assert deviations(corners) < 5
    flat = steps.reshape(STEPS, -1)
    spectra = np.fft.rfft(flat, 2 * flat.shape[1])
    for step in range(1, STEPS):  # at every shift
        agreement = np.fft.irfft(spectra[0] * spectra[step].conj())
        assert np.abs(agreement).max() < 8 * np.sqrt(flat.shape[1])


def test_a_mask_does_not_depend_on_the_size_of_the_batch(steps: np.ndarray) -> None:
    np.testing.assert_array_equal(drawn(3, shape=(5, 320)), steps[3, :5])
    np.testing.assert_array_equal(drawn(3, "drop_path", shape=(5, 320)), drawn(3, "drop_path")[:5])


def test_those_of_many_samples_and_steps_at_once_are_those_of_each() -> None:
    """Memory is kept from one batch to the next, and steps are drawn ahead."""
    ahead = masks.of_samples(5, 3, 9, steps=4)
    elements = masks.ElementFactors(10_000, RATE)
    for step, samples in enumerate(ahead, 3):
        (alone,) = masks.of_samples(5, step, 9)
        np.testing.assert_array_equal(samples, alone)
        for count in (2, 9, 5):
            kept = elements(samples[:count])
            assert kept.shape == (count, 10_000)
            for row, sample in zip(kept, samples, strict=False):
                np.testing.assert_array_equal(row, masks.ElementFactors(10_000, RATE)(sample[None])[0])


def test_rates() -> None:
    for rate, kept in ((0.0, 1.0), (1.0, 0.0)):
        assert (masks.factors("dropout", rate, 0, "drop", 0, (8, 64)) == kept).all()
