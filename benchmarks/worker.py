"""One framework in one process: `worker.py BACKEND CACHE` reads a request a line and answers a line, both JSON.

{"do": "prepare", "cut": CUT, ...}   fill the cache, build trunk, trainers and feeds; facts about the setting. What
                                     else may be said is what `Setting` takes
{"do": "epoch", "kind": KIND}        one epoch of training, "uncached" or "cached"; its losses
{"do": "first", "kind": KIND, "steps": N}   the losses of a first epoch's first steps, null for all, from a fresh
                                     start; also "rounded": uncached, on features rounded as the store keeps them
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from children import facts_of, serve

import headstart as hs
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Recipe
from headstart.contract.running import Trunk
from headstart.data.order import epoch_order
from headstart.features.inference import pixel_trunk
from headstart.training.feature_feeds import Resident
from headstart.training.image_feed import Images

TIMED = ("uncached", "cached")


class AsStored:
    """A trunk whose features have the store's numbers."""

    def __init__(self, trunk: Trunk, dtype: np.dtype[Any], numpy: Callable[[Any], np.ndarray]) -> None:
        self.trunk, self.dtype, self.numpy = trunk, dtype, numpy

    def run(self, images: Any) -> dict[str, np.ndarray]:
        rows = {cut: self.numpy(features) for cut, features in self.trunk.run(images).items()}
        return {cut: of_cut.astype(self.dtype).astype(np.float32) for cut, of_cut in rows.items()}


class Setting:
    """A head at a cut, fed with images and with features: of the digits, or of `images` photographs in a folder a
    class."""

    def __init__(
        self,
        name: str,
        cache: str,
        cut: str,
        model: str = "resnet18_half",
        weights: str | None = "tinyimagenet",
        photographs: str | None = None,
        images: int | None = None,
        batch: int = 64,
    ) -> None:
        self.backend = registry.load(name)
        self.place = self.backend.place("auto", "float32")
        data = hs.data.folder(photographs) if photographs else hs.data.digits()
        self.batch = batch
        self.model = hs.model(model, weights=weights, classes=data.classes)
        self.cut = self.model.graph.check_cut(cut)
        self.train = data.split(images / len(data) if images else 0.8, seed=0, by="position")[0]
        self.features = hs.extract(self.model, self.train, self.cut, backend=name, batch_size=batch, cache=cache)
        trunk = pixel_trunk(self.model, [self.cut], self.backend, self.place)
        rounded = AsStored(trunk, self.features.folder().dtype, self.backend.numpy)
        self.feeds = {
            "uncached": self.images(trunk),
            "rounded": self.images(rounded),
            "cached": Resident(self.features, self.features.cuts[0]),
        }
        self.trainers = {kind: self.fresh() for kind in TIMED}
        self.epochs = dict.fromkeys(TIMED, 0)

    def images(self, trunk: Any) -> Images:
        return Images(
            self.train, self.model.preprocess, self.batch, trunk, self.cut, augment=None, seed=0, workers=None
        )

    def fresh(self) -> Any:
        graph = self.model.graph.after(self.cut, self.model.input_shape)
        params = {name: self.model.params[name] for name in graph.param_shapes()}
        return self.backend.trainer(graph, params, Recipe(hs.AdamW(0.001), Softmax(), False, 0), self.place)

    def epoch(self, kind: str, trainer: Any, epoch: int, steps: int | None = None) -> list[float]:
        order = epoch_order(len(self.train), self.batch, 0, epoch)[:steps]
        rates = hs.Schedule().rates(0.001, len(order))
        return self.feeds[kind].train(trainer, order, rates, epoch).losses.tolist()

    def next_epoch(self, kind: str) -> list[float]:
        losses = self.epoch(kind, self.trainers[kind], self.epochs[kind])
        self.epochs[kind] += 1
        return losses

    def facts(self) -> dict[str, Any]:
        macs = self.model.graph.macs(self.model.input_shape)
        before = set(self.model.graph.upto(self.cut).param_shapes())
        trunk = sum(n for node, n in macs.items() if f"{node}.weight" in before)
        head = sum(macs.values()) - trunk
        return facts_of(
            self.backend,
            self.place.device,
            data=self.train.name,
            images=len(self.train),
            model=self.model.name,
            cut=self.cut,
            batch=self.batch,
            fill_seconds=self.features.stats.seconds,
            trunk_multiply_adds=trunk,
            head_multiply_adds=head,
            # a training step runs the trunk forward, and the head forward and twice as much backward
            flops_ratio=(trunk + 3 * head) / (3 * head),
        )


class Worker:
    """Prepared for one setting after the other."""

    def __init__(self, name: str, cache: str) -> None:
        self.name, self.cache = name, cache

    def prepare(self, **setting: Any) -> dict[str, Any]:
        self.setting = Setting(self.name, self.cache, **setting)
        return self.setting.facts()

    def epoch(self, kind: str) -> list[float]:
        return self.setting.next_epoch(kind)

    def first(self, kind: str, steps: int | None) -> list[float]:
        return self.setting.epoch(kind, self.setting.fresh(), 0, steps)


if __name__ == "__main__":
    serve(lambda: Worker(*sys.argv[1:]))
