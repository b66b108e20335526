"""What run.json and compare.json hold, for whoever reads them: they may come from anywhere.

`headstart.common.reading.check` holds a file to them; names that are not here are left alone.
"""

from __future__ import annotations

from headstart.common.reading import ANY, DictOf, ListOf, Number, Optional

LARGEST = 256 << 20  # bytes of such a file: twelve million steps
DATA = {
    **{name: Optional(str) for name in ("name", "task")},
    **{name: Optional(int) for name in ("train", "val", "val_in_train", "val_of_train_groups")},
    "classes": Optional(ListOf(str)),
    "skipped": Optional(ListOf(ListOf(str, 2))),
}
RECORD_OF_EPOCH = {
    "epoch": int,
    "loss": Optional(Number),
    "accuracy": Optional(Number),
    "val_loss": Optional(Number),
    "val_accuracy": Optional(Number),
    "val_score": Optional(Number),
    "score": Optional(str),
    "seconds": {"data": Number, "trunk": Number, "head": Number},
    "learning_rate": Optional(Number),
    "step_losses": ListOf(Optional(Number)),
    "auxiliary_losses": ListOf(Optional(Number)),
}
VALIDATION = {
    "samples": int,
    "confusion": ListOf(ListOf(int, 3)),
    "not_finite": Optional(int),
    **dict.fromkeys(("right", "ids", "weights", "groups", "terms"), Optional(str)),
    "misses": Optional(ListOf({"id": str, "index": int, "label": str, "predicted": str, "error": Number})),
    "worst": ListOf(
        {
            "id": str,
            "index": int,
            "label": int,
            "predicted": int,
            "probability": Optional(Number),
            "loss": Optional(Number),
        }
    ),
}
SCORES = {
    "task": str,
    "samples": int,
    "values": DictOf(Number),
    "undefined": DictOf(str),
    "intervals": DictOf(ListOf(Number, 2)),
    "per_class": ListOf({"class": str, "samples": int, "undefined": Optional(DictOf(str))}),
    "settings": Optional(DictOf(ANY)),
}
FOLDS = {
    "score": str,
    "mean": Optional(Number),
    "interval": Optional(ListOf(Number, 2)),
    "loss": Optional(Number),
    "values": ListOf(Optional(Number)),
    "losses": ListOf(Optional(Number)),
    "best_epochs": ListOf(int),
    "sizes": ListOf(int),
    "seed": int,
    "names": Optional(ListOf(str)),
    "always": Optional(int),
}
RUN = {
    "format": int,
    "weights": Optional({"file": str, "sha256": str}),
    "model": {
        "name": str,
        "classes": ListOf(str),
        "named_classes": bool,
        "head": ANY,
        "preprocess": DictOf(ANY),
        "weights": Optional(str),
        "auxiliary": bool,
        "task": Optional(str),
        "threshold": Optional(Number),
        "wrapped": Optional(str),
    },
    "mode": str,
    "cut": Optional(str),
    "backend": str,
    "best_epoch": Optional(int),
    "history": ListOf(RECORD_OF_EPOCH),
    "head_best_epoch": Optional(int),
    "head_history": ListOf(RECORD_OF_EPOCH),
    "extraction": Optional({"extracted": int, "reused": int, "seconds": Number, "made_by": ListOf(str)}),
    "seconds": Number,
    "settings": {
        "versions": Optional(DictOf(str)),
        "huber": Optional(Number),
        "targets": Optional({"mean": ListOf(Number), "deviation": ListOf(Number)}),
    },
    # runs of before there were reports have none of these
    "data": Optional(DATA),
    "trained": Optional(int),
    "train_ids": Optional({"nbytes": int, "ids": str}),
    "validation": Optional(VALIDATION),
    "scores": Optional(SCORES),
    "folds": Optional(FOLDS),
    "checksum": Optional(str),
}
"""run.json"""

EPOCH = {
    "epoch": Optional(int),
    **{
        name: Optional(Number)
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "val_score", "learning_rate")
    },
    "seconds": {name: Optional(Number) for name in ("data", "trunk", "head", "total")},
}
NUMBERS = ("val_accuracy", "val_score", "val_loss", "extraction_seconds", "total_seconds", "speedup_over_frozen")
ENTRY = {
    "label": str,
    **{name: Optional(str) for name in ("backend", "mode", "cut", "score")},
    **{name: Optional(Number) for name in NUMBERS},
    **{name: Optional(int) for name in ("extracted", "reused", "pays_off_after_epochs")},
    "diverged": Optional(bool),
    "best_epoch": Optional(int),
    "history": Optional(ListOf(EPOCH)),
    "head_best_epoch": Optional(int),
    "head_history": Optional(ListOf(EPOCH)),
    "seconds_per_epoch": {
        "total": Optional(Number),
        **{name: Optional(Number) for name in ("data", "trunk", "head")},
    },
    "features_made_by": Optional(ListOf(str)),
    "classes": Optional(ListOf(str)),
    "parameters": Optional({"trained": Optional(int), "all": Optional(int)}),
    "validation": Optional(
        {
            "samples": Optional(int),
            "confusion": Optional(ListOf(ListOf(int, 3))),
            "not_finite": Optional(int),
            "misses": Optional(
                ListOf(
                    {name: Optional(str) for name in ("id", "label", "predicted")} | {"error": Optional(Number)}
                )
            ),
            "worst": Optional(
                ListOf(
                    {
                        "id": Optional(str),
                        "label": Optional(int),
                        "predicted": Optional(int),
                        "probability": Optional(Number),
                    }
                )
            ),
        }
    ),
    "scores": Optional(SCORES),
    "against_best": Optional(
        {
            "best": str,
            "difference": Number,
            "interval": ListOf(Number, 2),
            "noise": bool,
            "weighted": Optional(bool),
        }
    ),
    "kernels": Optional(
        {
            **{name: Optional(str) for name in ("node", "before", "after", "difference")},
            **{name: Optional(int) for name in ("shown", "of")},
            "max_difference": Optional(Number),
        }
    ),
    "test": Optional(
        {
            "samples": Optional(int),
            "trained_on": Optional({"samples": Optional(int)}),
            "of_seen_groups": Optional(int),
            "scores": Optional(SCORES),
        }
    ),
    "settings": Optional(DictOf(ANY)),
    "folds": Optional(FOLDS),
    "data": Optional(DATA),
}
COMPARISON = {
    "headstart": Optional(str),
    "created": Optional(str),
    "title": Optional(str),
    "command": Optional(ListOf(str)),
    "machine": Optional(
        {
            **{name: Optional(str) for name in ("cpu", "system", "python")},
            **{name: Optional(Number) for name in ("cores", "memory_bytes")},
        }
    ),
    "versions": Optional(DictOf(Optional(DictOf(str)))),
    "data": DATA,
    "model": {
        **{name: Optional(str) for name in ("name", "weights")},
        "parameters": Optional(int),
        "preprocess": Optional({"size": Optional(int)}),
    },
    "settings": Optional(DictOf(ANY)),
    "rows": ListOf(ENTRY),
    "errors": Optional(DictOf({"type": str, "message": str})),
    "pictures": Optional(DictOf(str)),
}
"""compare.json: what a report is made of; whatever else a file holds is left alone"""
