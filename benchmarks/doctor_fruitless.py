"""Does `proximo doctor` name the reason why a run learns nothing, and leave runs alone that learn?

    python benchmarks/doctor_fruitless.py --out fruitless.jsonl --set tuned-on     # the half that rules are written on
    python benchmarks/doctor_fruitless.py --out fruitless.jsonl --set held-out
    python benchmarks/doctor_fruitless.py --out fruitless.jsonl --set unseen       # eight more, written last
    python benchmarks/doctor_fruitless.py --out fruitless.jsonl --set healthy
    python benchmarks/doctor_fruitless.py --out fruitless.jsonl --set nothing-to-gain
    python benchmarks/doctor_fruitless.py --out fruitless.jsonl --set healthy --table

Every run is really trained; a case that is in the file is not repeated, and each is written as it ends. With `--runs`
the runs are kept, and asked again without training where they are there already.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import fruitless_cases as cases_of
from doctor_known_answers import answer, table
from fruitless_unseen import UNSEEN

SETS = {
    "tuned-on": cases_of.TUNED_ON,
    "held-out": cases_of.HELD_OUT,
    "unseen": UNSEEN,
    "healthy": cases_of.HEALTHY,
    "nothing-to-gain": cases_of.NOTHING_TO_GAIN,
    "environments-tuned-on": cases_of.ENVIRONMENTS_TUNED_ON,
    "environments-held-out": cases_of.ENVIRONMENTS_HELD_OUT,
    "environments-sound": cases_of.SOUND_ENVIRONMENTS,
}


def counts(rows: list[dict[str, Any]]) -> str:
    """How many rows are right, and how many have any finding, red or amber, that says nothing was learnt."""
    said = [row["case"] for row in rows if any(label[:4] in ("P046", "P064") for _, label, _ in row["findings"])]
    red = [row["case"] for row in rows if any(severity == "red" for severity, *_ in row["findings"])]
    right = sum(row["right"] for row in rows)
    return f"{right} of {len(rows)} right; red: {len(red)}; learnt nothing: {len(said)} {said if len(said) < 9 else ''}"


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=SETS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, help="a folder in which the runs are kept")
    parser.add_argument("--only", default="", help="names of cases, separated by commas")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    rows = [row for row in rows if row["seed"] == arguments.seed]
    chosen = set(filter(None, arguments.only.split(",")))
    cases = [case for case in SETS[arguments.set] if not chosen or case.name in chosen]
    if arguments.table:
        mine = [row for row in rows if row["case"] in {case.name for case in cases}]
        print(table(mine))
        print(counts(mine))
        return
    done = {row["case"] for row in rows}
    for case in cases:
        if case.name in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            where = Path(folder) if arguments.runs is None else arguments.runs / str(arguments.seed)
            where.mkdir(parents=True, exist_ok=True)
            row = answer(case, where, arguments.seed)
        with arguments.out.open("a") as out:
            out.write(json.dumps(row) + "\n")
        said = row["findings"][0] if row["findings"] else ["green"]
        print(
            f"{'right' if row['right'] else 'WRONG'}  {case.name}: {' | '.join(said)} ({row['seconds']} s)", flush=True
        )


if __name__ == "__main__":
    main()
