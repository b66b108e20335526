"""Seconds to the best of 16 heads, as whole processes: `headstart sweep` with an empty cache and with a full one,
beside lightly-train's training of several heads, one a learning rate, on a frozen network run in every epoch.

    python benchmarks/multihead.py BACKEND PHOTOGRAPHS WEIGHTS PEER [EPOCHS [TURNS]]

PHOTOGRAPHS: a folder a class; every fifth of a class, by name, validates. WEIGHTS: timm's tf_efficientnet_lite0 as
safetensors, for both. PEER: the Python of an environment of its own, since lightly-train has its own versions:

    python -m venv peer && peer/bin/pip install lightly-train timm

Both have the same pictures, network, rates, epochs, batches, float32 and threads, SGD, a cosine without a warm-up,
and no augmentation. All else is by default, and so these differ: lightly-train's SGD has no momentum (here 0.9),
pictures are reduced by areas (here bicubic), features are as they are (here standardised), and it validates once,
at the end (here each epoch). It prints, of turns taken one after the other, medians of processor seconds (user and
system, of child processes too), of wall seconds, and the best head's accuracy.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from first_result import IMPORTS, parts

MODEL, PEERS_MODEL, SIZE, SCALE = "efficientnet_lite0", "timm/tf_efficientnet_lite0", 224, 1.143
BATCH = 128  # lightly-train's own; of another it changes the rates
RATES = [float(f"{rate:.4g}") for rate in np.geomspace(1e-4, 1, 16)]
EPOCHS, TURNS = "5", "3"
VALIDATES = 5  # one in so many

Figures = tuple[float, float, float, float]
"""Seconds of the processor, user and system, of the wall; the best head's validation accuracy."""


def peer(folder: str, weights: str, out: str, epochs: str) -> None:
    """lightly-train's program, run by an environment that has it."""
    import lightly_train
    from timm.models.efficientnet import EfficientNet

    # lightly-train 0.18 asks a network with it for its last stage, 320 columns, and makes heads for the 1,280 that
    # `forward_features` gives, which it asks for where a network has no such method.
    del EfficientNet.forward_intermediates
    train = Path(folder, "train")
    classes = dict(enumerate(sorted(path.name for path in train.iterdir())))
    images = len([*train.glob("*/*")])
    half = (0.5, 0.5, 0.5)
    same = {"image_size": (SIZE, SIZE), "resize_scale": SCALE, "normalize": {"mean": half, "std": half}}
    lightly_train.train_image_classification_multihead(
        out=out,
        data={"train": str(train), "val": f"{folder}/val", "classes": classes},
        model=PEERS_MODEL,
        steps=images // BATCH * int(epochs),
        batch_size=BATCH,
        precision="32-true",
        model_args={"lr": RATES, "backbone_args": {"checkpoint_path": weights}},
        transform_args={"random_crop": None, "random_flip": None, **same, "val": same},
    )


def peers_best(out: str) -> float:
    """The best head's validation accuracy, from its log."""
    log = Path(out, "train.log").read_text()
    return float(re.findall(r"\| val_metric/top1_acc_micro +\| +([0-9.]+)", log)[-1])


def split(photographs: str, folder: str) -> None:
    """`folder/train` and `folder/val` with links to the photographs."""
    for path in sorted(Path(photographs).iterdir()):
        for i, file in enumerate(sorted(path.iterdir())):
            side = Path(folder, "val" if i % VALIDATES == VALIDATES - 1 else "train", path.name)
            side.mkdir(parents=True, exist_ok=True)
            (side / file.name).symlink_to(file.resolve())


def main(backend: str, photographs: str, weights: str, python: str, epochs: str, turns: str) -> None:
    if subprocess.run([python, "-c", "import lightly_train, timm"], capture_output=True).returncode:
        raise SystemExit(
            f"{python} has no lightly-train: python -m venv peer; peer/bin/pip install lightly-train timm"
        )
    with tempfile.TemporaryDirectory() as folder:
        data, figures = f"{folder}/data", f"{folder}/figures.json"
        split(photographs, data)
        bytecode = {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}

        def ours(cache: str) -> Figures:
            options = ["--data", data, "--model", MODEL, "--weights", weights, "--epochs", epochs, "--warmup", "0"]
            options += ["--lr", ",".join(map(str, RATES)), "--optimizer", "sgd", "--batch-size", str(BATCH)]
            command = [sys.executable, "-m", "headstart", "sweep", *options, "--json", figures]
            cost = parts(command, **bytecode, HEADSTART_BACKEND=backend, HEADSTART_CACHE=f"{folder}/{cache}")
            return *cost, max(row["val_accuracy"] for row in json.loads(Path(figures).read_text())["rows"])

        def theirs(turn: str) -> Figures:
            out = f"{folder}/lightly-{turn}"
            nothing_sent = {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "LIGHTLY_TRAIN_CACHE_DIR": f"{folder}/lightly"}
            cost = parts([python, __file__, "peer", data, weights, out, epochs], **bytecode, **nothing_sent)
            return *cost, peers_best(out)

        # Bytecode is kept, as of what has been used before.
        parts([sys.executable, "-c", f"import headstart.cli, {IMPORTS[backend]}"], **bytecode)
        parts([python, "-c", "import lightly_train, timm"], **bytecode)
        turns_of: dict[str, list[Figures]] = {}
        for turn in range(int(turns)):
            for what, run in (("cold", ours), ("warm", ours), ("lightly-train", theirs)):
                name = what if run is theirs else f"headstart, {backend}, {what}"
                turns_of.setdefault(name, []).append(run(str(turn)))
                show(f"turn {turn + 1}: {name}", turns_of[name][-1])
        print(f"\nmedians of {turns}, {epochs} epochs of {len(RATES)} heads")
        for name, rows in turns_of.items():
            show(name, np.median(rows, 0))


def show(what: str, figures: Sequence[float] | np.ndarray) -> None:
    user, system, wall, best = figures
    cpu = f"{user + system:7.1f} s of CPU ({user:.1f} user, {system:.1f} system)"
    print(f"{what:32} {cpu} {wall:7.1f} s of wall, best {best:.1%}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        peer(*sys.argv[2:])
    else:
        main(*sys.argv[1:], *(EPOCHS, TURNS)[len(sys.argv) - 5 :])
