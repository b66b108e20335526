"""Checks, before a network with a user's own module is trained, that what it computes for a sample does not depend
on the other samples in the batch.

An extraction checks its trunk itself (`features.company`). Here the parts are checked that no extraction runs: a
trunk that runs in every epoch, a module that is trained as a whole, a module that is the head.

Invariant: the check trains nothing and draws none of the training's random numbers. It costs four batches of the
evaluation's shape, so that nothing is compiled twice, and once for each size of batches one of two samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.contract.running import Trainer
from headstart.contract.sizes_of_batches import Sizes
from headstart.data.draws import drawn
from headstart.data.loader import Batch, batches
from headstart.data.rows import count, pad
from headstart.features.company import GROUP, check_company
from headstart.graph import Graph
from headstart.training.feature_feeds import Resident, Streamed
from headstart.training.feeds import Feed, Feeds, window
from headstart.training.image_feed import Images

APART = 3
LARGEST = 4 * GROUP  # where the evaluation's batches are larger, those here are GROUP


def check_trained(
    graph: Graph,
    trainer: Trainer,
    feeds: Feeds,
    backend: Backend,
    place: Place,
    whole: Graph,
) -> None:
    """SettingError where the output for a sample depends on the others in its batch: the output of `graph` before
    its first step, or of the trunk in front of it. `whole`: the model's graph, trunk and head. The zoo's networks
    are known, and need no check."""
    feed, val = feeds.train, feeds.val
    native = any(node.op == "native" for node in graph.nodes)
    if isinstance(feed, Images):
        trunk, cut = feed.trunk, feed.cut
        size = _size(feed, val, feed.batch_size)
        order = drawn(len(feed.targets), size)
        batch = next(batches(feed.data, feed.preprocess, order, size, workers=1))

        def run(rows: Any) -> dict[str, np.ndarray]:
            if trunk is None or cut is None:
                return {"logits": trainer.logits(rows, 0, count(rows))}
            features = trunk.run(rows)[cut]
            logits = {"logits": trainer.logits(features, 0, count(rows))} if native else {}
            return {cut: backend.numpy(features), **logits}

    elif native and isinstance(feed, Resident | Streamed):
        size = _size(feed, val, window(len((val or feed).targets)))
        order = drawn(len(feed.targets), size)
        ids = [feed.features.ids[i] for i in order]
        batch = Batch(feed.features.folder(feed.cut).read(ids), feed.targets[order], ids, order)

        def run(rows: Any) -> dict[str, np.ndarray]:
            return {"logits": trainer.logits(trainer.put(rows), 0, count(rows))}

    else:
        return
    together = check_company(batch, run, place, size, APART, whole)
    sizes = Sizes(graph, place)
    if native and (pair := sizes.pair(pad(batch.images, size))) is not None:
        sizes.check(size, run(pair), together)


def _size(feed: Feed, val: Feed | None, most: int) -> int:
    size = max(2, min(most, len((val or feed).targets)))
    return size if size <= LARGEST else GROUP
