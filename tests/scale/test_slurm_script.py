"""The SLURM script of docs/scaling.md, with stand-ins for SLURM; benchmarks/slurm_here.sh asks the real one."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "scaling.md"
COMMANDS = {
    "srun": 'echo begun > "$0.begun"; until [ -e "$0.end" ]; do sleep 0.02; done; exit "$(cat "$0.end")"',
    "scontrol": '[ "$1" = show ] && echo here || echo "$@" >> "$0.said"',
    "scancel": 'echo "$@" >> "$0.said"',
}


@pytest.mark.parametrize(("stopped", "code"), [(False, 0), (False, 2), (True, 143)])
def test_the_job_ends_as_the_training_did_and_is_requeued_where_it_was_told_to_stop(stopped, code, tmp_path):
    for name, body in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = re.search(r"```bash\n(#!/bin/bash\n.*?)```", DOCS.read_text("utf-8"), re.DOTALL)[1]
    (tmp_path / "job").write_text(script)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    process = subprocess.Popen(["bash", tmp_path / "job"], env=variables)
    while not (tmp_path / "srun.begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    said = [tmp_path / f"{name}.said" for name in ("scancel", "scontrol")]
    if stopped:
        process.send_signal(signal.SIGTERM)
        while not said[0].exists():
            assert process.poll() is None
            time.sleep(0.01)
        assert said[0].read_text() == "--signal=TERM 7\n"
    (tmp_path / "end").write_text(f"{code}\n")
    (tmp_path / "end").rename(tmp_path / "srun.end")
    assert process.wait(60) == code
    assert said[1].exists() == stopped
    if stopped:
        assert said[1].read_text() == "requeue 7\n"
