"""Matrix products by another library than torch's own: the same numbers, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headstart.contract.losses import Softmax

pytestmark = pytest.mark.of("torch")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_float64(bias: bool, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from headstart.backends.torch import products

    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    monkeypatch.setattr(products, "LEAST", 1)
    called: list[Any] = []
    monkeypatch.setattr(products, "onednn", lambda *a, own=products.onednn: called.append(a) or own(*a))
    rng = np.random.default_rng(0)
    shapes = {"x": (65, 130), "weight": (7, 130), "bias": (7,), "above": (65, 7)}
    values = {
        name: torch.tensor(rng.standard_normal(shape), dtype=torch.float64) for name, shape in shapes.items()
    }

    def results(dtype: Any, product: Any) -> list[Any]:
        x, weight, offset = (values[name].to(dtype).requires_grad_() for name in ("x", "weight", "bias"))
        leaves = [x, weight, offset] if bias else [x, weight]
        given = x.T.contiguous().T if transposed else x  # other strides, as a slice of columns has
        y = product(given, weight, offset if bias else None)
        above = values["above"].to(dtype)
        above = above.T.contiguous().T if transposed else above
        return [y, *torch.autograd.grad(y, leaves, above)]

    expected = results(torch.float64, torch.nn.functional.linear)
    found = results(torch.float32, products.linear)
    assert len(called) == 3
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=2e-4)


@pytest.mark.parametrize("by_onednn", [True, False])
@pytest.mark.parametrize(("columns", "classes"), [(2048, 10), (24, 5)])  # large enough for oneDNN, and not
@pytest.mark.parametrize(("bias", "dropout"), [(True, False), (False, False), (True, True)])
def test_a_step_written_out_is_that_of_autograd_to_the_bit(
    columns: int, classes: int, bias: bool, dropout: bool, by_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    import headstart as hs
    from headstart.backends.torch import products, train
    from headstart.contract.recipe import Place, Recipe
    from headstart.graph import Graph, Node

    if by_onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "prefers_onednn", lambda: by_onednn)
    given = {"in_features": columns, "out_features": classes, "bias": bias}
    drop = [Node("drop", "dropout", ("x",), {"rate": 0.3})] if dropout else []
    linear = Node("fc", "linear", ("drop" if dropout else "x",), given)
    graph = Graph((Node("x", "input", (), {"shape": (columns,)}), *drop, linear), "fc")
    rng = np.random.default_rng(0)
    params = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in graph.param_shapes().items()}
    rows = rng.standard_normal((768, columns)).astype(np.float16)
    labels, order = rng.integers(0, classes, 768), rng.permutation(768).reshape(3, 256)

    def trained(written_out: bool) -> tuple[Any, dict[str, np.ndarray]]:
        trainer = train.TorchTrainer(
            graph, params, Recipe(hs.AdamW(), Softmax(), False, 0), Place("cpu", "float32")
        )
        assert (trainer.direct is not None) == written_out
        results = [trainer.epoch(trainer.put(rows), labels, order, np.full(3, 0.01, np.float32)) for _ in range(2)]
        return results, trainer.state()

    results, state = trained(written_out=True)
    monkeypatch.setattr(train, "direct_layer", lambda *_: None)
    expected, expected_state = trained(written_out=False)
    for (losses, right), (expected_losses, expected_right) in zip(results, expected, strict=True):
        np.testing.assert_array_equal(losses, expected_losses)
        assert right == expected_right
    assert state.keys() == expected_state.keys()
    for name, value in expected_state.items():
        np.testing.assert_array_equal(state[name], value, name)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("samples", "classes"), [(3000, 2), (400, 7), (70, 15), (300, 16), (20, 3)])
def test_a_softmax_of_few_classes_is_what_torch_says(
    samples: int, classes: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.functional import cross_entropy

    from headstart.backends.torch import losses

    monkeypatch.setattr(losses, "vector_width", lambda: 16)
    given = torch.randn(samples, classes, generator=torch.Generator().manual_seed(0))
    targets, weights = torch.arange(samples) % classes, torch.linspace(0, 2, samples)
    assert losses.is_narrow(given) == (classes < 16 and samples * classes >= losses.LEAST)

    def gradient_of(loss: Any) -> Any:
        outputs = given.clone().requires_grad_()
        value = loss(outputs)
        return value.detach(), torch.autograd.grad(value, outputs)[0]

    def plain(outputs: Any, reduction: str = "mean") -> Any:
        return cross_entropy(outputs, targets, reduction=reduction, label_smoothing=smoothing)

    for own, expected in (
        (lambda x: losses.mean_loss(Softmax(smoothing), x, targets, None), plain),
        (
            lambda x: losses.mean_loss(Softmax(smoothing), x, targets, weights),
            lambda x: (plain(x, "none") * weights).sum() / weights.sum(),
        ),
    ):
        for ours, theirs in zip(gradient_of(own), gradient_of(expected), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_what_users_take_away_computes_as_torch_does() -> None:
    pytest.importorskip("torch")
    import torch.nn.functional as F

    import headstart as hs
    from headstart.backends.torch.emit import LastLinear
    from headstart.backends.torch.products import linear
    from headstart.contract.recipe import Place, Recipe
    from headstart.contract.registry import load

    model = hs.model("lenet", classes=["a", "b"])
    native = load("torch").native(model.graph, model.params)
    trainer = load("torch").trainer(
        model.graph, model.params, Recipe(hs.SGD(), Softmax(), False, 0), Place("cpu", "float32")
    )
    for network, product in ((native, F.linear), (trainer.network, linear)):
        layers = [module for module in network.modules() if isinstance(module, LastLinear)]
        assert layers
        assert all(layer.product is product for layer in layers)


@pytest.mark.parametrize("route", ["written out", "autograd", "side by side", "labels"])
@pytest.mark.parametrize("count", [2, 300])  # few, and enough for a softmax over the transpose
def test_a_sure_head_gives_no_derivatives_that_a_cpu_is_slow_at(route: str, count: int) -> None:
    """e to the -92 is 1e-40, a denormal number, and so is what it is multiplied by; -60 is a small one. Of a label
    alone torch has e to the -89 as 0; e to the -86 becomes one as it is shared out over the samples."""
    pytest.importorskip("torch")
    import headstart as hs
    from headstart.contract.heads import HeadsRecipe, chain_of
    from headstart.contract.losses import Loss, Sigmoid
    from headstart.contract.recipe import Place, Recipe
    from headstart.contract.registry import load
    from headstart.testing.samples import linear_graph

    graph, place = linear_graph(features=3, classes=4), Place("cpu", "float32")
    weight, bias = (
        next(name for name in graph.param_shapes() if name.endswith(end)) for end in ("weight", "bias")
    )
    low = -86 if route == "labels" else -92
    params = {weight: np.zeros((4, 3), np.float32), bias: np.array([0, low, -60, low], np.float32)}
    rows, steps = np.ones((count, 3), np.float32), np.arange(count)[None]
    labels = np.tile([1, 0, 0, 0], (count, 1)).astype(np.uint8) if route == "labels" else np.zeros(count, np.int64)
    loss: Loss = Sigmoid() if route == "labels" else Softmax()
    if route == "side by side":
        chain, heads = chain_of(graph), 16
        assert chain is not None
        recipe = HeadsRecipe(hs.SGD(), np.ones(heads, np.float32), np.zeros(heads, np.float32), loss)
        many = load("torch").heads(
            chain, {k: np.repeat(v[None], heads, 0) for k, v in params.items()}, recipe, place
        )
        many.epoch(many.put(rows), labels, steps, np.ones(1, np.float32))
        moved = many.params()[weight]
    else:
        trainer = load("torch").trainer(graph, params, Recipe(hs.SGD(), loss, False, 0), place)
        weights = np.ones(count, np.float32) if route == "autograd" else None
        trainer.epoch(trainer.put(rows), labels, steps, np.ones(1, np.float32), weights)
        moved = trainer.params()[weight]
    sizes = np.abs(moved.reshape(-1, 4, 3).view(np.uint32) & 0x7FFFFFFF).view(np.float32)
    assert (sizes[:, [1, 3]].view(np.uint32) == 0).all()  # numpy may take denormals for 0 itself
    np.testing.assert_allclose(sizes[:, 2], np.exp(-60) / (4 if route == "labels" else 1), rtol=1e-4)
