import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from proximo.errors import UserError
from proximo.runs.storage.metrics import MetricsWriter, read_metrics


def test_a_row_holds_what_was_measured_and_names_what_was_not_finite(tmp_path: Path):
    values = {"a/b": 0.1, "n": 3, "text": "ü", "none": None, "nan": math.nan, "inf": -math.inf, "np": np.float32(0.5)}
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(10, values)
        writer.write(np.int64(20), {"n": np.int64(4)})
    first, second = read_metrics(writer.path)
    assert first["step"] == 10
    assert 0 <= first["time"] < 10
    assert first["not_finite"] == ["nan", "inf"]
    finite = {"a/b": 0.1, "n": 3, "text": "ü", "none": None, "np": 0.5}
    assert {name: first[name] for name in values} == finite | {"nan": None, "inf": None}
    assert second["n"] == 4
    assert "not_finite" not in second
    assert "NaN" not in writer.path.read_text()
    assert not (tmp_path / "tensorboard").exists()


def test_names_and_kinds_that_a_row_cannot_hold_are_refused(tmp_path: Path):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="'time'"):
            writer.write(1, {"time": 1.0})
        with pytest.raises(TypeError, match="'x' is a list"):
            writer.write(1, {"x": [1.0]})
    assert read_metrics(writer.path) == []
    with pytest.raises(ValueError, match="closed"):
        writer.write(1, {})


def test_a_resumed_run_has_every_step_once_and_its_clock_goes_on(tmp_path: Path):
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3, 4):
            writer.write(step, {"x": step})
    rows = [json.loads(line) | {"time": 1000.0 + i} for i, line in enumerate(writer.path.read_text().splitlines())]
    writer.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with MetricsWriter(tmp_path) as writer:
        writer.truncate_after(2)
        writer.write(3, {"x": -3})
    rows = read_metrics(writer.path)
    assert [(row["step"], row["x"]) for row in rows] == [(1, 1), (2, 2), (3, -3)]
    assert rows[2]["time"] >= 1001.0
    assert sorted(item.name for item in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


@pytest.mark.parametrize("torn", [b'{"step": 3, "ti', b'{"step": 3, "time": 1}', b"\x00\x00\x00", b"\x00\x00\n"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: bytes):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"x": 1})
    with open(writer.path, "ab") as file:
        file.write(torn)
    assert [row["step"] for row in read_metrics(writer.path)] == [1]
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(2, {"x": 2})
    assert [row["step"] for row in read_metrics(writer.path)] == [1, 2]


def test_damage_in_the_middle_is_named_and_not_passed_over(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "time": 0.1}\n'
    for bad in (b"{}\n", b"\n", b'{"step": 1, "tim{"step": 2, "time": 1}\n', b"\xff\n"):
        path.write_bytes(good + bad + good)
        with pytest.raises(UserError, match=r"line 2 of .*metrics\.jsonl is damaged"):
            read_metrics(path)
        with pytest.raises(UserError):
            MetricsWriter(tmp_path)
    with pytest.raises(UserError, match="absent"):
        read_metrics(tmp_path / "absent")


def test_a_deleted_file_is_noticed(tmp_path: Path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {})
        writer.path.unlink()
        with pytest.raises(UserError, match="was deleted"):
            writer.write(2, {})


def test_every_line_survives_a_kill(tmp_path: Path):
    code = """
import os, signal, sys; from pathlib import Path; from proximo.runs.storage.metrics import MetricsWriter
writer = MetricsWriter(Path(sys.argv[1]), tensorboard=False)
for step in range(50): writer.write(step, {"x": 1.0})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 50


def test_tensorboard_reads_the_same_scalars_and_forgets_what_a_resume_took_back(tmp_path: Path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3, 4):
            writer.write(step, {"loss/policy": step / 10, "text": "x", "none": None})
    with MetricsWriter(tmp_path) as writer:
        writer.truncate_after(2)
        writer.write(3, {"loss/policy": 3.5, "nan": math.nan})
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss/policy", "nan"]
    scalars = [(event.step, event.value) for event in events.Scalars("loss/policy")]
    assert [step for step, _ in scalars] == [1, 2, 3]
    assert [value for _, value in scalars] == [struct.unpack("f", struct.pack("f", x))[0] for x in (0.1, 0.2, 3.5)]


def test_opening_a_run_imports_neither_torch_nor_tensorboard():
    code = """
import sys
import proximo.runs.config.toml, proximo.runs.storage.folder, proximo.runs.storage.metrics
import proximo.runs.console.progress, proximo.runs.session.signals
print([name for name in ("torch", "tensorboard", "numpy", "rich") if name in sys.modules])
import proximo.runs.storage.tensorboard
print([name for name in ("torch", "tensorflow") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[:2] == ["[]", "[]"]


def test_an_infinity_that_somebody_else_wrote_stays_and_breaks_nothing(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0, "time": 0.1, "loss": Infinity}\n{"step": 5, "time": 0.2, "loss": 1.0}\n')
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.truncate_after(0)
        writer.write(1, {"loss": 2.0})
    assert [row["loss"] for row in read_metrics(file)] == [float("inf"), 2.0]


def test_a_file_that_can_not_be_read_is_no_folder_to_write_to(tmp_path: Path):
    with pytest.raises(UserError, match=r"No such file or directory while reading .*none\.jsonl: check the path$"):
        read_metrics(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"Is a directory while reading .*: give a file$"):
        read_metrics(tmp_path)
