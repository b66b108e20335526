"""Advice beside what happens: every mode of many small cases, tried one by one (`advising`), and what was advised
(`judging`).

    python benchmarks/test_advise.py --data ROOT --out advice.json            # hours; goes on where it was stopped
    python benchmarks/test_advise.py --data ROOT --out advice.json --cases flowers,digits-50
    python benchmarks/test_advise.py --data ROOT --out advice.json --judge    # the tables of what is finished

ROOT has `flowers800/` and `ants_bees/{train,val}/`, a folder a class in each, and `cifar10/{train,test}/`. Digits
and textures need no file. Under pytest the smallest cases of these are tried; with HEADSTART_BENCH_ADVICE=FILE
the outcomes in a file are judged instead.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from advising import SETS, Outcomes, exhaust
from judging import finished, judged, look, report

QUICK = SETS[:2]


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


def test_advice_beside_what_happens(tmp_path: Path) -> None:
    file: Any = os.environ.get("HEADSTART_BENCH_ADVICE")
    outcomes = Outcomes(Path(file) if file else tmp_path / "advice.json")
    if not file:
        exhaust(tmp_path, QUICK, outcomes, print)
        look(tmp_path, QUICK, outcomes)
    print(f"\n{report(outcomes)}")
    ways = {way.name: way for way in judged(finished(outcomes))[0]}
    assert ways["advice"].regret <= ways["always linear"].regret


if __name__ == "__main__":
    main()
