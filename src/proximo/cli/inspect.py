"""`proximo evaluate`, `doctor`, `verify-resume` and `replay`: a run on disk, asked."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from proximo import inspection
from proximo.cli.forms import SAYS_ITS_DEFAULT, Flag
from proximo.cli.options import command
from proximo.cli.results import three_numbers
from proximo.errors import UserError, nearest
from proximo.foreign_options import ASKING
from proximo.inspection import Backend


@dataclass(frozen=True)
class Evaluate:
    """Run episodes with a trained policy, on seeds that training never saw."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    episodes: int = 20
    """Episodes for each of the three numbers."""
    seed: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Seed of the episodes (default: one that neither training nor its own evaluations have used)."""
    episode_limit: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Steps after which an episode is cut (default: the run's)."""
    against: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """Folder of a run whose policy plays the other seats of a game (default: a random player does)."""
    json: Flag = False
    """Print one JSON object instead of a table."""

    def __call__(self) -> int:
        """Print what `evaluate` finds."""
        results = inspection.evaluate(
            self.run, self.episodes, seed=self.seed, episode_limit=self.episode_limit, against=self.against
        )
        if self.json:
            print(json.dumps(results))
            return 0
        from proximo.runs.console.tables import print_results

        which = "that training never saw" if self.seed is None else "as asked for"
        episodes = f"{self.episodes} episodes {which} (seed {results['seed']})"
        print_results(three_numbers(results), f"{results['environment']}, {self.run}: {episodes}")
        return 0


@dataclass(frozen=True)
class Doctor:
    """Diagnose a run, or an environment under random actions, and say what to change first.

    The exit code is 1 where something is red.
    """

    what: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RUN|ENVIRONMENT|CODE")]]
    """Folder of a run (control or language), an environment as `proximo train` takes it, or the code of a finding whose
    page is printed, as P020."""
    seed: int = 0
    """Seed of an environment and of the random actions."""
    backend: Backend = "auto"
    """Backend that steps an environment."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Print what `diagnose` finds; 1 if something is red, else 0."""
        is_code = re.fullmatch(r"([PE]\d{3})(-[\w-]+)?", self.what, re.IGNORECASE)
        if is_code and not Path(self.what).is_dir():
            return _page(is_code[1].upper(), as_json=self.json)
        report = inspection.diagnose(self.what, seed=self.seed, backend=self.backend)
        print(json.dumps(report.plain()) if self.json else report)
        return int(report.health == "red")


def _page(number: str, *, as_json: bool) -> int:
    """Print what a finding means."""
    from proximo.runs.health.codes import CODES

    if number not in CODES:
        raise UserError(f"there is no finding {number}: did you mean {nearest(number, CODES) or 'P001'}?")
    text = CODES[number].text
    print(json.dumps({"code": number, "page": text}) if as_json else text, end="\n" if as_json else "")
    return 0


@dataclass(frozen=True)
class Verify:
    """Check that resuming this run is exact, bit for bit, and say what is not.

    Trains a few iterations with the run's settings in temporary folders: through, stopped half-way, and killed. The
    run itself is only read. The exit code is 1 where it does not hold.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a run of `proximo train` or `proximo rlhf ppo`."""
    iterations: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Iterations before the stop, and as many after it (default: 2 for an environment, 1 for a language model)."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Print what `verify_resume` finds; 1 where the run does not resume exactly, else 0."""
        result = inspection.verify_resume(self.run, self.iterations)
        print(json.dumps({"run": str(self.run), **result.describe()}) if self.json else "\n".join(result.lines))
        return 0 if result.exact else 1


@dataclass(frozen=True)
class Replay:
    """Repeat one of a run's last updates: is it the same, what was not finite first, and what if a setting changes?

    Names the samples whose log-prob changed most and those with the largest advantage. The run is only read.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a run of `proximo train` or `proximo rlhf ppo`."""
    iteration: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Update, counted from 0 (default: the newest that is kept)."""
    set: str | None = None
    """KEY=VALUE: the same update with one setting changed, beside it (target_kl=0.03, learning_rate=1e-4, clip=0.1)."""
    json: Flag = False
    """Print one JSON object instead of a table."""

    def __call__(self) -> int:
        """Print what `replay` finds."""
        found = inspection.replay(self.run, self.iteration, self.set)
        if self.json:
            print(json.dumps({"run": str(self.run), **found.describe()}))
            return 0
        from proximo.runs.console.tables import print_table

        print(f"iteration {found.iteration} of {self.run} (kept: {', '.join(map(str, found.kept))}): {found.verdict}")
        headings = ["", "as it ran"] + ([f"with {found.change}"] if found.change else [])
        print_table(found.rows(), headings)
        print("\n".join(found.lines))
        return 0


VERBS: Mapping[str, Callable[[list[str]], int]] = {
    "evaluate": command(Evaluate, "evaluate", ASKING),
    "doctor": command(Doctor, "doctor", ASKING),
    "verify-resume": command(Verify, "verify-resume"),
    "replay": command(Replay, "replay"),
}
