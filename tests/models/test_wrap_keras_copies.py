"""Copies of Keras models hold all that the models hold, or are refused: state beside weights, settings that no
configuration says, functions, weights without names."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key

import headstart as hs
from headstart.common.errors import SettingError
from headstart.data import Dataset
from headstart.testing import relative_error

pytestmark = pytest.mark.of("keras")


@pytest.fixture(scope="module")
def kinds(backend: str) -> Any:
    import own_keras_layers

    return own_keras_layers


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(24)).split(0.75, seed=0)


def wrapped(model: Any, **settings: Any) -> Any:
    return hs.wrap(model, preprocess=P, **{"head": "linear", "classes": 10, **settings})


def features(model: Any, x: np.ndarray = X) -> np.ndarray:
    return hs.forward(model, x, "trunk")["trunk"]


def ready(data: Dataset) -> np.ndarray:
    return P.normalise(np.stack([P.apply(data.load(i)[0]) for i in range(len(data))]))


@pytest.mark.parametrize("where", ["layer", "inside", "nested", "discretization", "table", "own"])
def test_state_beside_weights_is_copied(kinds: Any, where: str) -> None:
    model = kinds.adapted(where)
    before = [np.array(w) for w in model.get_weights()]
    made = wrapped(model)
    expected = kinds.run(model, X)
    assert relative_error(features(made), expected) < 1e-5
    assert relative_error(features(wrapped(kinds.adapted(where, 0)), X), expected) > 0.1, "it bears on the output"
    assert relative_error(kinds.run(model, X), expected) < 1e-6
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_layer_whose_configuration_lacks_its_name_keeps_it(kinds: Any) -> None:
    """As Keras works it out for a layer that takes `**settings`; its name is where one may cut."""
    model = kinds.adapted("inside")
    layer = model.layers[1]
    assert "name" not in layer.get_config()
    for cut in (None, layer.name):
        made = hs.wrap(model, cut, preprocess=P)
        assert relative_error(features(made), kinds.ops.convert_to_numpy(layer(X))) < 1e-5, cut


def test_what_was_adapted_is_trained_on_and_saved(kinds: Any, data: Any, tmp_path: Path) -> None:
    for where in ("layer", "table"):
        run = fit(wrapped(kinds.adapted(where)), data, tmp_path, mode="full", epochs=1)
        expected = run.predict(data[1])
        assert relative_error(run.native.predict_on_batch(ready(data[1])), expected) < 1e-5
        again = hs.load(run.save(tmp_path / where), model=wrapped(kinds.adapted(where)))
        np.testing.assert_allclose(again.predict(data[1]), expected, rtol=1e-5, atol=1e-6)


def test_what_was_adapted_is_in_the_key(kinds: Any) -> None:
    for where in ("layer", "inside", "table"):
        digests = {key(wrapped(kinds.adapted(where, shift))).digest for shift in (0, 1, 2)}
        assert len(digests) == 3, where
        assert key(wrapped(kinds.adapted(where, 1))).digest in digests


def test_scratch_keeps_what_was_adapted(kinds: Any, data: Any, tmp_path: Path) -> None:
    made = wrapped(kinds.adapted("layer"))
    run = fit(made, data, tmp_path, mode="scratch", epochs=1)
    means = [name for name in made.params if name.endswith(".mean")]
    assert len(means) == 1
    np.testing.assert_array_equal(run.model.params[means[0]], made.params[means[0]])


@pytest.mark.parametrize("how", ["set", "hidden", "call", "inside"])
def test_what_no_configuration_says_is_refused(kinds: Any, how: str) -> None:
    with pytest.raises(SettingError, match=r"layer 'secret' is the first that does.*get_config"):
        wrapped(kinds.unsaid(how))


def test_a_layer_that_cannot_be_made_again_is_named(kinds: Any) -> None:
    with pytest.raises(SettingError, match=r"layer 'needy' \(Needy\) cannot be made again.*get_config") as e:
        wrapped(kinds.needy())
    assert "preprocess=" not in str(e.value)


def test_a_model_that_overrides_its_call_is_refused(kinds: Any) -> None:
    for model in (kinds.overridden(), kinds.overridden(nested=True)):
        with pytest.raises(SettingError, match=r"call\(\) of 'doubled' \(Doubled\) is not that of a functional"):
            wrapped(model)


def test_whatever_can_be_called(kinds: Any) -> None:
    """Functions that no configuration can hold go over as they are, and are in the key."""
    functions = [partial(kinds.times, by=2), partial(kinds.times, by=3), kinds.Times(2), kinds.Times(3).apply]
    digests = []
    for function in functions:
        model = kinds.active(function)
        made = wrapped(model)
        assert relative_error(features(made), kinds.run(model, X)) < 1e-5
        digests.append(key(made).digest)
    assert len(set(digests)) == len(functions)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("how", ["weights", "outputs", "inside"])
def test_losses_of_layers_are_said_to_be_left_out(kinds: Any, how: str) -> None:
    with pytest.warns(UserWarning, match="layer 'conv' adds a loss of its own .* trains by the task's loss alone"):
        hs.wrap(kinds.penalised(how), preprocess=P)


def test_weights_without_a_name(kinds: Any, data: Any, tmp_path: Path) -> None:
    """Keras numbers them anew in every copy; a saved run is found again, and so are cached features."""
    model = kinds.nameless()
    made = wrapped(model, head="rest", classes=None)
    assert [name for name in made.params if "variable" in name] == ["trunk.2.variable", "trunk.3.variable"]
    run = fit(made, data, tmp_path, epochs=1)
    other = wrapped(model, head="rest", classes=None)
    assert other.params.keys() == made.params.keys()
    assert key(other).digest == key(made).digest
    np.testing.assert_array_equal(
        hs.load(run.save(tmp_path / "run"), model=other).predict(data[1]), run.predict(data[1])
    )


def test_statistics_stay_wherever_they_are(kinds: Any, data: Any, tmp_path: Path) -> None:
    made = wrapped(kinds.norms(), cut="cut", head="rest", classes=None)
    assert len([name for name in made.params if "moving" in name]) == 10
    for mode, moves in (("cached", False), ("scratch", True)):
        run = fit(made, data, tmp_path, mode=mode, epochs=1)
        for name, value in run.model.params.items():
            if "moving" in name:
                started = made.params[name] if mode != "scratch" else np.full_like(value, "variance" in name)
                assert np.array_equal(value, started) != moves, (mode, name)


def test_which_of_its_layers_a_model_has_twice_is_in_the_key(kinds: Any) -> None:
    """A layer's weights are in the key once, however often it is called."""
    digests = [key(wrapped(kinds.repeating(again), cut="its end")).digest for again in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
