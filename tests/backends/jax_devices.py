"""A child process in which JAX has four devices, all of them the CPU: the default one, one that is the host's, and
two that are called "cuda". It prints what lay on which, as JSON.

    python tests/backends/jax_devices.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}

import jax
import numpy as np

import headstart as hs
from headstart.backends.doors import jax_devices
from headstart.contract import registry
from headstart.contract.heads import HeadsRecipe, chain_of
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import SGD
from headstart.contract.recipe import Place, Recipe
from headstart.testing.reference import random_params
from headstart.testing.samples import Builder, of_shape, small_data, tiny_model, two_layers

default, host, first, second = jax.devices()
jax_devices.devices_of = lambda kind: {"cpu": [host], "cuda": [first, second]}.get(kind, [])
framework = registry.load("jax")
b = Builder()
x = b.add("relu", "relu", b.add("norm", "batch_norm", b.conv("conv", "input", 3, 8, 1), channels=8))
x = b.linear("qkv", b.add("tokens", "tokens", b.conv("conv2", x, 8, 8, 3, 2, 1)), 8, 24)
x = b.add("mean", "mean_tokens", b.add("attention", "attention", x, heads=2))
graph = of_shape(b.graph(b.linear("out", b.add("dropout", "dropout", x, rate=0.5), 8, 5)), (6, 5, 3))
params = random_params(graph, 0)
rng = np.random.default_rng(0)
images = rng.standard_normal((4, 6, 5, 3)).astype(np.float32)
labels = np.arange(4) % 5
order = np.arange(4).reshape(2, 2)
rates = np.full(2, 0.01, np.float32)
report: dict[str, Any] = {}


def seen(what: str, action: Callable[[], Any]) -> Any:
    """What the action returns; on which devices arrays lay when it was done is reported."""
    result = action()
    lying = {str(device.id) for array in jax.live_arrays() for device in array.devices()}
    report[what] = sorted(set(report.get(what, [])) | lying)
    return result


def texts(trunk: Any, trainer: Any) -> list[str]:
    """The programs of a trunk and of a step."""
    step = (trainer.carry, images, (labels.astype(np.int32), None), np.float32(0.1))
    return [trunk._inner._run.lower(trunk.state, images).as_text(), trainer._step.lower(*step).as_text()]


def precisions(place: Place) -> list[str]:
    """How finely products and convolutions are computed."""
    trunk = framework.trunk(graph, params, ["out"], place)
    trunk.run(images)  # where a CPU has no attention of cuDNN's, its program is another one now
    trainer = framework.trainer(graph, params, Recipe(SGD(), Softmax(), True, 0), place)
    kinds = ("dot_general", "stablehlo.convolution", "stablehlo.dot")
    lines = [line for text in texts(trunk, trainer) for line in text.splitlines() if any(k in line for k in kinds)]
    assert len(lines) > 10
    return sorted({name for line in lines for name in ("HIGHEST", "HIGH>", "DEFAULT") if name in line or None})


def everything(place: Place) -> dict[str, Any]:
    """All that a backend does, at a place."""
    name = place.device
    trunk = seen(name, lambda: framework.trunk(graph, params, ["attention", "out"], place))
    out = seen(name, lambda: framework.numpy(trunk.run(images)["out"]))
    trainer = seen(
        name, lambda: framework.trainer(graph, params, Recipe(SGD(0.1, 0.9), Softmax(), True, 0), place)
    )
    losses = [seen(name, lambda: trainer.step(images, labels, 0.1))[0].tolist()]
    rows = seen(name, lambda: trainer.put(images))
    losses += seen(name, lambda: trainer.epoch(rows, labels, order, rates))[0].tolist()
    losses += seen(name, lambda: trainer.epoch(rows, labels, None, rates))[0].tolist()
    logits = seen(name, lambda: trainer.logits(rows, 0, 4))
    trained = seen(name, lambda: trainer.params())
    wide = two_layers(["relu"])
    start = {key: np.stack([value, value]) for key, value in random_params(wide, 0).items()}
    recipe = HeadsRecipe(SGD(0.1, 0.9), np.full(2, 0.1, np.float32), np.zeros(2, np.float32), Softmax())
    heads = seen(name, lambda: framework.heads(chain_of(wide), start, recipe, place))
    (features,) = ({"features": node.attrs["shape"]} for node in wide.nodes if node.op == "input")
    x = rng.standard_normal((4, *features["features"])).astype(np.float32)
    seen(name, lambda: heads.epoch(heads.put(x), labels % 4, order, rates))
    places = {
        what: sorted({str(device.id) for leaf in jax.tree.leaves(tree) for device in leaf.devices()})
        for what, tree in (("trunk", trunk.state), ("trainer", trainer.carry), ("heads", heads.carry))
    }
    return {
        "places": places,
        "out": out.tolist(),
        "losses": losses,
        "logits": logits.tolist(),
        "trained": float(sum(np.abs(value).sum() for value in trained.values())),
    }


def programs() -> list[str]:
    """The files in the folder that JAX keeps what it has compiled in, if it does."""
    kept = jax.config.jax_compilation_cache_dir
    return sorted(path.name for path in Path(kept).iterdir()) if kept else []


jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
framework.place("cpu", "float32")
report["programs of the cpu"] = jax.config.jax_compilation_cache_dir
results = {name: everything(Place(name, "float32")) for name in ("cpu", "cuda:1")}
native = seen("native", lambda: framework.native(graph, params))
report["native runs on"] = sorted(str(device.id) for device in native(images).devices())
called = seen("native", lambda: framework.call(native, images))
data = small_data(40)
model = tiny_model()
common = {"backend": "jax", "device": "cuda:1", "cache": sys.argv[1], "epochs": 1, "batch_size": 16}
for mode in ("cached", "frozen"):
    run = seen(f"fit {mode}", lambda mode=mode: hs.fit(model, *data, mode=mode, **common))
report |= {
    "results": results,
    "called": called.tolist(),
    "default": str(default.id),
    "host": str(host.id),
    "decided": framework.place("auto", "float32").device,
    "programs": [jax.config.jax_compilation_cache_dir, programs()],
    "precisions": {
        f"{device} {precision}": precisions(Place(device, precision))
        for device in ("cpu", "cuda")
        for precision in ("float32", "tf32", "bfloat16")
    },
}
print(json.dumps(report))
