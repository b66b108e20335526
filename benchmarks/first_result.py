"""From nothing to a saved run, as whole processes: `headstart fit` with an empty cache and with a full one, beside
what people write today: features in memory, then scikit-learn's LogisticRegression.

    python benchmarks/first_result.py BACKEND PHOTOGRAPHS WEIGHTS

PHOTOGRAPHS: a folder a class. WEIGHTS: timm's tf_efficientnet_lite0 as safetensors. It prints processor seconds
(user and system, of child processes too) and wall seconds of each process, of short ones the median of three; the
import of the framework is the floor of any. Python keeps bytecode, as of what pip has installed: an environment
that has it keep none, as many of containers do, has headstart's sources compiled at each start.

The plain scripts: timm and torchvision's ImageFolder behind a DataLoader; keras.applications and
image_dataset_from_directory, where there is no Lite0, so that it is EfficientNetB0 (390 million multiplications
against its 385, squeezes and excitations more) with weights drawn at random, which tell nothing of accuracy. For
JAX there is no fair one: Flax has no pretrained networks, and who uses it takes the features from timm, as torch's
script does.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MODEL, SIZE, BATCH, TIMES = "efficientnet_lite0", 224, 64, 3
IMPORTS = {"torch": "torch", "keras": "keras", "jax": "jax, flax.nnx, optax"}
PLAIN = {"torch": "torch", "keras": "keras", "jax": "torch"}


def torch_features(photographs: str, weights: str) -> tuple[np.ndarray, np.ndarray]:
    import timm
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    model = timm.create_model("tf_efficientnet_lite0", checkpoint_path=weights).eval()
    model.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    loader = DataLoader(ImageFolder(photographs, transform), BATCH, num_workers=len(os.sched_getaffinity(0)) - 1)
    with torch.inference_mode():
        parts = [(model(images).numpy(), labels.numpy()) for images, labels in loader]
    features, labels = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def keras_features(photographs: str, weights: str) -> tuple[np.ndarray, np.ndarray]:
    import keras

    data = keras.utils.image_dataset_from_directory(
        photographs, image_size=(SIZE, SIZE), batch_size=BATCH, shuffle=False
    )
    model = keras.applications.EfficientNetB0(weights=None, include_top=False, pooling="avg")
    labels = np.concatenate([labels for _, labels in data.as_numpy_iterator()])
    return model.predict(data.map(lambda images, _: images), verbose=0), labels


def plain(name: str, photographs: str, weights: str, out: str) -> None:
    """The script: prints the accuracy, and writes the classifier."""
    import joblib
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    x, y = {"torch": torch_features, "keras": keras_features}[name](photographs, weights)
    train, val, known, expected = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    classifier = LogisticRegression(max_iter=1000).fit(train, known)
    print(f"accuracy {classifier.score(val, expected):.1%}")
    joblib.dump(classifier, Path(out, "classifier.joblib"))


def parts(command: list[str], **variables: str) -> tuple[float, float, float]:
    """Seconds of the processor, user and system, and of the wall."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**kept, **variables})
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{' '.join(command)} ended with {done.returncode}")
    return after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, wall


def seconds(command: list[str], **variables: str) -> tuple[float, float]:
    """Of the processor and of the wall."""
    user, system, wall = parts(command, **variables)
    return user + system, wall


def main(backend: str, photographs: str, weights: str) -> None:
    with tempfile.TemporaryDirectory() as folder:

        def ours(cache: str) -> tuple[float, float]:
            options = ["--data", photographs, "--model", MODEL, "--weights", weights, "--out", f"{folder}/run"]
            command = [sys.executable, "-m", "headstart", "fit", *options]
            return seconds(command, **bytecode, HEADSTART_BACKEND=backend, HEADSTART_CACHE=f"{folder}/{cache}")

        def script() -> tuple[float, float]:
            command = [sys.executable, __file__, "plain", PLAIN[backend], photographs, weights, folder]
            return seconds(command, **bytecode)

        bytecode = {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
        imports = [sys.executable, "-c", f"import {IMPORTS[backend]}"]
        seconds(imports, **bytecode)
        show(backend, "import", [seconds(imports, **bytecode) for _ in range(TIMES)])
        show(backend, f"plain script ({PLAIN[backend]})", [script()])
        show(backend, "headstart fit, cold", [ours("cache")])
        show(backend, "headstart fit, warm", [ours("cache") for _ in range(TIMES)])


def show(backend: str, what: str, figures: list[tuple[float, float]]) -> None:
    cpu, wall = np.median(figures, 0)
    print(f"{backend:6} {what:24} {cpu:6.2f} s of CPU {wall:6.2f} s of wall", flush=True)


if __name__ == "__main__":
    plain(*sys.argv[2:]) if sys.argv[1] == "plain" else main(*sys.argv[1:])
