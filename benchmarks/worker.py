"""One framework in one process: `worker.py BACKEND CACHE` reads a request a line and answers a line, both JSON.

{"do": "prepare", "cut": CUT, "cuts": [CUT, ...], ...}   fill the cache at all cuts, unless the request before had
                                     the same; build trunk, trainers and feeds for one of them; facts about the
                                     setting. What else may be said is what `Extracted` takes
{"do": "first", "steps": N}          once, before the first epoch: its losses, "cached" of all of it, "uncached" of
                                     so many steps, null for all, and "rounded" of as many, on the uncached
                                     features rounded as the store keeps them. After it nothing is left to be
                                     compiled
{"do": "epoch", "kind": KIND}        one epoch of training, "uncached" or "cached"; its losses
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
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
RATE = 0.001


class Noted:
    """A trunk whose features are noted as the store keeps them, in its type of numbers."""

    def __init__(self, trunk: Trunk, dtype: np.dtype[Any], numpy: Callable[[Any], np.ndarray]) -> None:
        self.trunk, self.dtype, self.numpy = trunk, dtype, numpy
        self.rows: list[np.ndarray] = []
        """of each batch"""

    def run(self, images: Any) -> Any:
        outputs = self.trunk.run(images)
        (features,) = outputs.values()
        self.rows.append(self.numpy(features).astype(self.dtype))
        return outputs


class Extracted:
    """The digits, or `images` photographs in a folder a class, and their features at all cuts, by one pass."""

    def __init__(
        self,
        name: str,
        cache: str,
        cuts: Sequence[str],
        model: str = "resnet18_half",
        weights: str | None = "tinyimagenet",
        photographs: str | None = None,
        images: int | None = None,
        batch: int = 64,
    ) -> None:
        data = hs.data.folder(photographs) if photographs else hs.data.digits()
        self.batch = batch
        self.model = hs.model(model, weights=weights, classes=data.classes)
        self.train = data.split(images / len(data) if images else 0.8, seed=0, by="position")[0]
        cuts = [self.model.graph.check_cut(cut) for cut in cuts]
        self.features = hs.extract(self.model, self.train, cuts, backend=name, batch_size=batch, cache=cache)


class Setting:
    """A head at a cut, fed with images and with features."""

    def __init__(self, name: str, extracted: Extracted, cut: str) -> None:
        self.backend = registry.load(name)
        self.place = self.backend.place("auto", "float32")
        self.model, self.train, self.batch = extracted.model, extracted.train, extracted.batch
        self.features = extracted.features
        self.cut = self.model.graph.check_cut(cut)
        self.trunk = pixel_trunk(self.model, [self.cut], self.backend, self.place)
        self.feeds = {"uncached": self.images(self.trunk), "cached": Resident(self.features, self.cut)}
        self.trainers = {kind: self.fresh() for kind in TIMED}
        self.epochs = dict.fromkeys(TIMED, 0)

    def images(self, trunk: Any) -> Images:
        return Images(
            self.train, self.model.preprocess, self.batch, trunk, self.cut, augment=None, seed=0, workers=None
        )

    def fresh(self) -> Any:
        graph = self.model.graph.after(self.cut, self.model.input_shape)
        params = {name: self.model.params[name] for name in graph.param_shapes()}
        return self.backend.trainer(graph, params, Recipe(hs.AdamW(RATE), Softmax(), False, 0), self.place)

    def first(self, steps: int | None) -> dict[str, list[float]]:
        assert not any(self.epochs.values()), "the first epoch is over"
        cached = self.next_epoch("cached")
        noted = Noted(self.trunk, self.features.folder(self.cut).dtype, self.backend.numpy)
        order = epoch_order(len(self.train), self.batch, 0, 0)[:steps]
        rates = hs.Schedule().rates(RATE, len(order))
        uncached = self.images(noted).train(self.trainers["uncached"], order, rates, 0).losses.tolist()
        self.epochs["uncached"] = 1
        trainer, rounded = self.fresh(), []
        for rows, positions, rate in zip(noted.rows, order, rates.tolist(), strict=True):
            losses, _ = trainer.step(rows.astype(np.float32), self.train.labels[positions], rate)
            rounded.append(losses.tolist())
        return {"cached": cached, "uncached": uncached, "rounded": rounded}

    def next_epoch(self, kind: str) -> list[float]:
        epoch = self.epochs[kind]
        order = epoch_order(len(self.train), self.batch, 0, epoch)
        rates = hs.Schedule().rates(RATE, len(order))
        losses = self.feeds[kind].train(self.trainers[kind], order, rates, epoch).losses.tolist()
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
            fill_seconds=self.features.stats.seconds,  # of all cuts
            trunk_multiply_adds=trunk,
            head_multiply_adds=head,
            # a training step runs the trunk forward, and the head forward and twice as much backward
            flops_ratio=(trunk + 3 * head) / (3 * head),
        )


class Worker:
    """Prepared for one setting after the other."""

    def __init__(self, name: str, cache: str) -> None:
        self.name, self.cache = name, cache
        self.asked: dict[str, Any] = {}

    def prepare(self, cut: str, **asked: Any) -> dict[str, Any]:
        if asked != self.asked:
            self.extracted, self.asked = Extracted(self.name, self.cache, **asked), asked
        self.setting = Setting(self.name, self.extracted, cut)
        return self.setting.facts()

    def first(self, steps: int | None) -> dict[str, list[float]]:
        return self.setting.first(steps)

    def epoch(self, kind: str) -> list[float]:
        return self.setting.next_epoch(kind)


if __name__ == "__main__":
    serve(lambda: Worker(*sys.argv[1:]))
