"""What a comparison says to somebody who reads one paragraph of it: which run to take, by which score and by how
much, what it took beside the others, and what to distrust in that.

Words are made of the entries alone, as `compare.json` holds them; of what they do not tell, nothing is said. A
difference is called real only where the paired bootstrap on the same samples says so, and a run is never called
the best of runs that are known by another score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.common.text import counted, listed, points_text, time_text
from headstart.report import figures
from headstart.report.endings import endings
from headstart.report.headlines import ACCURACY, HEADLINES, Headline, headline_of, headlines_of, ranked
from headstart.report.series import (
    FOUND_FULL,
    FOUND_PART,
    Entry,
    diverged,
    finite,
    finite_ends,
    found_there,
    headline_name,
    headline_value,
    label_counts,
)

FEW = 100
"""validation samples, below which they are called few"""
FEW_GROUPS = 20
"""groups of such, likewise: to resample fewer tells too little of how far these differ"""
NAMED = 4
"""runs that are named in a list"""


@dataclass(frozen=True)
class Conclusion:
    """Sentences; each may be empty."""

    take: str
    """which run, by which score, by how much, and whether that is noise"""
    costs: str
    """what it took beside the others"""
    tested: str
    """what it scores on test data, which chose nothing"""
    doubts: tuple[str, ...]
    """what to distrust"""

    @property
    def text(self) -> str:
        return " ".join(filter(None, (self.take, self.costs, self.tested, *self.doubts)))

    @property
    def lines(self) -> list[str]:
        """For a terminal, which says by itself what comes of test data: what to take, and what to distrust."""
        return [line for line in (_plain(self.take, self.costs), self.doubt) if line]

    @property
    def doubt(self) -> str:
        """What to distrust, for a terminal."""
        return _plain(*self.doubts)


def conclusion(known: Mapping[str, Any]) -> Conclusion:
    """Of a comparison, or of what was read from its `compare.json`."""
    entries = ranked(known.get("rows") or ())
    scored = [entry for entry in entries if not diverged(entry) and headline_value(entry) is not None]
    reason = _undecided(known, entries, scored)
    if reason:
        return Conclusion(reason, _speedups(entries), "", tuple(_fallen(entries) if scored else ()))
    equal = [entry for entry in scored if _shown(entry) == _shown(scored[0])]
    taken = min(equal, key=_seconds)
    others = [entry for entry in scored if _shown(entry) != _shown(scored[0])]
    take = _score(taken, alone=len(entries) == 1) + _equals(taken, equal) + _next(equal, others, known)
    tested = _tested(taken)
    doubts = (
        *_of_data(known, taken),
        *_few(taken),
        *_chance(taken),
        *(
            ["The same samples chose the run, so expect a little worse on new ones."]
            if others and not tested
            else []
        ),
        *([] if tested else _fitted_threshold(taken)),
        *_unfinished(taken),
        *_lost(taken),
        *_full_already(entries),
        *_fallen(entries),
    )
    return Conclusion(take, " ".join(filter(None, (_took(taken, entries), _speedups(entries)))), tested, doubts)


# ---- which one


def _undecided(known: Mapping[str, Any], entries: Sequence[Entry], scored: Sequence[Entry]) -> str:
    """Why none is to be taken; "" where one is."""
    several = len(entries) > 1
    if not entries:
        return "No run came to its end."
    if all(map(diverged, entries)):
        whose = "Take none of these runs: every one" if several else "Do not take this run: it"
        return f"{whose} diverged, its losses or its weights are not finite. A lower learning rate may help."
    if not scored:
        what = "which run to take" if several else "how well this run does"
        kept_out = finite((known.get("data") or {}).get("val"))
        why = "no score of it is known" if kept_out else "no samples were kept out of the training to validate it"
        return f"Nothing says {what}: {why}."
    names = [headline.words for headline in headlines_of(scored)]
    if len(names) > 1:
        return f"No run is the best: they are known by different scores, {_listed(names)}."
    return ""


def _score(entry: Entry, alone: bool) -> str:
    headline = headline_of(entry)
    ends = interval_of(entry)
    interval = "" if ends is None else f" (95{figures.SPACE}%: {headline.interval(ends)})"
    if folds := entry.get("folds"):
        where = f" in the mean of {len(folds['values'])} folds"
    else:
        samples = _samples(entry)
        where = "" if samples is None else f" on {counted(samples, 'validation sample')}"
    named = entry["label"] if alone else f"Take {entry['label']}"
    return f"{named}: {headline.words} {_shown(entry)}{interval}{where}."


def _equals(taken: Entry, equal: Sequence[Entry]) -> str:
    same = [entry["label"] for entry in equal if entry is not taken]
    if not same:
        return ""
    longer = all(_seconds(taken) < _seconds(entry) for entry in equal if entry is not taken)
    later = ", and took longer" if longer else ""
    return f" {_listed(same)} {'has' if len(same) == 1 else 'have'} the same{later}."


def _next(equal: Sequence[Entry], others: Sequence[Entry], known: Mapping[str, Any]) -> str:
    """How far behind the next is, and which more the samples do not tell from the best."""
    if not others:
        return ""
    following, *further = others
    headline = headline_of(following)
    against = _against(following, equal)
    value = None if against is None else finite(against.get("difference"))
    if value is None:
        value = (headline_value(following) or 0.0) - (headline_value(equal[0]) or 0.0)
    if apart := _apart(following, equal[0], known):
        return f" {following['label']} is next, {_shown(following)}, {apart}: the two do not compare."
    gap = f"{_amount(headline, abs(value))} {'more' if headline.smaller_is_better else 'less'}"
    text = f" {following['label']} is next, {_shown(following)}: {gap}, {_noise(headline, against)}."
    alike = [entry["label"] for entry in further if (_against(entry, equal) or {}).get("noise")]
    return text + (f" Nor do these samples tell {_listed(alike)} from the best." if alike else "")


def _apart(entry: Entry, other: Entry, known: Mapping[str, Any]) -> str:
    """In what the two are known to have been validated differently, in words; "" where they are not."""
    ids = [(each.get("validation") or {}).get("ids") for each in (entry, other)]
    if None not in ids and ids[0] != ids[1]:
        return "on other samples"
    classes = (known.get("data") or {}).get("classes") or ()
    labels = [label_counts(each, classes) for each in (entry, other)]
    return "with other labels" if None not in labels and labels[0] != labels[1] else ""


def _noise(headline: Headline, against: Mapping[str, Any] | None) -> str:
    if against is None:
        return "and whether by chance is not known"
    weighted = ", samples by their weights" if against.get("weighted") else ""
    if against.get("noise"):
        return f"within the noise of these samples{weighted}"
    ends = finite_ends(against.get("interval"))
    if ends is None:
        return f"more than noise{weighted}"
    low, high = sorted(map(abs, ends))
    return f"more than noise (95{figures.SPACE}%: {_digits(headline, low)} to {_digits(headline, high)}{weighted})"


def _against(entry: Entry, equal: Sequence[Entry]) -> Mapping[str, Any] | None:
    """Its difference from the best, where that is one of these."""
    against: Mapping[str, Any] | None = entry.get("against_best")
    labels = [entry["label"] for entry in equal]
    return against if against and against.get("best") in labels else None


def interval_of(entry: Entry) -> tuple[float, float] | None:
    """The ends of the headline score's 95 % interval, by the folds where there are any; None where it is not known
    or not finite, or the run diverged."""
    ends = ((entry.get("scores") or {}).get("intervals") or {}).get(headline_name(entry))
    if folds := entry.get("folds"):
        ends = folds.get("interval")
    return None if diverged(entry) else finite_ends(ends)


def _shown(entry: Entry) -> str:
    return headline_of(entry).text(headline_value(entry))


def _amount(headline: Headline, value: float) -> str:
    return f"{_digits(headline, value)}{' points' if headline.is_share else ''}"


def _digits(headline: Headline, value: float) -> str:
    if not headline.is_share:
        return figures.of_any_size(value)
    return points_text(value)


# ---- what it took


def _took(taken: Entry, entries: Sequence[Entry]) -> str:
    seconds = finite(taken.get("total_seconds"))
    others = [
        e for e in entries if e is not taken and not diverged(e) and finite(e.get("total_seconds")) is not None
    ]
    if seconds is None:
        return ""
    if not others:
        return f"It took {time_text(seconds)}."
    text = f"{taken['label']} took {time_text(seconds)}"
    quickest, slowest = min(others, key=_seconds), max(others, key=_seconds)
    if time_text(_seconds(quickest)) == time_text(_seconds(slowest)) == time_text(seconds):
        return f"{text}, as {'the other' if len(others) == 1 else 'all others'} did."
    if seconds <= _seconds(quickest):
        return f"{text}, no run took less; {slowest['label']} took {time_text(_seconds(slowest))}."
    return f"{text}; the quickest, {quickest['label']}, {time_text(_seconds(quickest))}."


def _seconds(entry: Entry) -> float:
    seconds = finite(entry.get("total_seconds"))
    return float("inf") if seconds is None else seconds


def _speedups(entries: Sequence[Entry]) -> str:
    faster = [
        f"{figures.times(entry['speedup_over_frozen'])} ({entry['label']})"
        for entry in entries
        if entry.get("mode") == "cached" and finite(entry.get("speedup_over_frozen")) is not None
    ]
    return f"Speed-up of an epoch by the cache: {', '.join(faster)}." if faster else ""


# ---- what to distrust


def _tested(entry: Entry) -> str:
    scores, name = _test_of(entry).get("scores") or {}, headline_name(entry)
    value = finite((scores.get("values") or {}).get(name))
    if value is None:
        return ""
    headline = HEADLINES.get(name, ACCURACY)
    ends = finite_ends((scores.get("intervals") or {}).get(name))
    interval = "" if ends is None else f" (95{figures.SPACE}%: {headline.interval(ends)})"
    samples = counted(int(finite(scores.get("samples")) or 0), "test sample")
    return f"On {samples}, which chose nothing: {headline.words} {headline.text(value)}{interval}."


def _test_of(entry: Entry) -> Mapping[str, Any]:
    """What an evaluation on test data said, if there was one."""
    test = entry.get("test")
    return test if isinstance(test, Mapping) else {}


def _of_data(known: Mapping[str, Any], taken: Entry) -> list[str]:
    """Files that are missing; validation samples, and test samples, that were trained on as well, or groups of
    such."""
    data = taken.get("data") or known.get("data") or {}
    said = []
    if skipped := len(data.get("skipped") or ()):
        said.append(f"{counted(skipped, 'file')} of the data {'was' if skipped == 1 else 'were'} left out.")
    if (copies := finite(data.get("val_in_train"))) and not taken.get("folds"):
        said.append(_trained_on(copies, finite(data.get("val")), "validation"))
    if (cut := finite(data.get("val_of_train_groups"))) and not taken.get("folds"):
        said.append(_of_groups(cut, "validation", "trained on"))
    test = _test_of(taken)
    if copies := finite((test.get("trained_on") or {}).get("samples")):
        said.append(_trained_on(copies, finite(test.get("samples")), "test"))
    if cut := finite(test.get("of_seen_groups")):
        seen = "trained on" if taken.get("folds") else "trained or validated on"
        said.append(_of_groups(cut, "test", seen))
    return said


def _trained_on(copies: float, samples: float | None, part: str) -> str:
    of = "" if not samples else f" of {samples:,.0f}"
    samples_of = f"{part} sample{'' if copies == 1 and not of else 's'} {'was' if copies == 1 else 'were'}"
    return f"The scores are too good: {copies:,.0f}{of} {samples_of} trained on as well."


def _of_groups(samples: float, part: str, seen: str) -> str:
    groups = "sample is of a group that was" if samples == 1 else "samples are of groups that were"
    return f"The scores are too good: {samples:,.0f} {part} {groups} {seen} as well."


def _few(entry: Entry) -> list[str]:
    samples, groups = _samples(entry), groups_of(entry)
    if groups is not None and 0 < groups < FEW_GROUPS:
        return [f"{counted(groups, 'group')} of validation samples {'is' if groups == 1 else 'are'} few."]
    if samples is None or not 0 < samples < FEW:
        return []
    alike = headline_of(entry) is ACCURACY and not (entry.get("validation") or {}).get("weights")
    each = f": each is {100 / samples:.1f} points" if alike else ""
    return [f"{counted(samples, 'validation sample')} {'is' if samples == 1 else 'are'} few{each}."]


def _chance(entry: Entry) -> list[str]:
    """Of a run that is no better than one that has not looked, or that the samples do not tell from it."""
    validation = entry.get("validation") or {}
    headline, value, ends = headline_of(entry), headline_value(entry), interval_of(entry)
    if headline is not ACCURACY:
        r2 = finite(((entry.get("scores") or {}).get("values") or {}).get("r2"))
        return (
            [f"{entry['label']} is no better than predicting the mean every time: R2 {r2:.2f}."]
            if r2 is not None and r2 <= 0
            else []
        )
    of_class: dict[int, int] = {}
    for true, _, count in validation.get("confusion") or ():
        of_class[true] = of_class.get(true, 0) + count
    if not of_class or value is None or validation.get("weights"):
        return []
    commonest = max(of_class.values()) / (sum(of_class.values()) or 1)
    always = f"always naming the commonest class, which is right in {figures.percent(commonest)}"
    if value <= commonest:
        return [f"{entry['label']} is no better than {always}."]
    low = None if ends is None else finite(ends[0])
    return (
        [f"These samples do not tell {entry['label']} from {always}."]
        if low is not None and low <= commonest
        else []
    )


def _fitted_threshold(entry: Entry) -> list[str]:
    """Of a run whose threshold is the one of the largest score on the very samples of that score."""
    if (entry.get("settings") or {}).get("threshold") != "best":
        return []
    words = headline_of(entry).words
    return [f"The same samples chose the threshold of {entry['label']}, so its {words} is a little too good."]


def _unfinished(entry: Entry) -> list[str]:
    ends = endings(entry)
    if not ends:
        return []
    last = ends[-1]
    still = last.monitor is not None and last.trained > 1 and last.kept == last.trained == last.most
    return [f"The last epoch of {entry['label']} was its best: more of them may do better."] if still else []


def _lost(entry: Entry) -> list[str]:
    count = finite((entry.get("validation") or {}).get("not_finite"))
    return (
        [f"{entry['label']}: outputs for {counted(int(count), 'validation sample')} are not finite."]
        if count
        else []
    )


def _full_already(entries: Sequence[Entry]) -> list[str]:
    """Runs that took less time beside the others because an earlier one had filled the cache, or a part of it."""
    found = [entry for entry in entries if found_there(entry) and finite(entry.get("total_seconds")) is not None]
    if not found or len(entries) < 2:
        return []
    said = []
    for there, what in (
        (FOUND_FULL, "the cache full: filling it"),
        (FOUND_PART, "a part of the cache full: filling that"),
    ):
        if names := [entry["label"] for entry in found if found_there(entry) == there]:
            whose = "its" if len(names) == 1 else "their"
            said.append(f"{_listed(names)} found {what} is not in {whose} time.")
    return said


def _fallen(entries: Sequence[Entry]) -> list[str]:
    fallen = [entry["label"] for entry in entries if diverged(entry)]
    return [f"{_listed(fallen)} diverged."] if fallen else []


def groups_of(entry: Entry) -> int | None:
    """How many groups the validation samples are of; None where they have none."""
    count = finite(((entry.get("scores") or {}).get("settings") or {}).get("groups"))
    return None if count is None else int(count)


# ---- words


def _samples(entry: Entry) -> int | None:
    count = finite((entry.get("validation") or {}).get("samples"))
    return None if count is None else int(count)


def _plain(*sentences: str) -> str:
    return " ".join(filter(None, sentences)).replace(figures.SPACE, " ")


def _listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b, c and 3 more"."""
    shown = list(names)
    if len(names) > NAMED + 1:  # a single name takes no more room than that there is one more
        shown = [*names[:NAMED], f"{len(names) - NAMED} more"]
    return listed(shown)
