"""Batches by the device's memory: how many samples that are, and that an extraction loses none where it was too
many."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from ray_clusters import make_photos

import headstart as hs
from headstart.contract import registry
from headstart.contract.recipe import Place
from headstart.errors import DeviceMemoryError, DeviceWarning, SettingError
from headstart.features.batch_sizes import MOST, USUAL, check_batch_size, most_numbers, samples_at_once
from headstart.graph import Builder
from headstart.testing.samples import shaken, tiny_model

pytestmark = pytest.mark.each
CARD = Place("cuda", "float32")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", 12, width=32)


class Card:
    def __init__(self, free: int | None) -> None:
        self.free = free

    def memory(self, place: Place) -> int | None:
        return self.free


def two_paths() -> Any:
    """(4, 4, 3) -> (4, 4, 8) twice, their sum, its mean: 48, 128, 128, 128 and 8 numbers."""
    b = Builder()
    b.add("sum", "add", b.conv("a", "input", 3, 8, 1), b.conv("b", "input", 3, 8, 1))
    return b.graph(b.add("mean", "global_avg_pool", "sum"))


@pytest.mark.neutral
def test_numbers_that_lie_there_at_once_are_counted() -> None:
    """The sum is made while both summands are there, and the input is not any more."""
    graph = two_paths()
    assert most_numbers(graph, (4, 4, 3), ["mean"]) == 3 * 128
    assert most_numbers(graph, (4, 4, 3), ["a", "b", "mean"]) == 3 * 128 + 8
    b = Builder()
    tokens = b.linear("qkv", b.add("tokens", "tokens", b.conv("conv", "input", 3, 8, 1)), 8, 24)
    graph = b.graph(b.add("attention", "attention", tokens, heads=2))
    assert most_numbers(graph, (4, 4, 3), ["attention"]) == 16 * 24 + 16 * 8 + 2 * 16 * 16


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("batch_size", "place", "free", "size"),
    [
        (10, CARD, 0, 10),
        ("auto", Place("cpu", "float32"), 1 << 40, USUAL),
        ("auto", CARD, None, USUAL),
        ("auto", CARD, 80 << 30, MOST),
        ("auto", CARD, 2 * 100 * 3 * 4 * 384, 64),  # for a hundred
        ("auto", CARD, 2 * 5 * 3 * 4 * 384, 4),
        ("auto", CARD, 0, 1),
        ("auto", CARD, -5, 1),  # others have taken more than there was
    ],
)
def test_auto_is_what_the_device_has_room_for(batch_size: Any, place: Place, free: Any, size: int) -> None:
    card: Any = Card(free)
    assert samples_at_once(batch_size, two_paths(), (4, 4, 3), ["mean"], card, place) == size


@pytest.mark.neutral
def test_large_features_keep_to_the_usual_number() -> None:
    """They come to the host, which has to hold a few batches of them."""
    card: Any = Card(1 << 50)
    graph = Builder()
    graph = graph.graph(graph.conv("wide", "input", 3, 64, 1))
    assert samples_at_once("auto", graph, (224, 224, 3), ["wide"], card, CARD) == USUAL


@pytest.mark.neutral
@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "many", None])
def test_what_is_no_batch_size_is_refused(wrong: Any) -> None:
    with pytest.raises(SettingError, match="expected an integer of 1 or more, or 'auto'"):
        check_batch_size(wrong)


def out_of_memory(backend: str) -> list[Exception]:
    """As the framework words it."""
    if backend == "keras":
        import keras

        backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return [
            torch.cuda.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
            ),
            RuntimeError("CUDA error: out of memory"),
            RuntimeError("MPS backend out of memory (MPS allocated: 3.9 GB)"),
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ]
    if backend == "jax":
        import jax

        text = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2147483648 bytes."
        return [jax.errors.JaxRuntimeError(text)]
    import tensorflow as tf

    text = "OOM when allocating tensor with shape[64,112,112,64] and type float on /device:GPU:0"
    return [tf.errors.ResourceExhaustedError(None, None, text)]


class Small:
    """A trunk that has room for so many rows at once."""

    def __init__(self, inner: Any, room: int, error: Exception) -> None:
        self.inner, self.room, self.error = inner, room, error
        self.params = inner.params

    def run(self, images: Any) -> Any:
        if len(images) > self.room:
            raise self.error
        return self.inner.run(images)


def test_a_batch_that_does_not_fit_is_halved(
    backend: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the framework says of it: rows are those of an extraction that had room, as are predictions."""
    model, data = shaken(tiny_model()), hs.data.folder(photos)
    settings: Any = {"backend": backend, "device": "cpu"}
    expected = hs.extract(model, data, batch_size=3, dtype="float32", cache=tmp_path / "plain", **settings).numpy()
    inner = registry.load(backend)._inner
    make, errors = inner.trunk, out_of_memory(backend)
    assert all(registry.load(backend).is_out_of_memory(error) for error in errors)
    room = 3
    monkeypatch.setattr(inner, "trunk", lambda *given: Small(make(*given), room, errors[0]))
    with warnings.catch_warnings(record=True) as said:  # pytest's own would raise others', which are let through
        warnings.simplefilter("always", DeviceWarning)
        features = hs.extract(model, data, batch_size=12, dtype="float32", **settings)
    assert features.stats.extracted == len(data) and "no room for 12 samples at once" in str(said[0].message)
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-5, atol=1e-6)
    room = 0
    with warnings.catch_warnings(), pytest.raises(DeviceMemoryError, match="no room for one sample"):
        warnings.simplefilter("ignore", DeviceWarning)
        hs.predict(model, data, batch_size=2, **settings)


@pytest.mark.slow("keras", "jax")  # core hands it on
@pytest.mark.of("torch")
def test_the_command_and_a_training_take_auto(backend: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("extract", "--data", photos, "--size", 32, "--backend", backend, "--device", "cpu")
    result = headstart(*words, "--batch-size", "auto")
    assert result.code == 0 and "batch size 'auto': 64 samples at once on cpu" in result.err
    assert headstart(*words, "--batch-size", "many").code == 2
    shown = headstart("predict", "--model", "resnet18_half", *words[5:], "--batch-size", "auto", photos)
    assert shown.code == 0 and "64 samples at once on cpu" in shown.err
    sizes: list[Any] = []
    monkeypatch.setattr(
        "headstart.features.batch_features.samples_at_once", lambda size, *_: sizes.append(size) or 5
    )
    train = hs.data.digits().subset(range(40))
    hs.fit(tiny_model(), train, epochs=1, batch_size=4, extraction_batch="auto", backend=backend, device="cpu")
    assert sizes == ["auto"]
