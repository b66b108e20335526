"""What is watched while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.training.option import FOLDER, FUNCTION, SWITCH, option

if TYPE_CHECKING:
    from headstart.training.history import OnEpoch


@dataclass(frozen=True)
class Watching:
    """What is watched while it trains."""

    on_epoch: OnEpoch | None = option(
        None,
        'Called with the stage ("head" or "all") and the record after each epoch.',
        FUNCTION,
        takers=("fit", "compare_modes"),
        text=None,
        recorded=False,
    )
    tensorboard: str | Path | None = option(
        None,
        "Write curves, histograms and the graph to this folder; needs headstart[tensorboard].",
        FOLDER,
        text=Path,
        recorded=False,
        more="The files are complete after every epoch: the runs `train` and `validation` with loss and "
        "accuracy, or the task's score (`micro_f1`, `mae`), and in `train` learning rates, seconds, each step's "
        "loss, histograms of the trained parameters and of how far they have moved, the model's graph and the "
        "settings. Where the folder holds a run already, that one is left as it is, and `2`, `3` ... in the "
        "folder are written.",
    )
    debug_nans: bool = option(
        False,
        "Stop at the first value that is not finite, and name node, epoch and batch.",
        SWITCH,
        text=bool,
        recorded=False,
        more="It goes step by step and looks at losses and parameters after each, and at features and logits. "
        "What is trained is the same, and takes longer.",
    )
    profile: str | Path | None = option(
        None,
        "Write the framework's own trace of each stage's second epoch to this folder.",
        FOLDER,
        text=Path,
        recorded=False,
        more="The trace, with that epoch's validation, is in `head` or `all` there, as TensorBoard or torch's "
        "viewers show it. In the first epoch things are compiled; it is taken where it is the only one.",
    )
