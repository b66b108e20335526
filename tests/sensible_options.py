"""A value for each option of training that is not its default: a new option needs one here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import headstart as hs

SENSIBLE: dict[str, Any] = {
    "mode": "full",
    "cut": "layer3",
    "solver": "ridge",
    "batch_size": 8,
    "optimizer": hs.SGD(lr=0.5),
    "lr": 0.1,
    "lr_scale": {"layer3": 0.1},
    "schedule": hs.Schedule("cosine", 0.25),
    "warmup": 0.25,
    "label_smoothing": 0.1,
    "class_weights": {"daisy": 2.0},
    "pos_weight": {"daisy": 2.0},
    "threshold": 0.25,
    "huber": 1.5,
    "augment": hs.Augment(crop=None),
    "standardize": False,
    "batch_norm": "train",
    "seed": 7,
    "epochs": 2,
    "max_epochs": 9,
    "patience": 4,
    "monitor": "val_accuracy",
    "min_delta": 0.01,
    "head_epochs": 3,
    "folds": 3,
    "backend": "jax",
    "device": "cpu",
    "precision": "bfloat16",
    "workers": 2,
    "engine": hs.Ray(workers=2),
    "dtype": "float32",
    "cache": Path("features"),
    "views": 4,
    "memory": "512MB",
    "extraction_batch": "auto",
    "push": "file:///features",
    "on_epoch": print,
    "tensorboard": Path("curves"),
    "debug_nans": True,
    "profile": Path("trace"),
    "checkpoint": Path("kept"),
    "resume": Path("kept"),
}
