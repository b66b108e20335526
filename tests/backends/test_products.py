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
