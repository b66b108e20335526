"""What is trained, validated and tested on, of what somebody names: a data set that came in parts, or one in one
piece of which a share is held out, and others for validation and test.

Invariant: nothing is decided twice. What came split is not split again, and a share that is asked for although the
validation data are known is refused and not ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from headstart.common.errors import SettingError
from headstart.data.classes import Classes, aligned
from headstart.data.listed import is_table
from headstart.data.samples import Samples

SHARE = 0.8
"""of the data that is trained on where nobody says another"""


class Opened(NamedTuple):
    """Three data sets, or feature sets, with the same classes where they have them."""

    train: Any
    val: Any
    test: Any
    """None where there is none"""


def opened(
    name: str,
    open_one: Callable[[str, Samples | None], Samples],
    *,
    val: str | None = None,
    test: str | None = None,
    only: Sequence[str] | None = None,
    split: float | None = None,
    seed: int = 0,
    split_by: str = "id",
    folds: int | None = None,
    in_folds: bool = False,
) -> Opened:
    """`open_one`: from a name, and the data by whose classes and task it is read (None: its own), to what it
    names. `val`, `test`: names of further data; of such that came in parts that part is taken. `only`: the classes
    to take. `split`, `split_by`: see `Samples.split`, with `seed`. `folds`: into so many the training data will be
    cut, so that nothing is split off for validation; nor is it of data that came in folds where `in_folds`: these
    are held out in turn.

    Raises SettingError where a name or a share is given for what the data have themselves, and validation data
    or a split beside folds; DataError where further data came in parts without that one; what `open_one`, `only`
    and `split` raise.
    """
    beside = {"--val {} (val=)": val, "--split {} (split=)": split}
    beside["--split-by {} (split_by=)"] = None if split_by == "id" else split_by
    named = [option.format(value) for option, value in beside.items() if value is not None]
    if folds is not None and named:
        raise SettingError(
            f"{named[0]} with --folds {folds} (folds=), which hold out each sample once; leave out one"
        )
    whole = open_one(name, None)
    parts = whole.parts
    train = whole.train if parts else whole
    own_folds = train.annotations.folds is not None
    if own_folds and not in_folds:
        raise SettingError(
            f"--fold-column (fold=) with {name}: what is asked for here holds out one part, and not each fold in "
            "turn; leave it out. fit and sweep take folds"
        )
    if own_folds and named:
        raise SettingError(
            f"{named[0]} with --fold-column (fold=), which holds out each fold in turn; leave out one"
        )
    if own_folds:
        train.fold_numbers(folds, seed)  # which tells of one fold alone, and of another number
    held_out: dict[str, Any] = {}
    for part, other in (("val", val), ("test", test)):
        if other is None:
            held_out[part] = parts.get(part)
            continue
        if part in parts:
            raise SettingError(
                f"{name} has a part {part!r} of its own, and --{part} {other} (val=, test=) names another; "
                "expected one of them"
            )
        further = open_one(other, whole)
        held_out[part] = getattr(further, part) if further.parts else further
    if only is not None:
        train = train.only(only)
        held_out = {part: data if data is None else data.only(only) for part, data in held_out.items()}
    if held_out["test"] is not None:  # now, and not after the training
        to = Classes(train.classes, train.named_classes, "the training data")
        held_out["test"] = aligned(held_out["test"], "the test data", to)
    if folds is not None or own_folds:
        if held_out["val"] is not None:
            hold_out = "--fold-column (fold=)" if own_folds else f"--folds {folds} (folds=)"
            alone = "a table of those rows" if is_table(name) else f"as in --data {name}/train"
            raise SettingError(
                f"{hold_out} with {name}, which came with validation data of its own: folds are cut "
                f"of one set. Name its training part alone, {alone}, or leave out "
                + ("--fold-column" if own_folds else "--folds")
            )
        return Opened(train, None, held_out["test"])
    if held_out["val"] is not None:
        for option, value, said in (("split", split, split is not None), ("split_by", split_by, split_by != "id")):
            if said:
                raise SettingError(
                    f"{option} is {value}, and there is nothing to hold out: validation data "
                    f"{'came with ' + name if val is None else 'are ' + val}; leave out "
                    f"--{option.replace('_', '-')} ({option}=)"
                )
        return Opened(train, held_out["val"], held_out["test"])
    first, second = train.split(SHARE if split is None else split, seed, split_by)
    return Opened(first, second, held_out["test"])
