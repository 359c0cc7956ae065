"""`proximo doctor`: a run or an environment, as text or JSON."""

import json
from pathlib import Path


def examine(what: str, seed: int, backend: str, *, as_json: bool) -> int:
    """Examine a run if `what` is a folder, else an environment.

    Raises:
        UserError: there is neither.
    """
    folder = Path(what)
    if not folder.is_dir():
        return _environment(what, seed, backend, as_json=as_json)
    # `proximo rlhf all` keeps its PPO run in a folder of its own.
    inner = folder / "ppo"
    return _run(inner if not (folder / "config.toml").is_file() and inner.is_dir() else folder, as_json=as_json)


def _run(folder: Path, *, as_json: bool) -> int:
    from proximo.runs.doctor import examine_run, format_report

    report = examine_run(folder)
    print(json.dumps(report.plain()) if as_json else format_report(report))
    return 0


def _environment(name: str, seed: int, backend: str, *, as_json: bool) -> int:
    from proximo.control.examine import examine as explore
    from proximo.control.examine_rules import findings, format_examination, plain

    seen = explore(name, backend=backend, seed=seed)
    wrong = findings(seen)
    print(json.dumps(plain(seen, wrong)) if as_json else format_examination(seen, wrong))
    return 0
