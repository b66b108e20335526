"""From figures to advice: arithmetic, on tables whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from headstart.training.advice import rule
from headstart.training.advice.rule import (
    EQUAL,
    MODES,
    Evidence,
    Option,
    advised,
    doubt,
    pareto,
    predicted_errors,
)

pytestmark = pytest.mark.neutral

NEAR = Evidence(
    samples=300,
    classes=5,
    error=0.1,
    earlier_error=0.3,
    seen_error=0.0,
    half_error=0.11,
    knn_error=0.15,
    pretrained=True,
)
FAR = replace(NEAR, samples=3000, error=0.3, earlier_error=0.1, half_error=0.4)


def test_every_mode_has_an_error_and_the_linear_heads_is_the_measured_one() -> None:
    errors = predicted_errors(NEAR)
    assert set(errors) == set(MODES) and errors["linear"] == 0.1
    assert all(0 < error < 1 for error in errors.values())
    assert set(rule.SPREAD) == set(MODES)
    names = set(NEAR.figures())
    assert all(set(weights) <= names for weights in rule.COEFFICIENTS.values())


def test_the_sum_is_in_the_exponent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "COEFFICIENTS", {"full": {"constant": 0.5, "samples": -2.0, "random": 1.0}})
    monkeypatch.setattr(rule, "SPREAD", {"full": 0.0})
    more = replace(NEAR, samples=3000)  # ten times the 300 that the figure is counted from
    assert predicted_errors(more) == {"linear": 0.1, "full": pytest.approx(0.1 * math.exp(0.5 - 2.0))}
    assert predicted_errors(replace(more, pretrained=False))["full"] == pytest.approx(0.1 * math.exp(-0.5))
    none = replace(
        NEAR, error=0.0, earlier_error=0.0, half_error=0.0
    )  # nothing is wrong: the logarithm is bounded
    assert all(math.isfinite(error) for error in predicted_errors(none).values())
    assert predicted_errors(replace(none, samples=20))["linear"] == 0.5 / 20  # no more than half of one is wrong


def test_of_two_modes_that_look_alike_the_less_known_one_is_the_worse_bet() -> None:
    same, spread = {"constant": -0.2}, {"full": 0.2, "scratch": 0.8}
    errors = predicted_errors(NEAR, {"full": same, "scratch": same}, spread)
    assert errors["full"] == pytest.approx(0.1 * math.exp(-0.2 + 0.02))  # the mean of a log-normal distribution
    assert errors["scratch"] == pytest.approx(0.1 * math.exp(-0.2 + 0.32))


def test_a_cut_that_does_better_by_a_few_samples_tells_little() -> None:
    few = replace(NEAR, samples=50, error=0.2, earlier_error=0.16)  # 10 and 8 wrong answers
    many = replace(few, samples=5000)
    assert many.figures()["earlier"] < few.figures()["earlier"] < 0
    assert few.figures()["earlier"] == pytest.approx(math.log(13 / 15))


def test_far_data_gain_more_from_training_the_trunk() -> None:
    gain = {name: predicted_errors(of)["staged"] / of.error for name, of in (("near", NEAR), ("far", FAR))}
    assert gain["far"] < gain["near"]


OPTIONS = [
    Option("a", "linear", 0.200, seconds=1),
    Option("a", "staged", 0.150, seconds=100),
    Option("a", "full", 0.150 + 0.9 * EQUAL, seconds=90),
    Option("b", "linear", 0.150 + 0.8 * EQUAL, seconds=20),
    Option("b", "scratch", 0.400, seconds=300),
    Option("b", "full", 0.140, seconds=900, within=False),
]


def test_the_quickest_of_the_equally_good_is_advised_within_the_budget() -> None:
    assert advised(OPTIONS) is OPTIONS[3]
    assert advised([option for option in OPTIONS if option.trunk == "a"]) is OPTIONS[2]
    apart = [*OPTIONS[:2], replace(OPTIONS[3], error=0.150 + 1.1 * EQUAL)]
    assert advised(apart) is OPTIONS[1]
    assert advised([replace(option, within=True) for option in OPTIONS]) == replace(OPTIONS[5], within=True)
    assert advised([replace(option, within=False) for option in OPTIONS]) is None
    assert advised([]) is None


def test_the_front_has_what_nothing_is_quicker_and_better_than() -> None:
    assert pareto(OPTIONS) == [OPTIONS[0], OPTIONS[3], OPTIONS[1], OPTIONS[5]]
    assert pareto([Option("a", "full", 0.1, 5), Option("a", "staged", 0.2, 5)]) == [Option("a", "full", 0.1, 5)]


def test_spreads_are_of_the_logarithm() -> None:
    """By simulation, of errors whose means are the predicted ones: 68 % lie within a deviation of the middle, and
    the doubt is the share of the cases in which the runner-up does better."""
    rng, errors = np.random.default_rng(0), predicted_errors(NEAR)
    drawn = {}
    for mode in MODES[1:]:
        spread = rule.SPREAD[mode]
        drawn[mode] = errors[mode] * np.exp(rng.normal(-(spread**2) / 2, spread, 100_000))
        assert drawn[mode].mean() == pytest.approx(errors[mode], rel=0.01)
        low, high = rule.range_of(mode, errors[mode])
        assert (drawn[mode] < low).mean() == pytest.approx(0.159, abs=0.01)
        assert (drawn[mode] > high).mean() == pytest.approx(0.159, abs=0.01)
    assert rule.range_of("linear", 0.1) == pytest.approx(
        [0.1 * math.exp(s * rule.SPREAD["linear"]) for s in (-1, 1)]
    )
    for best, other in (("staged", "full"), ("full", "scratch"), ("cut", "scratch")):
        likelihood = doubt(best, errors[best], Option("b", other, errors[other], 5))
        assert likelihood == pytest.approx((drawn[other] < drawn[best]).mean(), abs=0.01)


def test_doubt_is_a_half_where_nothing_tells_two_apart_and_falls_with_their_distance() -> None:
    same = Option("b", "staged", 0.2, 5)
    assert doubt("staged", 0.2, same) == pytest.approx(0.5)
    assert 0 < doubt("staged", 0.1, same) < doubt("staged", 0.15, same) < 0.5
    # one deviation of both together: 15.9 % of a normal distribution lie beyond
    together = math.hypot(rule.SPREAD["staged"], rule.SPREAD["staged"])
    assert doubt("staged", 0.1, Option("b", "staged", 0.1 * math.exp(together), 5)) == pytest.approx(
        0.1587, abs=1e-3
    )
    assert doubt("staged", 0.2, None) is None
