"""The experiments about how to train, and about features used directly: small, on bundled data, with no network.

What they conclude is checked on numbers made by hand; what they compute, on invariants and synthetic data.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.of("torch")  # two of the four are programs in torch; one backend is enough for the others

MAX_NBYTES = 3_000_000


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The module of the experiment of that name."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    return lambda name: import_module(f"examples.{name}")


def check_pages(folder: Path, *names: str) -> None:
    for name in names:
        assert 100_000 < (folder / name).stat().st_size < MAX_NBYTES, name


def test_a_winner_is_named_only_beyond_the_noise(example: Callable[[str], Any]) -> None:
    winner = example("how_much.__main__").winner
    assert winner({"linear": [0.70, 0.72, 0.71], "full": [0.80, 0.83, 0.81], "scratch": [0.3, 0.4, 0.2]}) == "full"
    assert winner({"linear": [0.70, 0.72, 0.71], "full": [0.69, 0.74, 0.71], "scratch": [0.3, 0.4, 0.2]}) == (
        "tie: linear, full"
    )
    # Seeds that differ by much are no noise where they do to both the same.
    assert winner({"linear": [0.50, 0.70, 0.90], "full": [0.52, 0.71, 0.92]}) == "full"
    assert winner({"linear": [0.7, 0.7], "full": [0.7, 0.7]}) == "tie: linear, full"
    assert winner({"linear": [0.1], "full": [0.9]}) == "tie: linear, full"  # of one seed nothing is known


@pytest.mark.skipif("HEADSTART_PAGES" not in os.environ, reason="run by tox -e pages")
def test_how_much_fills_four_quadrants(example: Callable[[str], Any], tmp_path: Path) -> None:
    options = ["--samples", "8", "--epochs", "1", "--seeds", "1", "--size", "32", "--backend", "torch"]
    found = example("how_much.__main__").main(["--small", *options, "--device", "cpu", "--out", str(tmp_path)])
    assert set(found["accuracies"]) == {"small, near", "large, near", "small, far", "large, far"}
    for quadrant, ways in found["accuracies"].items():
        assert list(ways) == ["linear", "earlier", "full", "staged", "scratch"]
        assert all(len(values) == 1 and 0 <= values[0] <= 1 for values in ways.values())
        comparison = found["comparisons"][quadrant]
        assert comparison["data"]["train"] == len(comparison["data"]["classes"]) * (
            2 if "small" in quadrant else 8
        )
        changed = {row["label"]: row["kernels"]["max_difference"] > 0 for row in comparison.rows}
        assert changed == {"linear": False, "earlier": False, "full": True, "staged": True, "scratch": True}
        trained = {row["label"]: row["parameters"]["trained"] for row in comparison.rows}
        assert trained["linear"] < trained["earlier"] < trained["full"] == trained["staged"]
        # What the report says of the last epoch is what the table has.
        assert {row["label"]: row["val_accuracy"] for row in comparison.rows} == pytest.approx(
            {way: values[0] for way, values in ways.items()}, abs=0.02
        )
    check_pages(
        tmp_path,
        "how_much.html",
        *(f"{size}-{name}.html" for size in ("small", "large") for name in ("near", "far")),
    )


@pytest.mark.slow  # CI runs the one about style
def test_lp_ft_measures_in_distribution_and_out_of_it(example: Callable[[str], Any], tmp_path: Path) -> None:
    module = example("lp_ft.__main__")
    options = ["--samples", "16", "--epochs", "2", "--seeds", "2", "--size", "32", "--backend", "torch"]
    found = module.main(["--small", *options, "--device", "cpu", "--out", str(tmp_path)])
    for kinds in found["accuracies"].values():
        assert set(kinds) == {"in", "out", *module.CORRUPTIONS}
        assert kinds["out"] == pytest.approx(np.mean([kinds[kind] for kind in module.CORRUPTIONS], 0))
    rows = {row["label"]: row for row in found["comparison"].rows}
    assert rows["cached"]["kernels"]["max_difference"] == 0
    assert rows["full"]["kernels"]["max_difference"] > 0 and rows["staged"]["kernels"]["max_difference"] > 0
    # Uncorrupted, its images are those that fit evaluates on.
    for mode, row in rows.items():
        assert found["accuracies"][mode]["in"][0] == pytest.approx(row["val_accuracy"], abs=0.02)
    check_pages(tmp_path, "lp_ft.html", "runs.html")


def test_corruptions_change_images_and_nothing_else(example: Callable[[str], Any]) -> None:
    module = example("lp_ft.__main__")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    before = images.copy()
    for name, corrupt in module.CORRUPTIONS.items():
        changed = corrupt(images)
        assert changed.shape == images.shape and changed.dtype == np.uint8, name
        assert (changed != images).mean() > 0.5, name
        np.testing.assert_array_equal(images, before)
        np.testing.assert_array_equal(corrupt(images), changed)  # every mode meets the same
    grey = np.full((1, 32, 32, 3), 100, np.uint8)
    assert (module.CORRUPTIONS["dark"](grey) == 40).all()
    assert (module.CORRUPTIONS["cast"](grey)[0, 0, 0] == [100, 70, 40]).all()
    assert (module.CORRUPTIONS["contrast"](grey) == 100).all()


def test_lp_ft_says_when_the_claim_does_not_hold(example: Callable[[str], Any]) -> None:
    verdict = example("lp_ft.__main__").verdict
    low, level, high = [0.5, 0.52, 0.51], [0.7, 0.75, 0.71], [0.9, 0.93, 0.92]
    found = {"staged": {"in": level}, "full": {"in": high}, "cached": {"in": low}}
    assert verdict(found, "in") == "staged is below full and above cached"
    found = {"staged": {"in": level}, "full": {"in": [0.71, 0.73, 0.72]}, "cached": {"in": high}}
    assert verdict(found, "in") == "staged is not to be told from full and below cached"


def test_style_falls_and_the_pictures_are_written(
    example: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example("style.__main__")
    options = ["--small", "--size", "64", "--steps", "12", "--device", "cpu", "--out", str(tmp_path)]
    found = module.main(options)
    assert len(found["histories"]) == 2
    for history, (content, style, result) in zip(
        found["histories"], (np.split(picture, 3, 1) for picture in found["pictures"]), strict=True
    ):
        assert history["style"][-1] < 0.5 * history["style"][0]
        assert history["total"][-1] < 0.5 * history["total"][0]
        assert (
            history["content"][0] == 0 < history["content"][-1] < 1
        )  # it began as the content, and is still near it
        assert not np.array_equal(result, content)
        # It has taken on the style's mean colour, in part.
        means = [image.mean((0, 1)) for image in (content, style, result)]
        assert np.linalg.norm(means[2] - means[1]) < np.linalg.norm(means[0] - means[1])
    with Image.open(tmp_path / "style.png") as image:
        assert image.size == (3 * 64, 2 * 64)
    check_pages(tmp_path, "loss.html")
    monkeypatch.setattr(module, "CONTENT_WEIGHT", 0.0)
    for held, free in zip(found["histories"], module.main(options)["histories"], strict=True):
        assert held["content"][-1] < free["content"][-1]


def test_a_gram_matrix_knows_what_and_not_where(example: Callable[[str], Any]) -> None:
    import torch

    gram = example("style.__main__").gram
    maps = torch.tensor([[[[1.0, 2.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 4.0]]]])  # (1, 2, 2, 2)
    torch.testing.assert_close(gram(maps), torch.tensor([[[5.0, 3.0], [3.0, 25.0]]]) / 4)
    torch.testing.assert_close(gram(maps.flip(2, 3)), gram(maps))


def test_verification_learns_what_classes_it_has_not_seen_differ_in(example: Callable[[str], Any]) -> None:
    """Forty classes lie in four directions, and noise in many others: the cosine hardly tells them apart, and a
    projection that has learnt the directions does, of classes that it was not trained on too."""
    import torch
    from sklearn.metrics import roc_auc_score

    module = example("verification.__main__")
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 20)
    signal = draw.normal(size=(40, 4))[labels] + 0.1 * draw.normal(size=(800, 4))
    rows = torch.tensor(np.concatenate([signal, draw.normal(size=(800, 28))], 1), dtype=torch.float32)
    found = module.trial(rows, labels, 40, 100, seed=0)
    for kind in (module.SEEN, module.UNSEEN):
        aucs = {way: roc_auc_score(same[kind], -distances[kind]) for way, (distances, same, _) in found.items()}
        assert aucs[module.COSINE] < 0.75 and aucs[module.TRAINED] > 0.95, (kind, aucs)


def test_unseen_classes_are_not_trained_on(example: Callable[[str], Any]) -> None:
    module = example("verification.__main__")
    labels = np.repeat(np.arange(10), 50)
    places = module.divided(labels, 10, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(np.concatenate(list(places.values()))), np.arange(500))
    classes = {kind: set(labels[rows].tolist()) for kind, rows in places.items()}
    assert classes[module.TRAINING] == classes[module.SEEN] and len(classes[module.SEEN]) == 6
    assert classes[module.UNSEEN] == set(range(10)) - classes[module.SEEN]
    assert 200 < len(places[module.TRAINING]) < 280


def test_pairs_thresholds_and_the_contrastive_loss(example: Callable[[str], Any]) -> None:
    import torch

    module = example("verification.__main__")
    labels = np.array([3, 3, 5, 5, 5, 9])
    first, second, same = module.pairs_of(labels, 500, np.random.default_rng(0))
    np.testing.assert_array_equal(labels[first] == labels[second], same)
    assert 0.4 < same.mean() < 0.6
    assert (first != second)[labels[first] != 9].all()  # only that one has no other of its class
    near, far = torch.tensor([0.5, 0.25, 2.0]), torch.tensor([True, False, False])
    assert module.contrastive(near, far).item() == pytest.approx((0.5**2 + 0.75**2 + 0) / 3)
    distances, same = np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([True, True, False, True, False])
    threshold = module.best_threshold(distances, same)
    assert ((distances < threshold) == same).mean() == 0.8


def test_verification_of_digits(example: Callable[[str], Any], tmp_path: Path) -> None:
    module = example("verification.__main__")
    options = ["--samples", "30", "--epochs", "60", "--seeds", "2"]
    found = module.main(["--small", *options, "--device", "cpu", "--out", str(tmp_path)])
    for kind in (module.TRAINING, module.SEEN):
        for trained, cosine in zip(
            *(found["auc"][kind][way] for way in (module.TRAINED, module.COSINE)), strict=True
        ):
            assert trained > cosine > 0.5
    assert all(0.5 < share < 1 for share in found["accuracy"][module.TRAINING][module.COSINE])
    check_pages(tmp_path, "verification.html")
