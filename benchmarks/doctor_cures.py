"""Do the doctor's proposals help? Broken runs of `known_answer_cases`, trained anew with what is proposed first.

python benchmarks/doctor_cures.py             # about 3 minutes on one core; a table in Markdown, row by row
python benchmarks/doctor_cures.py --seed 3
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from known_answer_cases import BROKEN, Case

import proximo
from proximo.control.config import TrainConfig
from proximo.control.run import run_training
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.doctor.diagnosis import Change

CURED = (
    "learning-rate-x100",
    "learning-rate-x100-cheetah",
    "learning-rate-x100-pendulum",
    "learning-rate-per-1000",
    "learning-rate-per-1000-cheetah",
    "no-clip",
    "no-clip-pendulum",
    "huge-epochs",
    "gamma",
    "gamma-cartpole",
    "value-coefficient-0",
    "entropy-collapse",
    "no-exploration",
    "entropy-bonus",
)


def settings(changes: tuple[Change, ...]) -> dict[str, Any]:
    """Proposed options as nested tables, as a TOML file would have them."""
    tables: dict[str, Any] = {}
    for change in changes:
        *path, name = change.option.replace("-", "_").split(".")
        table = tables
        for part in path:
            table = table.setdefault(part, {})
        table[name] = _value(change.proposed.strip("'"))
    return tables


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _last_return(run: Path) -> float:
    """The last one that was known."""
    return [row["return"] for row in proximo.metrics(run) if row["return"] is not None][-1]


def cure(case: Case, folder: Path, seed: int) -> str:
    """A row of the table: what was planted, what was proposed, and the return without and with it."""
    assert case.make is not None
    broken, cured = folder / "broken", folder / "cured"
    case.make(broken, seed)
    before = proximo.diagnose(broken)
    changes = tuple(change for change in before.diagnoses[0].changes if change.proposed)
    config = from_mapping(TrainConfig, read_toml(broken / "config.toml"), where="the broken run")
    config = from_mapping(TrainConfig, {**settings(changes), "run": str(cured)}, where="the proposal", base=config)
    run_training(config, mode="quiet")
    after = proximo.diagnose(cured)
    returns = [_last_return(run) for run in (broken, cured)]
    said = ", ".join(f"`{change}`" for change in changes)
    return f"| {case.planted} | {said} | {returns[0]:,.0f} | {returns[1]:,.0f} | {after.health} |"


def main() -> None:
    """Print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    print("| planted | proposed | last return, broken | with the proposal | then |\n|---|---|---|---|---|")
    for case in BROKEN:
        if case.name in CURED:
            with tempfile.TemporaryDirectory() as folder:
                print(cure(case, Path(folder), seed), flush=True)


if __name__ == "__main__":
    main()
