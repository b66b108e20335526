"""Advice beside what happens: every mode of many small cases, tried one by one (`advising`), and what was advised
(`judging`).

    python benchmarks/test_advise.py --data ROOT --out advice.json            # hours; goes on where it was stopped
    python benchmarks/test_advise.py --data ROOT --out advice.json --cases flowers,digits-50
    python benchmarks/test_advise.py --data ROOT --out advice.json --judge    # the tables of what is finished

ROOT has `flowers800/` and `ants_bees/{train,val}/`, a folder a class in each, and `cifar10/{train,test}/`. Digits
and textures need no file. Under pytest one small case is tried in every mode, so that all of this still runs:
advice is judged by cases of several data sets, those in a file with HEADSTART_BENCH_ADVICE=FILE.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import pytest
from advising import MODES, SETS, Outcomes, Set, exhaust
from judging import finished, judged, look, report

QUICK = SETS[:2]
SMALL, TRUNK = Set("digits", 50, 200, 32), "half"
LEARNED = 0.3
"""of ten classes, by any mode that starts from weights"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="ROOT")
    parser.add_argument("--out", type=Path, default=Path(".benchmarks/advice.json"), metavar="FILE")
    parser.add_argument("--cases", help="data sets, such as flowers,digits-50; all of them by default")
    parser.add_argument("--quick", action="store_true", help="the two smallest data sets")
    parser.add_argument("--judge", action="store_true", help="train nothing: judge what is finished")
    asked = parser.parse_args()
    named = set((asked.cases or "").split(","))
    sets = [of for of in (QUICK if asked.quick else SETS) if asked.cases is None or {of.name, of.key} & named]
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    outcomes = Outcomes(asked.out)
    if not asked.judge:
        exhaust(asked.data, sets, outcomes, lambda line: print(time.strftime("%H:%M:%S"), line, flush=True))
    look(asked.data, sets, outcomes)
    print(report(outcomes))


@pytest.mark.skipif(
    "HEADSTART_BENCH_ADVICE" not in os.environ, reason="no HEADSTART_BENCH_ADVICE=FILE of outcomes"
)
def test_advice_beside_what_happened() -> None:
    outcomes = Outcomes(Path(os.environ["HEADSTART_BENCH_ADVICE"]))
    print(f"\n{report(outcomes)}")
    ways = {way.name: way for way in judged(finished(outcomes))[0]}
    assert ways["advice"].regret <= ways["always linear"].regret


def test_a_case_is_tried_in_every_mode(tmp_path: Path) -> None:
    outcomes = Outcomes(tmp_path / "advice.json")
    exhaust(tmp_path, [SMALL], outcomes, print, [TRUNK])
    look(tmp_path, [SMALL], outcomes)
    print(f"\n{report(outcomes)}")
    (case,) = finished(outcomes)
    assert case.scores.keys() == {*MODES}
    assert min(case.scores[mode] for mode in MODES if mode != "scratch") > LEARNED, case.scores


if __name__ == "__main__":
    main()
