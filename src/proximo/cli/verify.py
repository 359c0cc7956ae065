"""`proximo verify-resume`: whose run it is decides what is trained."""

import json
from pathlib import Path

from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.resume_check import Verification
from proximo.runs.storage.folder import find_run


def verify(folder: Path, iterations: int | None, *, as_json: bool) -> int:
    """Print what `verify_run` finds; 0, or 1 where the run does not go on exactly."""
    result = verify_run(folder, iterations)
    print(json.dumps({"run": str(folder), **result.describe()}) if as_json else "\n".join(result.lines))
    return 0 if result.exact else 1


def verify_run(folder: Path, iterations: int | None) -> Verification:
    """Verify the resume of the run in a folder, with its own settings.

    Args:
        folder: of a control run, a language run, or of all stages of one.
        iterations: before the stop; None chooses.

    Raises:
        UserError: there is no such run, or it can not be trained.
    """
    if iterations is not None and iterations < 1:
        raise UserError(f"--iterations {iterations} must be at least 1")
    folder = find_run(folder)
    file = folder / "config.toml"
    settings = read_toml(file)
    if "environment" in settings:
        from proximo.control.config import TrainConfig
        from proximo.control.training.verify import verify_control

        return verify_control(from_mapping(TrainConfig, settings, where=str(file)), iterations or 2)
    if "prompts" in settings:
        from proximo.language.ppo.config import PPOConfig
        from proximo.language.ppo.verify import verify_language

        return verify_language(from_mapping(PPOConfig, settings, where=str(file)), iterations or 1)
    raise UserError(f"{folder} is no run of proximo train or proximo rlhf ppo: give the folder of one")
