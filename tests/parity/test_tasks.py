"""The three tasks: torch's own losses in a plain loop over the same features in the same order, and the backends
beside it, step by step: on features, on images, and with heads side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headstart as hs
from headstart.contract import registry
from headstart.data import Dataset
from headstart.data.order import epoch_order

NAMES = ("a", "b", "c")
CUT = "dropout2"  # behind it is no dropout, which torch would draw otherwise
N, BATCH, EPOCHS, LR = 48, 16, 2, 3.0
TOLERANCE = 1e-3
WEIGHTS = np.tile([1.0, 0.0, 3.0, 0.5], N // 4).astype(np.float32)
POS_WEIGHT = {"a": 3.0, "c": 0.25}
CASES: dict[str, tuple[str, Any, dict[str, Any], np.ndarray | None]] = {
    "softmax": ("single", torch.nn.CrossEntropyLoss, {}, None),
    "smoothed": ("single", torch.nn.CrossEntropyLoss, {"label_smoothing": 0.2}, WEIGHTS),
    "sigmoid": ("multi", torch.nn.BCEWithLogitsLoss, {}, None),
    "pos_weight": ("multi", torch.nn.BCEWithLogitsLoss, {"pos_weight": torch.tensor([3.0, 1.0, 0.25])}, WEIGHTS),
    "squared": ("regression", torch.nn.MSELoss, {}, None),
    "huber": ("regression", torch.nn.HuberLoss, {"delta": 0.5}, WEIGHTS),
}
"""the task, torch's loss, its settings, and how much each sample counts"""
OPTIONS: dict[str, dict[str, Any]] = {
    "smoothed": {"label_smoothing": 0.2},
    "pos_weight": {"pos_weight": POS_WEIGHT},
    "huber": {"huber": 0.5},
}
"""ours for the same"""
SELDOM = ("pos_weight", "huber")
"""in each way in torch at every change; the suite holds each backend's losses to what they say"""


def data_of(task: str, weights: np.ndarray | None, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 256, (N, 32, 32, 3), np.uint8)
    labels: dict[str, Any] = {
        "single": rng.integers(0, 3, N),
        "multi": (rng.random((N, 3)) < 0.4).astype(np.uint8),
        "regression": rng.standard_normal((N, 3)) * (30, 1e-3, 1e5) + (1950, 0, 1e6),
    }
    return hs.data.arrays(pictures, labels[task], NAMES, task=task, weights=weights)


def targets_of(data: Dataset) -> torch.Tensor:
    """As torch's losses take them; of numbers the standard scores."""
    if data.task != "regression":
        return torch.tensor(data.labels, dtype=torch.int64 if data.task == "single" else torch.float32)
    labels = data.labels.astype(np.float64)
    mean = np.average(labels, 0, data.weights)
    deviation = np.sqrt(np.average((labels - mean) ** 2, 0, data.weights))
    return torch.tensor((labels - mean) / deviation, dtype=torch.float32)


def losses_of_torch(loss: torch.nn.Module, x: torch.Tensor, data: Dataset, lr: float = LR) -> list[float]:
    """Of each step of plain gradient descent on one linear layer, from zero; the bias of a label from the log of
    its odds, with half a sample more on either side."""
    layer = torch.nn.Linear(x.shape[1], len(NAMES))
    layer.load_state_dict({name: torch.zeros_like(value) for name, value in layer.state_dict().items()})
    if isinstance(loss, torch.nn.BCEWithLogitsLoss):
        share = torch.tensor(np.average(data.labels, 0, data.weights))
        counted = torch.ones(3) if loss.pos_weight is None else loss.pos_weight
        layer.bias.data[:] = torch.log(counted * (N * share + 0.5) / (N * (1 - share) + 0.5))
    descent = torch.optim.SGD(layer.parameters(), lr=lr)
    y, weights = targets_of(data), torch.tensor(np.ones(N) if data.weights is None else data.weights)
    losses = []
    for epoch in range(EPOCHS):
        for positions in map(torch.tensor, epoch_order(N, BATCH, 0, epoch)):
            descent.zero_grad()
            of_each = loss(layer(x[positions]), y[positions]).reshape(BATCH, -1).mean(1)
            w = weights[positions]
            mean = (w * of_each).sum() / w.sum()
            mean.backward()
            descent.step()
            losses.append(mean.item())
    return losses


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One extraction for all: ids are of pictures, whatever their labels."""
    return tmp_path_factory.mktemp("features")


@pytest.mark.parametrize(
    ("case", "backend"),
    [
        pytest.param(case, backend, marks=[pytest.mark.slow] if case in SELDOM and backend != "torch" else [])
        for case in CASES
        for backend in registry.names()
    ],
)
def test_losses_are_torchs_own_step_by_step(case: str, backend: str, cache: Path) -> None:
    task, loss, settings, weights = CASES[case]
    data, model = data_of(task, weights), hs.model("lenet", classes=NAMES)
    x = torch.tensor(hs.extract(model, data, CUT, dtype="float32", backend="torch", cache=cache).numpy())
    expected = losses_of_torch(loss(reduction="none", **settings), x, data)
    at_rest = losses_of_torch(loss(reduction="none", **settings), x, data, lr=0.0)
    assert np.abs(np.subtract(expected, at_rest))[1:].max() > 10 * TOLERANCE, "gradients are seen in losses"
    options: dict[str, Any] = {
        "cut": CUT, "epochs": EPOCHS, "batch_size": BATCH, "device": "cpu", "backend": backend, "cache": cache,
        "schedule": "constant", "warmup": 0.0, "standardize": False, **OPTIONS.get(case, {}),
    }  # fmt: skip
    descent = hs.SGD(lr=LR, momentum=0.0)
    runs = [hs.fit(model, data, dtype="float32", optimizer=descent, **options)]
    if case in OPTIONS:
        runs.append(hs.fit(model, data, mode="frozen", optimizer=descent, **options))
        swept = hs.sweep(
            model,
            data,
            data_of(task, None, seed=1),
            dtype="float32",
            optimizer=descent,
            grid={"lr": [LR, LR / 8]},
            **options,
        )
        assert swept.at_once == 2
        runs.append(swept.runs[swept.points.index({"lr": LR})])
    for run in runs:
        np.testing.assert_allclose(
            run.history[0].step_losses + run.history[1].step_losses, expected, rtol=TOLERANCE
        )
