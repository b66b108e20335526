"""The steps of `first_gpu.py`, each in a process of its own: `first_gpu_steps.py NAME ARGUMENTS`, the arguments as
JSON. Prints a JSON object a line for everything that it finds; the backend and Keras's engine are told by
HEADSTART_BACKEND and KERAS_BACKEND.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from checkout import ROOT, importable

importable()

import headstart as hs  # noqa: E402
from headstart.common.errors import HeadstartError, SettingError  # noqa: E402
from headstart.contract import registry  # noqa: E402
from headstart.contract.heads import HeadsRecipe, chain_of  # noqa: E402
from headstart.contract.losses import Softmax  # noqa: E402
from headstart.contract.optimizers import AdamW  # noqa: E402
from headstart.contract.recipe import Recipe  # noqa: E402
from headstart.features.inference import pixel_trunk  # noqa: E402
from headstart.graph import Graph, Node  # noqa: E402

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
COLUMNS, CLASSES, HEADS = 2048, 10, 64
ARGUMENTS = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
SMALL = ARGUMENTS.get("small", True)
"""whether this only shows that the steps run"""


def say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


def backend() -> Any:
    return registry.load(os.environ[registry.VARIABLE])


def seconds_of(call: Callable[[], Any], at_least: float = 1.0, warm: int = 3) -> float:
    """The median of a call's time, which ends when its work has ended."""
    if SMALL:
        at_least, warm = 0.0, 1
    for _ in range(warm):
        call()
    taken: list[float] = []
    while sum(taken) < at_least or len(taken) < 5:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


# ---- the card


def ceilings(small: bool) -> None:
    """What the card gives to plain copies and products of matrices, by torch, else by JAX."""
    try:
        import torch
    except ImportError:
        _ceilings_of_jax(small)
        return
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    wait = torch.cuda.synchronize if cuda else lambda: None
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        say(
            card=properties.name,
            gigabytes=properties.total_memory / 1e9,
            multiprocessors=properties.multi_processor_count,
            torch=torch.__version__,
            cudnn=torch.backends.cudnn.version(),
        )
    count = 10**7 if small else 10**9
    a, b = (
        torch.ones(count, dtype=torch.float16, device=device),
        torch.empty(count, dtype=torch.float16, device=device),
    )
    taken = seconds_of(lambda: (b.copy_(a), wait()))
    say(what="copy on the device", terabytes_a_second=2 * 2 * count / taken / 1e12)
    if cuda:
        host = torch.ones(count // 2, dtype=torch.uint8)
        for name, source in (("pageable", host), ("pinned", host.pin_memory())):
            target = torch.empty_like(source, device=device)
            taken = seconds_of(lambda source=source, target=target: (target.copy_(source), wait()))
            say(what=f"host to device, {name}", gigabytes_a_second=len(source) / taken / 1e9)
            taken = seconds_of(lambda source=source, target=target: (source.copy_(target), wait()))
            say(what=f"device to host, {name}", gigabytes_a_second=len(source) / taken / 1e9)
    a = b = torch.empty(0)  # their memory goes back
    side = 1024 if small else 8192
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
    ):
        if small and dtype == torch.float16:
            continue  # no CPU's kind of number
        torch.backends.cuda.matmul.allow_tf32 = tf32
        x, y = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        taken = seconds_of(lambda x=x, y=y: (x @ y, wait()))
        say(what=f"products of {side} squared, {name}", teraflops=2 * side**3 / taken / 1e12)


def _ceilings_of_jax(small: bool) -> None:
    import jax
    import jax.numpy as jnp

    say(card=jax.devices()[0].device_kind, jax=jax.__version__)
    side = 1024 if small else 8192
    for name in ("float32", "bfloat16"):
        x = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(name))
        multiply = jax.jit(jnp.matmul)
        taken = seconds_of(lambda x=x, multiply=multiply: multiply(x, x).block_until_ready())
        say(what=f"products of {side} squared, {name}", teraflops=2 * side**3 / taken / 1e12)


# ---- right


def conformance(small: bool) -> None:
    """The conformance suite, with its place on the card."""
    _pytest("tests/contract/test_backends.py", env={} if small else {"HEADSTART_TEST_DEVICE": "cuda"})


def suite(small: bool, paths: str = "tests", workers: int = 4, words: str = "") -> None:
    """The project's tests, whose `device` is "auto": what they train is trained on the card."""
    options = ["-n", str(workers), "-p", "no:benchmark"] if workers else []
    _pytest(*paths.split(), *options, *(["-k", words] if words else []))


def _pytest(*arguments: str, env: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rfE", "--tb=short", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = done.stdout.splitlines()
    if out := os.environ.get("FIRST_GPU_LOGS"):
        name = "-".join(filter(None, (os.environ.get(registry.VARIABLE), os.environ.get("KERAS_BACKEND"))))
        (Path(out) / f"{Path(arguments[0].split()[0]).stem}-{name}.log").write_text(done.stdout[-2_000_000:])
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            say(test=line[:300])
    say(
        summary=next(
            (line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), lines[-3:]
        )
    )


def features(small: bool) -> None:
    """Features on the card beside those of the CPU in float32, by the same backend."""
    framework = backend()
    models = ("resnet18_half",) if small else ("resnet50", "mobilenet_v2", "vit_b_16", "convnext_tiny")
    for name in models:
        model = hs.model(name, classes=CLASSES)
        cut = model.default_cut
        rng = np.random.default_rng(0)
        height, width = model.input_shape[:2]
        images = rng.integers(0, 256, (8, height, width, 3), np.uint8)
        exact = _features(framework, model, cut, framework.place("cpu", "float32"), images)
        for precision in PRECISIONS:
            try:
                place = framework.place("auto", precision)
                rows = _features(framework, model, cut, place, images)
            except HeadstartError as error:
                say(model=name, precision=precision, refused=str(error)[:200])
                continue
            except Exception as error:
                say(model=name, precision=precision, raised=f"{type(error).__name__}: {error}"[:600])
                continue
            flat, true = (
                rows.reshape(len(rows), -1).astype(np.float64),
                exact.reshape(len(exact), -1).astype(np.float64),
            )
            cosines = (flat * true).sum(1) / np.linalg.norm(flat, axis=1) / np.linalg.norm(true, axis=1)
            say(
                model=name,
                precision=precision,
                device=place.device,
                relative=float(np.linalg.norm(flat - true) / np.linalg.norm(true)),
                largest=float(np.abs(flat - true).max() / np.abs(true).max()),
                cosine=float(cosines.min()),
                same_again=bool((_features(framework, model, cut, place, images) == rows).all()),
            )


def _features(framework: Any, model: Any, cut: str, place: Any, images: np.ndarray) -> np.ndarray:
    return np.asarray(framework.numpy(pixel_trunk(model, [cut], framework, place).run(images)[cut]))


def repeats(small: bool) -> None:
    """The same seed twice, in every mode: the parameters' digests, which another process prints as well."""
    from headstart.testing.samples import small_data, small_model

    train, val = small_data()
    for mode in ("scratch", "full", "frozen", "cached"):
        digests = []
        for _ in range(2):
            with tempfile.TemporaryDirectory() as cache:
                run = hs.fit(small_model(), train, val, mode=mode, epochs=2, batch_size=32, cache=cache)
            params = run.model.params
            joined = b"".join(np.ascontiguousarray(params[name]).tobytes() for name in sorted(params))
            digests.append(hashlib.sha256(joined).hexdigest()[:12])
        say(mode=mode, same=digests[0] == digests[1], digests=digests)


def memory(small: bool) -> None:
    """What the backend takes of the card: told to compute on the CPU, then on the card."""
    used = _used_memory()
    before = used()
    framework = backend()
    model = hs.model("resnet18_half", classes=CLASSES, size=64)
    cut = model.default_cut
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    exact = _features(framework, model, cut, framework.place("cpu", "float32"), images)
    framework.call(framework.native(model.graph, model.params), images.astype(np.float32) / 255)
    say(what="device='cpu', a trunk and a native model", megabytes=(used() - before) / 1e6)
    place = framework.place("auto", "float32")
    trunk = pixel_trunk(model, [cut], framework, place)
    rows = framework.numpy(trunk.run(images)[cut])
    say(what=f"on {place.device}", megabytes=(used() - before) / 1e6, left=framework.memory(place))
    say(
        what="the CPU's features and the device's", largest=float(np.abs(rows - exact).max() / np.abs(exact).max())
    )


def _used_memory() -> Callable[[], float]:
    try:
        import pynvml

        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:
        return lambda: 0.0
    return lambda: float(pynvml.nvmlDeviceGetMemoryInfo(card).used)


# ---- fast


def throughput(small: bool, model: str, quick: bool = False) -> None:
    """Images a second from uint8 images in memory to features in memory, ours and as the framework's users write
    it."""
    framework = backend()
    ready = hs.model("resnet18_half" if small else model, classes=CLASSES)
    cut = ready.default_cut
    height, width = ready.input_shape[:2]
    rng = np.random.default_rng(0)
    sizes = (8,) if small else (64, 256, 1024)
    images = rng.integers(0, 256, (max(sizes), height, width, 3), np.uint8)
    for precision in ("bfloat16", "float32") if quick else PRECISIONS:
        try:
            trunk = pixel_trunk(ready, [cut], framework, framework.place("auto", precision))
        except Exception as error:
            say(precision=precision, refused=f"{type(error).__name__}: {error}"[:300])
            continue
        for size in sizes if precision in ("bfloat16", "float16") else sizes[:2]:
            batch = images[:size]
            try:
                start = time.perf_counter()
                framework.numpy(trunk.run(batch)[cut])
                first = time.perf_counter() - start
                taken = seconds_of(lambda batch=batch, trunk=trunk: framework.numpy(trunk.run(batch)[cut]))
                say(precision=precision, batch=size, way="run", images_a_second=size / taken, first_seconds=first)
                if hasattr(trunk, "stream"):
                    say(precision=precision, batch=size, way="stream", **_streamed(trunk, cut, batch))
            except Exception as error:
                say(precision=precision, batch=size, raised=f"{type(error).__name__}: {error}"[:600])
                break
        del trunk
    if quick:
        return
    for way, call in _peers(framework, ready, cut, images[: sizes[min(1, len(sizes) - 1)]]):
        size = sizes[min(1, len(sizes) - 1)]
        try:
            say(way=way, batch=size, images_a_second=size / seconds_of(call))
        except Exception as error:
            say(way=way, raised=f"{type(error).__name__}: {error}"[:600])


def _streamed(trunk: Any, cut: str, batch: np.ndarray) -> dict[str, float]:
    """A stream's rate, from the arrival of its third batch to that of its last."""
    count = 40
    arrivals = [
        time.perf_counter() for _ in trunk.stream((batch for _ in range(count)), {cut: np.dtype(np.float16)})
    ]
    return {"images_a_second": len(batch) * (count - 3) / (arrivals[-1] - arrivals[2])}


def _peers(framework: Any, model: Any, cut: str, images: np.ndarray) -> Iterator[tuple[str, Callable[[], Any]]]:
    graph = model.graph.upto(cut)
    native = framework.native(graph, {name: model.params[name] for name in graph.param_shapes()})
    scale, shift = model.preprocess.affine()
    pixels = (images * scale + shift).astype(np.float32)
    if framework.name == "torch":
        yield from _torch_peers(native, pixels)
    elif framework.name == "jax":
        yield from _jax_peers(native, pixels)
    else:
        yield "keras predict, float32", lambda: native.predict(pixels, batch_size=len(pixels), verbose=0)


def _torch_peers(native: Any, pixels: np.ndarray) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is on the device before the clock starts: the bus is not in these figures."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    network = native.to(device).to(memory_format=torch.channels_last)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)

    def run(module: Any, inputs: Any, autocast: bool) -> Callable[[], Any]:
        def call() -> None:
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=autocast):
                module(inputs)
            wait()

        return call

    yield "eager, float32, channels last, on the device", run(network, x, False)
    yield "eager, autocast bfloat16, channels last, on the device", run(network, x, True)
    low, small = network.to(torch.bfloat16), x.to(torch.bfloat16)
    yield "eager, bfloat16, channels last, on the device", run(low, small, False)
    yield "torch.compile, bfloat16, channels last, on the device", run(torch.compile(low), small, False)
    if not SMALL:
        tuned = torch.compile(low, mode="max-autotune")
        yield "torch.compile max-autotune, bfloat16, channels last, on the device", run(tuned, small, False)


def _jax_peers(native: Any, pixels: np.ndarray) -> Iterator[tuple[str, Callable[[], Any]]]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    for _, layer in nnx.iter_modules(native):
        if isinstance(layer, nnx.Conv):
            layer.__class__ = nnx.Conv  # as users write it: 1x1 ones may have another way of computing here
    graphdef, state = nnx.split(native)
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    for name in ("float32", "bfloat16"):
        values = jax.device_put(jax.tree.map(lambda v, name=name: v.astype(name), state), jax.devices()[0])
        x = jax.device_put(jnp.asarray(pixels, name), jax.devices()[0])
        yield (
            f"jitted nnx, {name}, on the device",
            lambda values=values, x=x: jax.block_until_ready(run(values, x)),
        )


def heads(small: bool) -> None:
    """A step of a linear head, and of 64, on features that lie on the device."""
    framework = backend()
    place = framework.place("auto", "float32")
    samples = 4096 if small else 131_072
    nodes = (
        Node("x", "input", (), {"shape": (COLUMNS,)}),
        Node("fc", "linear", ("x",), {"in_features": COLUMNS, "out_features": CLASSES}),
    )
    graph = Graph(nodes, "fc")
    rng = np.random.default_rng(0)
    params = {
        "fc.weight": rng.normal(0, 0.01, (CLASSES, COLUMNS)).astype(np.float32),
        "fc.bias": np.zeros(CLASSES, np.float32),
    }
    rows = rng.standard_normal((samples, COLUMNS), np.float32).astype(np.float16)
    labels = rng.integers(0, CLASSES, samples)
    chain = chain_of(graph)
    assert chain is not None
    for count in (1, HEADS):
        for size in (256, 1024) if small else (256, 4096, 16_384):
            if count == 1:
                trainer = framework.trainer(graph, params, Recipe(AdamW(lr=1e-3), Softmax(), False, 0), place)
            else:
                stacked = {key: np.repeat(value[None], HEADS, 0) for key, value in params.items()}
                recipe = HeadsRecipe(
                    AdamW(), np.full(HEADS, 1e-3, np.float32), np.full(HEADS, 0.01, np.float32), Softmax()
                )
                trainer = framework.heads(chain, stacked, recipe, place)
                if trainer is None:
                    say(heads=count, refused=f"{os.environ[registry.VARIABLE]} trains one head at a time here")
                    break
            resident = trainer.put(rows)
            order = rng.permutation(samples)[: samples // size * size].reshape(-1, size)
            rates = np.full(len(order), 1e-3 if count == 1 else 1.0, np.float32)
            try:
                taken = seconds_of(
                    lambda trainer=trainer, resident=resident, order=order, rates=rates: trainer.epoch(
                        resident, labels, order, rates
                    )
                )
            except Exception as error:
                say(heads=count, batch=size, raised=f"{type(error).__name__}: {error}"[:600])
                continue
            step = taken / len(order)
            say(
                heads=count,
                batch=size,
                device=place.device,
                microseconds_a_step=step * 1e6,
                gigabytes_a_second=size * COLUMNS * 2 / step / 1e9,
            )


def photographs(small: bool) -> None:
    """JPEG files: decoding alone, by libjpeg and by the GPU, by the number of threads; and whole extractions."""
    from photographs import make_photographs

    from headstart.data.loader import batches

    with tempfile.TemporaryDirectory() as folder:
        root = make_photographs(Path(folder) / "photographs")
        if not small:
            _multiply(root, 20)
        data = hs.data.folder(root)
        model = hs.model("resnet18_half" if small else "resnet50", classes=CLASSES)
        ways = {"exact": model}
        try:
            ways["gpu"] = replace(model, preprocess=replace(model.preprocess, decode="gpu"))
            next(batches(data, ways["gpu"].preprocess, [0], 1))
        except SettingError as error:
            del ways["gpu"]
            say(what="decoding", by="gpu", failed=str(error))
        for by, workers in itertools.product(ways, (1, 4, 8, 16, None)):
            if workers is not None and workers > 2 * (os.cpu_count() or 1):
                continue
            order = np.arange(min(len(data), 4200 if workers != 1 else 420))
            start = time.perf_counter()
            count = sum(len(batch.ids) for batch in batches(data, ways[by].preprocess, order, 64, workers=workers))
            say(what="decoding", by=by, workers=workers, images_a_second=count / (time.perf_counter() - start))
        if "gpu" in ways:
            pixels = [
                next(batches(data, way.preprocess, range(64), 64)).images.astype(int) for way in ways.values()
            ]
            apart = np.abs(pixels[0] - pixels[1])
            say(what="pixels by the GPU", apart_mean=float(apart.mean()), apart_most=int(apart.max()))
            with tempfile.TemporaryDirectory() as cache:
                start = time.perf_counter()
                hs.extract(ways["gpu"], data, precision="bfloat16", cache=cache)
                taken = time.perf_counter() - start
            say(what="extract", by="gpu", precision="bfloat16", images_a_second=len(data) / taken)
        for cut in (model.default_cut, "layer3"):
            for precision in ("float32", "bfloat16"):
                with tempfile.TemporaryDirectory() as cache:
                    start = time.perf_counter()
                    hs.extract(model, data, cut, precision=precision, cache=cache)
                    taken = time.perf_counter() - start
                say(what="extract", cut=cut, precision=precision, images_a_second=len(data) / taken)


def _multiply(root: Path, times: int) -> None:
    """Files that differ by a comment in the JPEG's head."""
    for path in sorted(root.rglob("*.jpg")):
        content = path.read_bytes()
        for k in range(1, times):
            text = f"copy {k}".encode()
            comment = b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
            path.with_name(f"{path.stem}_{k:02}.jpg").write_bytes(content[:2] + comment + content[2:])


if __name__ == "__main__":
    globals()[sys.argv[1]](**ARGUMENTS)
