"""`proximo lab`: experiments that show what each mechanism does."""

import json
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from proximo.cli.forms import SAYS_ITS_DEFAULT, Flag
from proximo.cli.options import command
from proximo.errors import UserError, nearest
from proximo.scale.cpus import available_cpus

_HELP = """Experiments that show what each mechanism does, measured on this very code.

  proximo lab list
  proximo lab run cliff --quick
  proximo lab run cliff --seeds 5 --docs docs/lab
  proximo lab ablate CartPole-v1 --details value_clip,recompute_advantages --seeds 5

`proximo lab run --help` and `proximo lab ablate --help` list the options.
"""


@dataclass(frozen=True)
class List:
    """List the experiments and their questions."""

    json: Flag = False
    """Print one JSON object instead of a table."""

    def __call__(self) -> int:
        """Print the list."""
        from proximo.lab.experiment import Text
        from proximo.lab.experiments import EXPERIMENTS
        from proximo.runs.console.tables import print_table

        rows = [(name, Text.of(name).question) for name in EXPERIMENTS]
        if self.json:
            print(json.dumps({"experiments": [{"name": name, "question": question} for name, question in rows]}))
        else:
            print_table(rows, ["experiment", "question"])
        return 0


@dataclass(frozen=True)
class Run:
    """Run an experiment and judge its claims. What is measured already is not measured again."""

    experiment: tyro.conf.Positional[Annotated[str, SAYS_ITS_DEFAULT]] = ""
    """Name of the experiment."""
    quick: Flag = False
    """A form of seconds, for a first look: its verdicts are of few seeds."""
    seeds: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Seeds (default: the experiment's own number)."""
    out: str = "runs/lab"
    """Folder of the measurements, one for each experiment in it."""
    docs: Annotated[str, SAYS_ITS_DEFAULT] = ""
    """Folder of pages; the experiment's is written there, with its figure (default: OUT/EXPERIMENT)."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Run it."""
        from proximo.lab.experiments import EXPERIMENTS, find

        if not self.experiment:
            raise UserError(f"which experiment? One of {', '.join(EXPERIMENTS)}, as in `proximo lab run cliff`")
        experiment = find(self.experiment)(quick=self.quick)
        asked = f"run {experiment.name}{' --quick' if self.quick else ''}"
        return _carry_out(experiment, self, Path(self.out) / experiment.name, asked)


@dataclass(frozen=True)
class Ablate:
    """Switch details of the code on and off, in a small factorial with common seeds, and print what each changes."""

    environment: tyro.conf.Positional[Annotated[str, SAYS_ITS_DEFAULT]] = ""
    """A task that `proximo train` takes."""
    details: Annotated[str, SAYS_ITS_DEFAULT] = ""
    """Names of settings, with commas between them; a wrong one lists all. Up to 3 take 8 runs for each seed, up to 7
    take 16 (default: value_clip and six others, two with --quick)."""
    steps: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Environment steps of each run (default: 60,000)."""
    quick: Flag = False
    """A form of seconds, for a first look: its verdicts are of few seeds."""
    seeds: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Seeds, common to all runs of the design (default: 5)."""
    out: str = "runs/lab"
    """Folder of the measurements, one for each task in it."""
    docs: Annotated[str, SAYS_ITS_DEFAULT] = ""
    """Folder of the page (default: beside the measurements)."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Run it."""
        from proximo.lab.experiments.details import Details
        from proximo.lab.factorial import short

        if not self.environment:
            raise UserError("which task? As in `proximo lab ablate CartPole-v1`")
        details = [name.strip() for name in self.details.split(",") if name.strip()] if self.details else None
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps = {self.steps} must be at least 1")
        experiment = Details(quick=self.quick, environment=self.environment, details=details, steps=self.steps)
        task = re.sub(r"[^\w.-]", "_", self.environment)
        named = ",".join(map(short, experiment.details))
        asked = f"ablate {self.environment}{' --quick' if self.quick else ''} --details {named}"
        folder = Path(self.out) / experiment.name / f"{task}-{experiment.steps}"
        return _carry_out(experiment, self, folder, f"{asked} --steps {experiment.steps}", table=True)


def _carry_out(experiment: Any, options: Run | Ablate, folder: Path, asked: str, *, table: bool = False) -> int:
    """Run an experiment, write its page and print its verdicts; the exit code.

    Args:
        experiment: what to run.
        options: seeds, and where the page goes.
        folder: of the measurements.
        asked: the command, without `proximo lab` and seeds.
        table: whether verdicts are printed as the page has them.
    """
    from proximo.lab import page
    from proximo.lab.experiment import Text, run

    rows = run(experiment, folder, options.seeds, lambda sentence: print(sentence, file=sys.stderr))
    judged = experiment.judged(rows)
    seeds = len({row["seed"] for row in rows})
    command = f"`proximo lab {asked} --seeds {seeds}`"
    about = f"{command}, {_spent(rows)} on {_machine()}, {time.strftime('%Y-%m-%d')}."
    written = page.write(experiment, rows, judged, Path(options.docs or folder), about)
    if options.json:
        claims = [{"says": each.claim.says, "control": each.claim.control, **vars(each.verdict)} for each in judged]
        print(json.dumps({"experiment": experiment.name, "claims": claims, "page": str(written)}))
    elif table:
        print(experiment.shown(judged))
        print(f"\n{about}\nthe page is {written}")
    else:
        print(Text.of(experiment.name).question)
        for each in judged:
            mark = "control: " if each.claim.control else ""
            print(f"  {mark}{each.claim.says}\n    {each.verdict}; what would matter is {each.claim.least:g}.")
        if experiment.quick:
            print("this was the quick form: small budgets and few seeds; without --quick it is the experiment")
        print(f"the page is {written}")
    return 0 if all(each.sound for each in judged) else 1


def _spent(rows: Sequence[Mapping[str, Any]]) -> str:
    """Minutes, and those of the processor, which other work on the machine does not lengthen, where all rows say so."""
    minutes = f"{sum(row['seconds'] for row in rows) / 60:.1f} minutes"
    if not all("processor_seconds" in row for row in rows):
        return minutes
    return f"{minutes} ({sum(row['processor_seconds'] for row in rows) / 60:.1f} of the processor)"


def _machine() -> str:
    """The processor, in words."""
    cores = available_cpus()
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{cores} core{'s' * (cores != 1)} of an {model}"


_VERBS: Mapping[str, Callable[[list[str]], int]] = {
    "list": command(List, "lab list"),
    "run": command(Run, "lab run"),
    "ablate": command(Ablate, "lab ablate"),
}


def main(arguments: list[str]) -> int:
    """List or run; the exit code is 1 where a control came out as supported."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if arguments else 2
    if arguments[0] not in _VERBS:
        likely = nearest(arguments[0], _VERBS) or " or ".join(_VERBS)
        raise UserError(f"there is no `proximo lab {arguments[0]}`: did you mean {likely}?")
    return _VERBS[arguments[0]](list(arguments[1:]))


VERBS: Mapping[str, Callable[[list[str]], int]] = {"lab": main}
