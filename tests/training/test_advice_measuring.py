"""What features tell, beside scikit-learn on the same folds, and beside figures that are known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scalers import scaler_of
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, silhouette_score
from sklearn.neighbors import KNeighborsClassifier

import headstart as hs
from headstart.common.errors import CutError, DataError, SettingError, UnknownNameError
from headstart.training.advice import maps
from headstart.training.advice.candidates import candidates, default_cuts
from headstart.training.advice.familiarity import familiarity
from headstart.training.advice.held_out import PENALTIES
from headstart.training.advice.logme import logme
from headstart.training.advice.maps import feature_map
from headstart.training.advice.measuring import folds_for, measure

pytestmark = pytest.mark.neutral

N, D, K = 90, 12, 3


def features() -> tuple[np.ndarray, np.ndarray]:
    """Three clouds that overlap, and which cloud."""
    rng = np.random.default_rng(3)
    labels = np.arange(N) % K
    return (rng.normal(size=(N, D)) + 0.9 * np.eye(D)[labels] * np.arange(1, D + 1)).astype(np.float32), labels


def data(labels: Any, **more: Any) -> Any:
    images = np.random.default_rng(4).integers(0, 256, (len(labels), 4, 4, 3), np.uint8)
    return hs.data.arrays(images, labels, **more)


def each() -> list[Any]:
    """As folds, every sample by itself."""
    return [np.array([i]) for i in range(N)]


def by_sklearn(x: np.ndarray, y: np.ndarray, folds: list[Any], penalty: float) -> np.ndarray:
    """Held-out predictions, of features that are standardised by all samples."""
    x, predicted = scaler_of(x).transform(x), np.zeros_like(y, dtype=np.float64)
    for fold in folds:
        others = np.setdiff1d(np.arange(len(x)), fold)
        predicted[fold] = Ridge(alpha=penalty * len(others)).fit(x[others], y[others]).predict(x[fold])
    return predicted


def test_classes() -> None:
    x, labels = features()
    of = data(labels)
    assert folds_for(of, 0) is None  # of few samples each is held out by itself
    figures = measure("cut", (D,), x, of, None, 0)
    expected = [
        accuracy_score(labels, by_sklearn(x, np.eye(K)[labels], each(), p * D).argmax(1)) for p in PENALTIES
    ]
    assert figures.score == pytest.approx(max(expected)) and figures.error == pytest.approx(1 - figures.score)
    assert figures.interval is not None and figures.interval[0] < figures.score < figures.interval[1]
    assert figures.seen > figures.score
    scaled = scaler_of(x).transform(x)
    assert figures.silhouette == pytest.approx(silhouette_score(scaled, labels, metric="cosine"), abs=1e-5)
    near = np.zeros(N, np.int64)
    for fold in each():
        others = np.setdiff1d(np.arange(N), fold)
        knn = KNeighborsClassifier(5, metric="cosine").fit(scaled[others], labels[others])
        near[fold] = knn.predict(scaled[fold])
    assert figures.knn == pytest.approx(accuracy_score(labels, near), abs=1 / N)
    assert [samples for samples, _ in figures.curve] == [22, 44, 89] and figures.curve[-1][1] == figures.score
    assert figures.curve[0][1] < figures.score
    assert 0 < figures.spread <= 1


def test_labels_and_targets() -> None:
    x, labels = features()
    several = data(
        np.eye(K, dtype=int)[labels], classes=["a", "b", "c"], task="multi", groups=list(map(str, range(N)))
    )
    folds = folds_for(several, 0)
    assert folds is not None and len(folds) == 5
    predicted = [by_sklearn(x, np.eye(K)[labels], folds, p * D) > 0.5 for p in PENALTIES]
    best = min(predicted, key=lambda of: float((of != np.eye(K)[labels]).mean()))
    figures = measure("cut", (D,), x, several, folds, 0)
    assert figures.score == pytest.approx(f1_score(np.eye(K)[labels], best, average="micro"))
    assert figures.silhouette is None

    target = 20 + 3 * x[:, 0] + np.random.default_rng(5).normal(size=N)
    of = data(target[:, None], classes=["size"], task="regression")
    figures = measure("cut", (D,), x, of, None, 0)
    expected = min(mean_absolute_error(target, by_sklearn(x, target, each(), p * D)) for p in PENALTIES)
    assert figures.score == pytest.approx(expected, rel=1e-3)
    assert figures.error == pytest.approx(expected / np.abs(target - np.median(target)).mean(), rel=1e-3)


def test_groups_are_not_cut() -> None:
    """Features that name the group tell nothing of a group that was not seen, though all samples of one are
    alike."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 5)
    x, labels = rng.normal(size=(30, 8))[groups].astype(np.float32), rng.integers(0, 2, 30)[groups]
    grouped = data(labels, groups=[f"g{g}" for g in groups])
    folds = folds_for(grouped, 0)
    assert folds is not None
    assert all(len(set(groups[a]) & set(groups[b])) == 0 for a in folds for b in folds if a is not b)
    honest = measure("cut", (8,), x, grouped, folds, 0)
    loose = measure("cut", (8,), x, data(labels), folds_for(data(labels), 0), 0)
    assert loose.knn > 0.9 > 0.75 > honest.knn


@pytest.mark.parametrize("task", ["single", "multi", "regression"])
def test_a_weight_of_two_is_a_sample_that_is_there_twice(task: str) -> None:
    """Also where a penalty is chosen, and in what knowing nothing comes to. Groups keep the copies together."""
    (x, labels), rng = features(), np.random.default_rng(6)
    weights = rng.integers(0, 4, N)
    of = {
        "single": labels,
        "multi": (rng.random((N, 2)) + 0.2 * x[:, :2] > 0.6).astype(np.uint8),
        "regression": np.where(weights[:, None] > 0, 5 * x[:, :2] + rng.normal(0, 6, (N, 2)), 1e6),
    }[task]
    names, copies = np.array([f"g{i // 3}" for i in range(N)]), np.repeat(np.arange(N), weights)
    weighted = data(of, task=task, groups=names.tolist(), weights=weights)
    repeated = data(of[copies], task=task, groups=names[copies].tolist())
    made = [
        measure("cut", (D,), rows, one, folds_for(one, 0), 0)
        for rows, one in ((x, weighted), (x[copies], repeated))
    ]
    for name in ("score", "seen", "error", "spread"):
        assert getattr(made[0], name) == pytest.approx(getattr(made[1], name), rel=1e-4), name
    there = np.flatnonzero(weights)  # what is not there is nobody's neighbour
    marked = data(of, task=task, groups=names.tolist(), weights=(weights > 0).astype(int))
    left = data(of[there], task=task, groups=names[there].tolist())
    knn = [
        measure("cut", (D,), rows, one, folds_for(one, 0), 0).knn for rows, one in ((x, marked), (x[there], left))
    ]
    assert knn[0] == pytest.approx(knn[1], rel=1e-4)


def test_too_few_samples_to_hold_any_out() -> None:
    with pytest.raises(DataError, match="arrays has 6 different samples to train on; expected at least 10"):
        folds_for(data(np.arange(6) % 2), 0)
    with pytest.raises(DataError, match="1 groups to train on; expected at least 2"):
        folds_for(data(np.arange(20) % 2, groups=["g"] * 20), 0)


def test_logme_is_the_evidence_at_its_largest() -> None:
    """Beside the density of the labels under the same linear model, maximised over a grid of its two
    precisions."""
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(1)
    x = rng.normal(size=(25, 4))
    y = x @ rng.normal(size=4) + 0.5 * rng.normal(size=25)
    grid = np.logspace(-1.5, 2, 60)
    largest = max(
        multivariate_normal.logpdf(y, cov=x @ x.T / alpha + np.eye(25) / beta) for alpha in grid for beta in grid
    )
    assert logme(x, y[:, None]) == pytest.approx(largest / 25, abs=2e-3)
    # of samples that count differently: the noise of each is as much less
    weights = 0.05 + rng.exponential(size=25)
    weights /= weights.mean()
    largest = max(
        multivariate_normal.logpdf(y, cov=x @ x.T / alpha + np.diag(1 / (beta * weights)))
        for alpha in grid[::2]
        for beta in grid[::2]
    )
    assert logme(x, y[:, None], 3 * weights) == pytest.approx((largest - np.log(weights).sum() / 2) / 25, abs=5e-3)
    assert abs(logme(x, y[:, None], weights) - logme(x, y[:, None])) > 0.01
    some = np.arange(25) < 20  # of weight 0: not there
    assert logme(x, y[:, None], some) == pytest.approx(logme(x[some], y[some, None]), abs=1e-9)
    wide = rng.normal(size=(10, 40))
    z = wide[:, 0] + 0.1 * rng.normal(size=10)
    largest = max(
        multivariate_normal.logpdf(z, cov=wide @ wide.T / alpha + np.eye(10) / beta)
        for alpha in grid
        for beta in grid
    )
    assert logme(wide, z[:, None]) == pytest.approx(largest / 10, abs=0.05)


def test_which_cuts_are_looked_at_and_where_more_is_trained() -> None:
    expected = {
        "resnet18_half": (("layer1.1", "layer2.1", "layer3.1", "avgpool"), "layer3.1"),
        "efficientnet_lite0": (("blocks.2.1", "blocks.4.2", "blocks.6.0.bn3", "global_pool"), "blocks.4.2"),
        "lenet": (("pool1", "relu2", "pool2", "relu4"), "relu2"),
    }
    for name, (cuts, earlier) in expected.items():
        (candidate,) = candidates([f"{name}:none"], None, 3)
        assert (candidate.cuts, candidate.earlier) == (cuts, earlier)
    blocks = default_cuts(hs.model("vit_tiny_patch16_224", classes=3))
    assert len(blocks) == 3 and blocks[-1] == "token"


def test_models_by_name_with_weights_and_as_they_are() -> None:
    own = hs.model("lenet", classes=3)
    listed = candidates(["resnet18_half", "resnet18_half:none", own], "layer2", 3)
    assert [c.label for c in listed] == ["resnet18_half, tinyimagenet", "resnet18_half, random", "lenet, random"]
    assert [c.named_weights for c in listed] == [None, "none", "none"]
    assert [c.cuts for c in listed] == [("layer2.1", "avgpool"), ("layer2.1", "avgpool"), ("relu4",)]
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18_half'"):
        candidates(["resnet18half"], None, 3)
    with pytest.raises(SettingError, match="resnet18_half, tinyimagenet twice"):
        candidates(["resnet18_half", "resnet18_half"], None, 3)
    with pytest.raises(CutError, match="layer9"):
        candidates(["resnet18_half"], ["layer9"], 3)
    with pytest.raises(SettingError, match="expected names of models"):
        candidates([], None, 3)


def test_a_model_whose_weights_cannot_be_had_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    listed = candidates(["resnet50", "resnet18_half"], None, 3)
    assert [c.label for c in listed] == ["resnet18_half"]
    (record,) = [record for record in caplog.records if "without resnet50" in record.getMessage()]
    assert "not to be had" in record.getMessage()


def test_a_trunks_own_classifier_is_sure_of_what_it_knows() -> None:
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=3)
    weight = hs.model("resnet18_half", weights="tinyimagenet").params["fc.weight"]
    known, unknown = familiarity(model, 10 * weight), familiarity(model, np.zeros((5, 256), np.float32))
    assert known is not None and unknown is not None and known.classes == 200
    assert known.confidence > 0.9 > 0.1 > unknown.confidence
    assert known.entropy < 0.1 < 0.9 < unknown.entropy <= 1
    assert familiarity(hs.model("resnet18_half", classes=3), weight) is None


def test_a_map_is_of_principal_components() -> None:
    x, labels = features()
    of = data(labels)
    drawn = feature_map(x, of, of)
    assert drawn["method"] in ("PCA", "UMAP") and len(drawn["points"]) == N
    assert all(0 <= point["x"] <= 1 and point["picture"].startswith("data:image/png") for point in drawn["points"])
    assert [point["class"] for point in drawn["points"]] == labels.tolist()


def test_a_map_by_umap_imports_no_more_than_umap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the rest of its package, which imports TensorFlow."""
    (tmp_path / "umap").mkdir()
    (tmp_path / "umap" / "__init__.py").write_text("raise RuntimeError('the whole package')")
    (tmp_path / "umap" / "umap_.py").write_text(
        "class UMAP:\n    def __init__(self, random_state): ...\n    def fit_transform(self, x): return x[:, 1:]"
    )
    for name in ("umap", "umap.umap_"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    x = np.random.default_rng(0).standard_normal((20, 3))
    places, method, _ = maps._places(x, np.arange(20))
    assert (method, places.shape) == ("UMAP", (20, 2)) and "umap" not in sys.modules
    monkeypatch.delitem(sys.modules, "umap.umap_")
