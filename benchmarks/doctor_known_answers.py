"""Known answers: does `proximo doctor` name the planted cause first, and leave healthy runs alone?

    python benchmarks/doctor_known_answers.py --out answers.jsonl            # everything, about 8 minutes on one core
    python benchmarks/doctor_known_answers.py --out answers.jsonl --seed 7   # with seeds no rule was written on
    python benchmarks/doctor_known_answers.py --out answers.jsonl --only gamma,no-clip
    python benchmarks/doctor_known_answers.py --out answers.jsonl --table    # what is there, in Markdown

Every run is really trained; a case that is in the file is not repeated, and each is written as it ends.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))

from known_answer_cases import BROKEN, ENVIRONMENTS, HEALTHY, HEALTHY_ENVIRONMENTS, Case

import proximo
from proximo.control.check.explore import examine
from proximo.control.check.report import findings
from proximo.runs.health import Finding

CASES = (*BROKEN, *ENVIRONMENTS, *HEALTHY, *HEALTHY_ENVIRONMENTS)


def answer(case: Case, folder: Path, seed: int) -> dict[str, Any]:
    """Run a case and ask the doctor.

    Args:
        case: what to run.
        folder: in which a run is made.
        seed: of the run, or of the random actions.

    Returns:
        `findings`, the worst first, as [severity, label, evidence]; `right`: the planted cause came first, or nothing
        red was found where nothing was planted; `seconds`.
    """
    started = time.monotonic()
    seen: list[Finding]
    if case.make is None:
        seen = findings(examine(case.environment, seed=seed))
    else:
        case.make(folder / case.name, seed)
        seen = [diagnosis.finding for diagnosis in proximo.diagnose(folder / case.name).diagnoses]
    first = seen[0].code.number if seen else ""
    right = first in case.codes if case.codes else not any(finding.severity == "red" for finding in seen)
    return {
        "case": case.name,
        "planted": case.planted,
        "expected": list(case.codes),
        "seed": seed,
        "findings": [[f.severity, f.code.label, f.evidence] for f in seen],
        "right": right,
        "seconds": round(time.monotonic() - started, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: the broken ones, the healthy ones, and the counts."""
    lines = []
    for title, chosen in (
        ("planted", [r for r in rows if r["expected"]]),
        ("healthy", [r for r in rows if not r["expected"]]),
    ):
        lines += [f"| {title} | found first | evidence | |", "|---|---|---|---|"]
        for row in chosen:
            severity, label, evidence = row["findings"][0] if row["findings"] else ("green", "", "")
            name = row["planted"] or row["case"]
            lines.append(f"| {name} | {severity} {label} | {evidence} | {'yes' if row['right'] else '**no**'} |")
        lines += ["", f"{sum(r['right'] for r in chosen)} of {len(chosen)} right.", ""]
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="names of cases, separated by commas")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    if arguments.table:
        print(table([row for row in rows if row["seed"] == arguments.seed]))
        return
    done = {(row["case"], row["seed"]) for row in rows}
    chosen = set(filter(None, arguments.only.split(",")))
    for case in CASES:
        if (case.name, arguments.seed) in done or (chosen and case.name not in chosen):
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = answer(case, Path(folder), arguments.seed)
        with arguments.out.open("a") as out:
            out.write(json.dumps(row) + "\n")
        said = row["findings"][0][:2] if row["findings"] else ["green"]
        print(f"{'right' if row['right'] else 'WRONG'}  {case.name}: {' '.join(said)} ({row['seconds']} s)", flush=True)


if __name__ == "__main__":
    main()
