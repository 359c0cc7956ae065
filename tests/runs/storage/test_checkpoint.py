import json
import math
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import warm

from proximo.errors import UserError
from proximo.runs.storage.checkpoint import (
    NewerFormatError,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    step_name,
    step_of,
)


def save(directory: Path, step: int | str, value: float | None = None, keep: int | None = None) -> Path:
    name = step if isinstance(step, str) else step_name(step)
    number = float(step if value is None else value)
    return save_checkpoint(directory, name, {"x": torch.full((100,), number)}, {"value": number}, keep=keep)


def load(path: Path) -> float:
    tensors, state = load_checkpoint(path)
    assert torch.equal(tensors["x"], torch.full((100,), state["value"]))
    return state["value"]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    return str(caught.value)


def names(directory: Path) -> list[str]:
    return sorted(item.name for item in directory.iterdir())


def test_every_kind_of_tensor_and_state_comes_back_as_it_was(tmp_path: Path):
    flat = torch.arange(6.0)
    tensors = {
        "bool": torch.tensor([True, False]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
        "float64": torch.tensor([math.pi, math.nan, -math.inf], dtype=torch.float64),
        "bf16": torch.tensor([1.5], dtype=torch.bfloat16),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "transposed": torch.arange(6).reshape(2, 3).T,
        "view": flat[:3],
        "overlap": flat,
        "gradient": torch.ones(2, requires_grad=True),
    }
    state = {"a": [1, 2.5, None, True, "ü", {"b": -math.inf}], "big": 2**100, "tiny": 5e-324}
    arrays = {"numpy": np.arange(3.0), "reversed": np.arange(3)[::-1]}
    loaded, loaded_state = load_checkpoint(save_checkpoint(tmp_path, "best", {**tensors, **arrays}, state))
    assert loaded_state == state
    for name, tensor in {**tensors, "numpy": torch.arange(3.0).double(), "reversed": torch.tensor([2, 1, 0])}.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name].nan_to_num(7), tensor.nan_to_num(7))


@pytest.mark.parametrize("state", [{"a": (1, 2)}, {"a": {1: 2}}, {"a": np.int64(1)}, {"a": [b""]}])
def test_state_that_json_would_change_is_refused_before_anything_is_written(tmp_path: Path, state: dict):
    with pytest.raises(TypeError, match=r"state\['a'\]"):
        save_checkpoint(tmp_path, "best", {}, state)
    assert names(tmp_path) == []


def test_names_sort_as_steps_and_lead_nowhere_else(tmp_path: Path):
    assert step_name(1000448) == "step-000001000448"
    assert step_of(step_name(7)) == 7
    assert step_of("best") is step_of("step-x") is None
    for name in ("../x", "", ".x", "a/b"):
        with pytest.raises(ValueError, match="name"):
            save_checkpoint(tmp_path, name, {}, {})


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_damage_to_any_file_is_found_and_named(tmp_path: Path, name: str):
    path = save(tmp_path, 1)
    file = path / name
    whole = file.read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 40)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        file.write_bytes(changed)
        message = refusal(path) if bytes(changed) != whole else ""
        assert not message or name in message
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert name in refusal(path)
    file.write_bytes(whole + b"x")
    assert name in refusal(path)
    file.unlink()
    assert f"{name} is missing" in refusal(path)
    file.write_bytes(whole)
    assert load(path) == 1


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_in_place_of_tensors_is_refused_and_not_run(tmp_path: Path, kind: str):
    path = save(tmp_path, 1)
    file = path / "tensors.safetensors"
    file.write_bytes(pickle.dumps(Bomb())) if kind == "pickle" else torch.save(Bomb(), file)
    message = refusal(path)
    assert "tensors.safetensors is a pickle" in message
    assert "can run code" in message


def test_a_header_whose_length_begins_like_a_pickle_is_not_taken_for_one(tmp_path: Path):
    # 0x0280 = 640 bytes of header: the file begins with the bytes of a pickle of protocol 2.
    for width in range(400, 640):
        path = save_checkpoint(tmp_path, "best", {"x" * width: torch.zeros(1)}, {})
        if (path / "tensors.safetensors").read_bytes()[:2] == b"\x80\x02":
            load_checkpoint(path)
            return
    pytest.fail("no such header was made")


def test_a_newer_format_asks_for_an_upgrade_and_is_not_passed_over(tmp_path: Path):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 2}))
    assert "install a newer one" in refusal(path)
    with pytest.raises(NewerFormatError):
        latest_checkpoint(tmp_path)


def test_an_absent_checkpoint_names_those_there_are(tmp_path: Path):
    save(tmp_path, "3")
    assert "choose one of 3" in refusal(tmp_path / "best")
    (tmp_path / "model.pt").write_bytes(b"")
    assert "is a file" in refusal(tmp_path / "model.pt")


def test_latest_passes_over_broken_ones_and_says_so(tmp_path: Path):
    assert latest_checkpoint(tmp_path / "absent") is None
    assert latest_checkpoint(tmp_path) is None
    for step in (9, 10, 100):
        save(tmp_path, step)
    save(tmp_path, "best", 7)
    warnings: list[str] = []
    assert latest_checkpoint(tmp_path, warn=warnings.append) == tmp_path / step_name(100)
    assert warnings == []
    (tmp_path / step_name(100) / "state.json").write_text("{}")
    assert latest_checkpoint(tmp_path, warn=warnings.append) == tmp_path / step_name(10)
    assert step_name(100) in warnings[0]
    with pytest.warns(UserWarning, match="passing over"):
        latest_checkpoint(tmp_path)
    for step in (9, 10):
        (tmp_path / step_name(step) / "tensors.safetensors").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        latest_checkpoint(tmp_path, warn=warnings.append)


def test_a_broken_one_that_was_set_aside_does_not_push_out_a_whole_one(tmp_path: Path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=2)
    (tmp_path / step_name(3) / "state.json").write_text("{}")
    warnings: list[str] = []
    assert latest_checkpoint(tmp_path, warn=warnings.append, set_aside=True) == tmp_path / step_name(2)
    assert len(warnings) == 1
    assert warnings[0].endswith(f"it is now .{step_name(3)}.broken")
    save(tmp_path, 4, keep=2)
    assert names(tmp_path) == [f".{step_name(3)}.broken", step_name(2), step_name(4)]
    assert load(tmp_path / step_name(2)) == 2
    assert latest_checkpoint(tmp_path, warn=pytest.fail) == tmp_path / step_name(4)


def test_where_none_is_whole_none_is_set_aside(tmp_path: Path):
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").unlink()
    for _ in range(2):  # the second start is refused as the first was, and does not begin a new run
        with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
            latest_checkpoint(tmp_path, warn=lambda _: None, set_aside=True)
    assert names(tmp_path) == [step_name(1), step_name(2)]


def test_keep_leaves_the_newest_and_those_with_names(tmp_path: Path):
    for step in (1, 2, 10):
        save(tmp_path, step, keep=2)
        save(tmp_path, "best", step, keep=1)
    assert names(tmp_path) == ["best", step_name(2), step_name(10)]


def test_keep_never_removes_what_was_just_saved(tmp_path: Path):
    for step in (100, 200):
        save(tmp_path, step)
    (tmp_path / step_name(200) / "state.json").unlink()  # broken, so the run went on from 100
    save(tmp_path, 150, keep=1)
    assert names(tmp_path) == [step_name(150), step_name(200)]
    save(tmp_path, 200, keep=1)
    assert names(tmp_path) == [step_name(200)]
    assert load(tmp_path / step_name(200)) == 200


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path):
    for name in (step_name(5), "best"):
        path = save(tmp_path, name, 1)
        shutil.copytree(path, tmp_path / f".{name}.tmp")
        path.rename(tmp_path / f".{name}.old")
        assert load(path) == 1
    assert latest_checkpoint(tmp_path) == tmp_path / step_name(5)
    save(tmp_path, 6)
    assert names(tmp_path) == ["best", step_name(5), step_name(6)]
    assert load(tmp_path / "best") == 1


def test_a_failing_rename_puts_the_old_copy_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path, "best", 1)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(UserError, match=r"No space left on device while writing checkpoint .*best: free space"):
            save(tmp_path, "best", 2)
    assert load(path) == 1
    assert names(tmp_path) == ["best"]


def test_a_checkpoint_is_not_written_into_a_vanished_run(tmp_path: Path):
    with pytest.raises(UserError, match="the folder is gone"):
        save(tmp_path / "absent" / "checkpoints", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"stands where a folder should be|already there"):
        save(tmp_path / "file", 1)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, step_name, step_of

directory, chance = Path(sys.argv[1]), random.Random(0)

def consistent(path):
    tensors, state = load_checkpoint(path)
    assert (tensors["x"] == state["step"]).all()
    return state["step"]

def write(first, report):
    for step in range(first, 10**9):
        tensors = {"x": torch.full((20_000,), step, dtype=torch.int64)}
        save_checkpoint(directory, step_name(step), tensors, {"step": step}, keep=2)
        save_checkpoint(directory, "best", tensors, {"step": step})
        os.write(report, b"%d\\n" % step)

done = reported = 0
for _ in range(15):
    reader, report = os.pipe()
    child = os.fork()  # torch is imported once
    if child == 0:
        write(done + 1, report)
    os.close(report)
    head = os.read(reader, 4096).decode()  # at least one step is written, however slow the machine is
    time.sleep(chance.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader) as lines:
        steps = [int(step) for step in (head + lines.read()).split()]
        reported = max([reported, *steps])  # both checkpoints of that step are written
    if reported:
        def fail(text): raise AssertionError(text)
        newest = consistent(latest_checkpoint(directory, warn=fail))
        assert newest >= max(done, reported), (newest, done, reported)
        assert consistent(directory / "best") >= reported
        done = newest
print("steps", done)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_a_writer_killed_at_any_moment_leaves_a_whole_newest_checkpoint(tmp_path: Path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = warm.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.split()[1]) >= 15
