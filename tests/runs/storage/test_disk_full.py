"""Full disks, for real: a tiny file system where the system lets us mount one, a limit on file sizes everywhere."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import warm

from proximo.errors import UserError
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, step_name
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.metrics import MetricsWriter, read_metrics

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no tmpfs and no RLIMIT_FSIZE")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> None:
    with open(disk / "filler", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 512)


def write_until_full(folder: Path, tensorboard: bool) -> None:
    with MetricsWriter(folder, tensorboard=tensorboard) as writer:
        for step in range(10_000):
            writer.write(step, {"loss/policy": 0.1 * step, "loss/value": 0.3})


def test_a_full_disk_costs_the_new_checkpoint_and_not_the_old(tiny_disk: Path):
    small, large = {"x": torch.zeros(100)}, {"x": torch.zeros(200_000)}
    save_checkpoint(tiny_disk, step_name(1), small, {"step": 1})
    save_checkpoint(tiny_disk, "best", small, {"step": 1})
    for name in (step_name(2), "best"):
        with pytest.raises(UserError, match=r"No space left on device while writing checkpoint .*: free space and run"):
            save_checkpoint(tiny_disk, name, large, {"step": 2})
    assert sorted(item.name for item in tiny_disk.iterdir()) == ["best", step_name(1)]
    assert latest_checkpoint(tiny_disk, warn=pytest.fail) == tiny_disk / step_name(1)
    assert load_checkpoint(tiny_disk / "best")[1] == {"step": 1}


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_full_disk_leaves_only_whole_lines_of_metrics(tiny_disk: Path, tensorboard: bool):
    with pytest.raises(UserError, match=r"No space left on device while writing .*(metrics\.jsonl|tfevents)"):
        write_until_full(tiny_disk, tensorboard)
    rows = read_metrics(tiny_disk / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert len(rows) > 100
    assert (tiny_disk / "metrics.jsonl").read_bytes().endswith(b"}\n")


def test_a_run_is_not_created_on_a_full_disk(tiny_disk: Path):
    fill(tiny_disk)
    with pytest.raises(UserError, match="No space left on device"):
        RunFolder(tiny_disk / "runs" / "one").create("steps = 1\n" * 1000)
    assert [item.name for item in tiny_disk.iterdir()] == ["filler"]


def test_a_read_only_disk_is_named(tiny_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    for attempt in (
        lambda: RunFolder(tiny_disk / "one").create(""),
        lambda: save_checkpoint(tiny_disk, "best", {}, {}),
        lambda: MetricsWriter(tiny_disk),
    ):
        with pytest.raises(UserError, match=r"Read-only file system while .* not read-only"):
            attempt()


LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, step_name
from proximo.errors import UserError
from proximo.runs.storage.metrics import MetricsWriter, read_metrics

folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
save_checkpoint(folder / "checkpoints", "best", {"x": torch.zeros(100)}, {"step": 1})
try:
    save_checkpoint(folder / "checkpoints", "best", {"x": torch.zeros(100_000)}, {"step": 2})
except UserError as error:
    print(error)
assert load_checkpoint(folder / "checkpoints" / "best")[1] == {"step": 1}
assert [item.name for item in (folder / "checkpoints").iterdir()] == ["best"]
writer = MetricsWriter(folder, tensorboard=False)
try:
    for step in range(1000):
        writer.write(step, {"loss": 0.1})
except UserError as error:
    print(error)
assert len(read_metrics(folder / "metrics.jsonl")) == step
assert (folder / "metrics.jsonl").read_bytes().endswith(b"}\\n")
"""


def test_a_limit_on_file_sizes_leaves_whole_files(tmp_path: Path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    process = warm.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("File too large while writing") == 2
    assert process.stdout.count("ulimit -f") == 2
