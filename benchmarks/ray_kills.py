"""Workers of Ray Train that are killed, again and again: does the run come to what it would have been?

    python benchmarks/ray_kills.py --kills 50 --out ray_kills.jsonl

One Ray cluster of this machine has many trainings of two workers, each killed `--per-run` times by SIGKILL. A seeded
generator draws each moment: as the workers start, at any iteration, or while a checkpoint is written; and which
worker. Ray Train starts all workers anew. At its end a training is compared with one that was never killed: policy,
optimiser and best policy to the bit, and each recorded iteration. One line of JSON for each kill goes to `--out` once
its training was compared, so that the same command goes on where it was stopped.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics

ITERATIONS, EVERY = 100, 4  # of a training, and between two checkpoints
OPTIONS = [
    *("--environments", "4", "--rollout-length", "64", "--steps", str(256 * ITERATIONS), "--episodes", "1"),
    *("--checkpoint-every", str(256 * EVERY), "--update.epochs", "4", "--update.minibatch-size", "32", "--quiet"),
]
KINDS = ("start", "iteration", "checkpoint")
MARK = "PROXIMO_RAY_KILLS"  # variable of every process of our cluster, so that no other one's worker is killed
NICENESS = "RAY_worker_niceness"
PATIENCE = 300  # seconds without a word of a training: it hangs


class Training:
    """A training under Ray that is killed."""

    def __init__(self, folder, restarts):
        self.folder, self.metrics = folder, folder / "metrics.jsonl"
        command = [sys.executable, "-m", "proximo", "train", "CartPole-v1", "--launch", "ray", "--workers", "2"]
        self.process = subprocess.Popen(
            [*command, "--restarts", str(restarts), "--run", folder.name, *OPTIONS],
            cwd=folder.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.seen, self.start = set(), 10.0  # workers that were, and seconds from theirs to a row

    def rows(self):
        return len(read_metrics(self.metrics)) if self.metrics.exists() else 0

    def written(self):
        return self.metrics.stat().st_mtime if self.metrics.exists() else 0.0

    def until(self, true, pause=0.005):
        """Wait; False where the training ended before."""
        limit = time.monotonic() + PATIENCE
        while not true():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > limit:
                raise SystemExit(f"{self.folder} hangs")
            time.sleep(pause)
        return True

    def new(self):
        return [pid for pid in workers() if pid not in self.seen]

    def kill(self, kind, at, share, first):
        """Kill one worker of those that have just been started; what was seen of it, None where the training ended."""
        if not self.until(self.new, 0.1):  # it looks at all processes of the machine
            return None
        began = time.time()
        if kind == "start":
            time.sleep(share * self.start)
        else:
            if not self.until(lambda: self.written() > began):
                return None
            self.start = time.time() - began
            at = max(at, self.rows() + 1)
            if not self.until(lambda: self.rows() >= at):
                return None
            if kind == "checkpoint" and not self.until(self.writing):
                return None
            time.sleep(share * (0.003 if kind == "checkpoint" else 0.1))
        here = self.new()
        if not here or self.process.poll() is not None:
            return None
        writers = [pid for pid in here if self.writes(pid)]
        meant = [pid for pid in here if (pid in writers) == first] if writers else here
        pid = random.Random(share).choice(meant or here)
        os.kill(pid, signal.SIGKILL)
        self.seen |= set(here)
        rank = "not known" if not writers else "0" if pid in writers else "1"
        return {"rank": rank, "rows": self.rows(), "writing": self.writing(), "time": time.time()}

    def writing(self):
        place = self.folder / "checkpoints"
        return place.is_dir() and any(name.startswith(".") for name in os.listdir(place))

    def writes(self, pid):
        """Whether a process has a file of the run open, as rank 0 has."""
        with suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if os.readlink(descriptor).startswith(str(self.folder)):
                        return True
        return False


def workers():
    """Processes of our cluster that train."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            named = b"RayTrainWorker" in (folder / "cmdline").read_bytes()
            if named and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return sorted(found)


def differences(whole, killed):
    """Names of what two trainings have learnt that is not the same to the bit, and of the iterations that differ."""
    (a, _), (b, _) = (load_checkpoint(run / "checkpoints" / "final") for run in (whole, killed))
    learnt = [name for name in a if name.startswith(("policy/", "optimizer/", "best/"))]
    rows = [[untimed(row) for row in read_metrics(run / "metrics.jsonl")] for run in (whole, killed)]
    other = [name for name in learnt if name not in b or not a[name].equal(b[name])]
    return other + [f"row {i}" for i, (x, y) in enumerate(zip(*rows, strict=False)) if x != y] + (
        ["number of rows"] if len(rows[0]) != len(rows[1]) else []
    )  # fmt: skip


def untimed(row):
    return {k: v for k, v in row.items() if not k.startswith(("seconds", "memory", "time", "steps_per"))}


def one(run, kills, seed, home):
    """Train once, killed so often: a row for each kill that hit."""
    chance = random.Random(f"{seed}-{run}")
    shutil.rmtree(home / f"run-{run}", ignore_errors=True)  # of a call that was stopped
    training = Training(home / f"run-{run}", kills)
    done = []
    for at in sorted(chance.randrange(ITERATIONS) for _ in range(kills)):
        kind, share, first = chance.choice(KINDS), chance.random(), chance.random() < 0.5
        was = training.kill(kind, at, share, first)
        if was is None:
            break
        done.append({"run": run, "kind": kind, **was})
        print(f"  run {run}: {kind}, {was}", file=sys.stderr, flush=True)
    said = training.process.communicate(timeout=PATIENCE)[0]
    code = training.process.returncode
    other = ["exit code"] if code else differences(home / "whole", training.folder)
    if other:
        print(said, other, file=sys.stderr)
    return [{**row, "code": code, "other": other} for row in done]


def summary(rows):
    print("| killed as | kills | equal to the uninterrupted run |\n|---|---|---|")
    for kind in (*KINDS, None):
        mine = [row for row in rows if kind in (row["kind"], None)]
        print(f"| {kind or 'all'} | {len(mine)} | {sum(not row['other'] for row in mine)} |")
    told = {name: sum(row["rank"] == name for row in rows) for name in ("0", "1", "not known")}
    print(f"by rank: {told}; amid the writing of a checkpoint: {sum(row['writing'] for row in rows)}")
    gaps = [b["time"] - a["time"] for a, b in itertools.pairwise(rows) if a["run"] == b["run"]]
    if gaps:
        print(f"seconds from a kill to the next: median {statistics.median(gaps):.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--per-run", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("ray_kills.jsonl"))
    parser.add_argument("--home", type=Path, help="where the trainings lie; a folder that is deleted, if not given")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    if len(rows) < given.kills:
        import ray

        os.environ[MARK] = str(os.getpid())
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"  # 2 s otherwise
        os.environ[NICENESS] = "0"  # 15 otherwise, which starves them where others compute too
        asked = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 200_000_000}
        while not ray.is_initialized():
            try:
                ray.init(logging_level="ERROR", **asked)
            except Exception as error:  # Ray gives a start 30 s, which a busy machine exceeds
                print(error, file=sys.stderr)
                ray.shutdown()
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        with tempfile.TemporaryDirectory() as folder:
            home = given.home or Path(folder)
            command = [sys.executable, "-m", "proximo", "train", "CartPole-v1", "--ranks", "2"]
            subprocess.run([*command, "--run", str(home / "whole"), *OPTIONS], check=True)
            run = max((row["run"] for row in rows), default=-1)
            while len(rows) < given.kills:
                run += 1
                new = one(run, min(given.per_run, given.kills - len(rows)), given.seed, home)
                rows += new
                with given.out.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
    summary(rows)


if __name__ == "__main__":
    main()
