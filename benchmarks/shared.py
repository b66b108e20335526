"""Epochs of the modes in one framework, and a training loop that disturbs them, in processes of their own:

`shared.py BACKEND CACHE` reads a request a line and answers a line, both JSON. With `short` behind it, it takes
short turns on the CPU, as what `compare` starts does; with a number, so many threads, whatever it may use.
{"do": "prepare", "modes": M}   fill the cache, build trunk, trainers and feeds, of these modes or of all; facts
                               about the setting
{"do": "epochs", "mode": MODE, "count": N}   [wall-clock seconds, CPU seconds] of each of N epochs

`shared.py neighbour` is what somebody else runs on the machine: a convolutional network in plain torch, with as
many threads as the machine has CPUs and everything as torch has it. It prints a line when it has begun, and never
ends.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from children import Child, facts_of, serve
from sizes import sized

import headstart as hs
from headstart.common import machine
from headstart.common.environment import COUNTS, WAITING
from headstart.common.machine import Cpus, cpus
from headstart.common.scheduling import take_short_turns
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Recipe
from headstart.data.order import epoch_order
from headstart.features.inference import fed, pixel_trunk
from headstart.graph import Graph
from headstart.training.feature_feeds import Resident
from headstart.training.image_feed import Images

SIZE, BATCH, IMAGES = 48, 64, sized(256, 512)
CUTS = {"frozen": "avgpool", "cached": "avgpool", "cached block": "layer4.0"}
"""the last two of cached features: a linear head, whose steps are tiny, and a block, whose steps are not"""
MODES = (*sized((), ("scratch",)), "full", *CUTS)
"""to a machine "scratch" is what "full" is"""


EPOCHS = {"cached": 20, "cached block": 6}
OTHERS = sized(2, 3)
"""epochs of the other modes"""


class Setting:
    """The digits at a low resolution, so that an epoch takes a part of a second."""

    def __init__(self, name: str, cache: str) -> None:
        self.name, self.cache = name, cache

    def prepare(self, modes: Sequence[str] = MODES) -> dict[str, Any]:
        self.backend = registry.load(self.name)
        self.place = self.backend.place("auto", "float32")
        self.train = hs.data.digits().subset(range(IMAGES))
        self.model = model = hs.model("resnet18_half", weights="tinyimagenet", classes=10, size=SIZE)
        cuts = {mode: model.graph.check_cut(cut) for mode, cut in CUTS.items()}
        features = hs.extract(model, self.train, [*{*cuts.values()}], backend=self.name, cache=self.cache)
        trunk = pixel_trunk(model, [cuts["frozen"]], self.backend, self.place)
        self.trainers, self.feeds = {}, {}
        for mode in modes:
            if mode in cuts:
                graph = model.graph.after(cuts[mode], model.input_shape)
            else:
                graph = fed(model.graph, model)
            self.trainers[mode] = self.trainer(graph, mode == "scratch")
            through = (trunk, cuts[mode]) if mode == "frozen" else (None, None)
            self.feeds[mode] = (
                Resident(features, cuts[mode])
                if "cached" in mode
                else Images(self.train, model.preprocess, BATCH, *through, augment=None, seed=0, workers=None)
            )
        self.done = dict.fromkeys(modes, 0)
        for mode in modes:  # compilers run in the first
            self.epochs(mode, 2)
        return facts_of(self.backend, self.place.device, cpus=cpus())

    def trainer(self, graph: Graph, train_statistics: bool) -> Any:
        params = {name: self.model.params[name] for name in graph.param_shapes()}
        return self.backend.trainer(
            graph, params, Recipe(hs.AdamW(1e-4), Softmax(), train_statistics, 0), self.place
        )

    def epochs(self, mode: str, count: int) -> list[tuple[float, float]]:
        seconds = []
        for _ in range(count):
            order = epoch_order(IMAGES, BATCH, 0, self.done[mode])
            rates = hs.Schedule().rates(1e-4, len(order))
            wall, cpu = time.perf_counter(), time.process_time()
            self.feeds[mode].train(self.trainers[mode], order, rates, self.done[mode])
            seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
            self.done[mode] += 1
        return seconds


def take_threads(count: int) -> None:
    """As somebody would who has found out how many are the best."""
    counted = len(os.sched_getaffinity(0))  # what a framework counts that is told nothing
    machine.cpus_allowed = lambda *_: Cpus(count, count < counted)


def neighbour() -> None:
    import torch
    from torch import nn

    torch.set_num_threads(cpus())
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    x, y = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    step = 0
    while True:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        step += 1
        if step == 3:
            print("training", flush=True)


# ---- the other end


def plain() -> dict[str, str]:
    """This environment, as somebody has it who has said nothing of threads."""
    said = {*WAITING, *COUNTS, *(name for _, names in WAITING.values() for name in names)}
    return {"TF_CPP_MIN_LOG_LEVEL": "3"} | {name: text for name, text in os.environ.items() if name not in said}


def epochs(child: Child, mode: str) -> list[float]:
    """Seconds of each of a few."""
    return [wall for wall, _ in child.ask(do="epochs", mode=mode, count=EPOCHS.get(mode, OTHERS))]


if __name__ == "__main__":
    if sys.argv[1:] == ["neighbour"]:
        neighbour()
    else:
        backend, folder, *said = sys.argv[1:]
        if said == ["short"]:
            take_short_turns()
        elif said:
            take_threads(int(said[0]))
        serve(lambda: Setting(backend, folder))
