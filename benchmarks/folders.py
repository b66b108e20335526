"""Features of a folder of photographs, here and as the tutorials of frameworks read folders, in a process of its
own: `folders.py BACKEND PHOTOGRAPHS CACHE` reads a request a line and answers a line, both JSON.

{"do": "precisions"}                           what it is timed in: see `children.precisions_of`
{"do": "run", "which": NAME, "precision": NAME}   all photographs once; wall seconds and the process's own CPU
                                                  seconds, of what has no precision with ""
    "decode"     our loader alone, to the end
    "compute"    the trunk alone, on batches that are decoded already
    "extract"    both, with finding and hashing the files and writing the features, into a cache that is empty
    "peer"       the tutorial's loader and the framework's own module in float32
{"do": "facts", "precision": NAME}   the setting; and what holds of the results: see there

The trunk is built and compiled once, as the peer's module is: what is asked is how well things overlap. Before the
first request both have been through a few photographs, so that nothing is left to be compiled.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from children import facts_of, precisions_of, serve
from PIL import Image

import headstart as hs
from headstart.common.machine import cpus
from headstart.contract import registry
from headstart.contract.running import Trunk
from headstart.data.loader import batches
from headstart.features.extractor import Extractor

MODEL, CUT, BATCH, SIZE, RESIZE = "resnet18", "avgpool", 32, 224, 256

Peer = Callable[[], np.ndarray]
PeerOf = Callable[[str], Peer]
"""of a folder of photographs"""


class Setting:
    def __init__(self, name: str, photographs: str, cache: str) -> None:
        self.name, self.photographs, self.cache = name, photographs, Path(cache)
        self.backend = registry.load(name)
        data = hs.data.folder(photographs)
        self.model = hs.model(MODEL, classes=data.classes)
        self.trunks = {
            precision: self._extractor(precision).batch_features.trunk for precision in self.precisions()
        }
        self.runs = 0
        self.decoded = [batch.images for batch in self._loader(data)]
        affine = self.model.preprocess.affine()
        native = self.backend.native(self.model.graph.upto(CUT), self.model.params)
        peers = {"torch": torch_peer, "keras": keras_peer, "jax": jax_peer}
        peer_of: PeerOf = peers[name](native, affine)
        self.peer = peer_of(photographs)
        self.results: dict[tuple[str, str], np.ndarray] = {}
        few = self._few(len(data) % BATCH)
        for precision in self.precisions():
            self._extract(precision, few)
        peer_of(few)()

    def _few(self, rest: int) -> str:
        """A folder of a whole batch of the photographs and of as many as their last batch has."""
        files = sorted(path for path in Path(self.photographs).glob("*/*") if path.is_file())
        few = self.cache / "few"
        for path in files[:: max(1, len(files) // (BATCH + rest))][: BATCH + rest]:
            (few / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, few / path.parent.name)
        return str(few)

    def precisions(self) -> list[str]:
        return precisions_of(self.backend)

    def _extractor(self, precision: str) -> Extractor:
        return Extractor(
            self.model,
            [CUT],
            backend=self.name,
            device="auto",
            precision=precision,
            dtype="float32",
            batch_size=BATCH,
            workers=None,
            cache=os.environ.get("HEADSTART_CACHE"),
        )

    def _loader(self, data: Any) -> Iterator[Any]:
        return batches(data, self.model.preprocess, np.arange(len(data)), BATCH)

    def decode(self, precision: str) -> np.ndarray:
        return np.array([len(batch.ids) for batch in self._loader(hs.data.folder(self.photographs))])

    def compute(self, precision: str) -> np.ndarray:
        return np.concatenate([self._features(self.trunks[precision], images) for images in self.decoded])

    def _features(self, trunk: Trunk, images: np.ndarray) -> np.ndarray:
        full = np.concatenate([images, images[:1].repeat(BATCH - len(images), 0)])  # compiled for one size
        return self.backend.numpy(trunk.run(full)[CUT])[: len(images)]

    def extract(self, precision: str) -> np.ndarray:
        return self._extract(precision, self.photographs)

    def _extract(self, precision: str, photographs: str) -> np.ndarray:
        os.environ["HEADSTART_CACHE"] = str(self.cache / str(self.runs))  # the index of ids begins anew as well
        self.runs += 1
        extractor = self._extractor(precision)
        extractor.batch_features.trunk = self.trunks[precision]
        features = extractor(hs.data.folder(photographs))
        assert features.stats.extracted == len(set(features.ids))
        return features.numpy(CUT)

    def run(self, which: str, precision: str) -> dict[str, float]:
        action = self.peer if which == "peer" else partial(getattr(self, which), precision)
        wall, cpu = time.perf_counter(), time.process_time()
        self.results[which, precision] = action()
        return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}

    def facts(self, precision: str) -> dict[str, Any]:
        """`decoded`: images the loader gave; `alone`, `peers`: the least cosine of extracted features with those
        computed alone, and with the peer's; `shape`, also of the peer's features."""
        extracted, peers = self.results["extract", precision], self.results["peer", ""]
        return facts_of(
            self.backend,
            decoded=int(self.results["decode", ""].sum()),
            images=len(extracted),
            shape=[*extracted.shape],
            peers_shape=[*peers.shape],
            alone=cosine(extracted, self.results["compute", precision]),
            peers=cosine(extracted, peers),
            cores=cpus(),
        )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the least similar sample. Around the mean: features of untrained weights are much alike."""
    a, b = a - b.mean(0), b - b.mean(0)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


Affine = tuple[np.ndarray, np.ndarray]


def torch_peer(native: Any, affine: Affine) -> PeerOf:
    """https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html, whose four workers are as many
    as there are cores where there are fewer, with its transforms for evaluation, in larger batches."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    transform = transforms.Compose(
        [
            transforms.Resize(RESIZE),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    native = native.to(device, memory_format=torch.contiguous_format).eval()

    def of(photographs: str) -> Peer:
        images = datasets.ImageFolder(photographs, transform)
        loader = DataLoader(images, batch_size=BATCH, shuffle=False, num_workers=min(4, cpus()))

        def run() -> np.ndarray:
            with torch.no_grad():
                return np.concatenate([native(inputs.to(device)).cpu().numpy() for inputs, _ in loader])

        return run

    return of


def keras_peer(native: Any, affine: Affine) -> PeerOf:
    """https://keras.io/guides/transfer_learning, with `image_dataset_from_directory` as in
    https://keras.io/examples/vision/image_classification_from_scratch: stretched to the square, not cropped."""
    import keras
    import tensorflow as tf

    scale, shift = affine

    def of(photographs: str) -> Peer:
        data = keras.utils.image_dataset_from_directory(
            photographs, image_size=(SIZE, SIZE), batch_size=BATCH, shuffle=False, verbose=False
        )
        ready = data.map(lambda images, labels: images * scale + shift, num_parallel_calls=tf.data.AUTOTUNE)
        ready = ready.prefetch(tf.data.AUTOTUNE)
        return lambda: native.predict(ready, verbose=0)

    return of


def jax_peer(native: Any, affine: Affine) -> PeerOf:
    """JAX reads no images, and has no tutorial that does: Pillow in a plain loop, then a jitted module."""
    import jax.numpy as jnp
    from flax import nnx

    jitted = nnx.jit(lambda module, images: module(images))
    scale, shift = affine

    def read(path: Path) -> np.ndarray:
        image = Image.open(path).convert("RGB")
        width, height = image.size
        short = min(width, height)
        image = image.resize((RESIZE * width // short, RESIZE * height // short), Image.Resampling.BILINEAR)
        left, top = round((image.width - SIZE) / 2), round((image.height - SIZE) / 2)
        return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))

    def of(photographs: str) -> Peer:
        paths = sorted(path for path in Path(photographs).glob("*/*") if path.is_file())

        def run() -> np.ndarray:
            parts = []
            for start in range(0, len(paths), BATCH):
                images = np.stack([read(path) for path in paths[start : start + BATCH]])
                parts.append(np.asarray(jitted(native, jnp.asarray(images * scale + shift))))
            return np.concatenate(parts)

        return run

    return of


if __name__ == "__main__":
    serve(lambda: Setting(*sys.argv[1:]))
