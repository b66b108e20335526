"""How long it is trained, and which epoch is kept."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.training.option import BY_ITSELF, FUNCTIONS, NAME, NOT_NEGATIVE, THAT_TRAIN, Rule, option, whole


def monitor_named(text: str | None) -> str | None:
    """A name as it is; "none" is None, as its help says to the command line and to Python alike."""
    return None if text == "none" else text


@dataclass(frozen=True)
class Stopping:
    """How long it is trained, and which epoch is kept."""

    epochs: int | None = option(
        None,
        "Epochs of training, just so many.",
        whole(1),
        takers=FUNCTIONS,
        text=int,
        unset="up to max_epochs, while they bring something",
        defaults={"compare": 3, "compare_modes": 5},
        more="Of them the best is kept too, where there are validation data.",
    )
    max_epochs: int | None = option(
        None,
        "Epochs of training, at most; patience may end it before.",
        whole(1),
        takers=(*BY_ITSELF, "plan"),
        text=int,
        unset="by mode and number of samples",
        more="A head of linear layers on features takes about 2,000 steps, in 10 to 100 epochs, and everything "
        "else 5 epochs. Where nothing tells the best epoch, as without validation data, such a head takes about "
        "300 steps, in 5 to 50 epochs, and the last one is kept.",
    )
    patience: int | None = option(
        None,
        "Stop after so many epochs without a better one, by monitor.",
        whole(1),
        takers=BY_ITSELF,
        text=int,
        unset="a fifth of max_epochs, at least 5",
        more="It goes with `max_epochs` or its default; `epochs` given by hand are trained to the last.",
    )
    monitor: str | None = option(
        "val_loss",
        "The validation score by which the best epoch is kept, such as val_accuracy; none: the last epoch.",
        Rule("the name of a score, or None", lambda value: value is None or NAME.holds(value)),
        takers=THAT_TRAIN,
        parse=monitor_named,
        more='"val_loss", "val_accuracy", or the score that the task is known by: "accuracy", "micro_f1", "mae", '
        '"standardised_mae". '
        "None: the last epoch's head is kept, and nothing stops. In `staged` it decides in each stage.",
    )
    min_delta: float = option(
        0.0,
        "By how much an epoch has to be better; of others the earliest is kept.",
        NOT_NEGATIVE,
        takers=THAT_TRAIN,
        text=float,
    )
    head_epochs: int | None = option(
        None,
        "Epochs on the cache before everything is trained, in mode staged.",
        whole(1),
        text=int,
        unset="as many",
        recorded=False,
    )
