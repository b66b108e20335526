"""What is kept of it, to go on with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headstart.training.option import FOLDER, option


@dataclass(frozen=True)
class Keeping:
    """What is kept of it, to go on with."""

    checkpoint: str | Path | None = option(
        None,
        "Keep the best epoch's run, and all that it takes to go on, in this folder while it trains.",
        FOLDER,
        takers=("fit",),
        text=Path,
        recorded=False,
        more="It is written after an epoch where a second has passed since the last time, and at the end of each "
        "stage, each file whole: whatever moment the process is killed at, the folder can be resumed from, and "
        "`hs.load` reads the run in it. What another training has begun there is not overwritten.",
    )
    resume: str | Path | None = option(
        None,
        "Go on with the training whose checkpoint is in this folder, and keep it there.",
        FOLDER,
        takers=("fit",),
        text=Path,
        recorded=False,
        more="Model, data and options must be those that it began with; what watches it (`debug_nans`, "
        "`tensorboard` ...) may be another. On a CPU what comes of it is to the bit what would have come without "
        "the break; a training that had ended gives its run again. With `checkpoint` it is kept there from then "
        "on.",
    )
