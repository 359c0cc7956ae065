"""Fuzzed checkpoints, configurations, metrics and results: a value or one clear sentence, nothing is run."""

import hashlib
import json
import pickle
from dataclasses import dataclass, field

import pytest
import torch
from fuzzing import Bomb, altered, answered, cases, damaged, junk, retyped, scalars, values
from hypothesis import given
from hypothesis import strategies as st

from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping, read_toml, to_toml
from proximo.runs.session.opening import read_results
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, step_name
from proximo.runs.storage.metrics import MetricsWriter, read_metrics

FILES = ("tensors.safetensors", "state.json", "manifest.json")
STATE = {"progress": {"steps": 64, "iterations": 2}, "returns": [1.0, 2.5], "best": None, "random": {"a": "torch"}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    path = save_checkpoint(folder, step_name(1), {"a": torch.arange(6.0), "b": torch.zeros(2, 3)}, STATE)
    return path, {name: (path / name).read_bytes() for name in FILES}


@given(st.data())
@cases(1500)
def test_a_damaged_checkpoint_is_refused(checkpoint, data):
    path, whole = checkpoint
    name = data.draw(st.sampled_from(FILES))
    content = data.draw(st.one_of(damaged(whole[name]), junk))
    for other in FILES:
        (path / other).write_bytes(whole[other])
    (path / name).write_bytes(content)
    with answered():
        tensors, state = load_checkpoint(path)
        assert state == STATE, "what is not refused is what was written"
        assert torch.equal(tensors["a"], torch.arange(6.0))
    with answered():
        latest_checkpoint(path.parent, warn=lambda _: None)


@given(st.data())
@cases(1200)
def test_a_hostile_checkpoint_with_true_sums_is_refused_or_read(checkpoint, data):
    """Sums tell damage, not malice: what a stranger wrote is parsed, and parsing runs nothing."""
    path, whole = checkpoint
    files = {
        "tensors.safetensors": data.draw(
            st.one_of(st.just(whole["tensors.safetensors"]), damaged(whole[FILES[0]]), junk)
        ),
        "state.json": data.draw(
            st.one_of(damaged(whole["state.json"]), junk, altered(STATE).map(lambda x: json.dumps(x).encode()))
        ),
    }
    sums = {name: {"bytes": len(x), "sha256": hashlib.sha256(x).hexdigest()} for name, x in files.items()}
    version = data.draw(st.one_of(st.just(1), scalars))
    files["manifest.json"] = json.dumps({"format_version": version, "files": sums}).encode()
    for name, content in files.items():
        (path / name).write_bytes(content)
    with answered():
        load_checkpoint(path)


@dataclass(frozen=True)
class Inner:
    width: int = 3
    names: tuple[str, ...] = ("a",)
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Outer:
    rate: float | str = 0.1
    limit: int | None = None
    flag: bool = True
    options: dict[str, bool | int | float | str] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if isinstance(self.rate, float) and not self.rate >= 0:
            raise ValueError(f"rate = {self.rate} must be at least 0")


TOML = to_toml(Outer(options={"a": 1, "b": "x"})).encode()
TREE = {
    "rate": 0.5,
    "limit": 3,
    "flag": False,
    "options": {"a": 1},
    "inner": {"width": 2, "names": ["x"], "pair": [0, 1]},
}


@given(st.one_of(damaged(TOML), retyped(TOML), junk))
@cases(1000)
def test_a_damaged_configuration_is_refused_or_read(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    file.write_bytes(content)
    with answered():
        config = from_mapping(Outer, read_toml(file), where=str(file))
        assert isinstance(config, Outer)
        file.write_text(to_toml(config))
        again = from_mapping(Outer, read_toml(file), where=str(file))
        assert repr(again) == repr(config)


@given(altered(TREE))
@cases(1000)
def test_a_table_of_the_wrong_things_is_refused_or_read(table):
    if isinstance(table, dict):
        with answered():
            assert isinstance(from_mapping(Outer, table, where="a test"), Outer)


ROW = {"step": 1, "time": 0.5, "loss": 0.5}
ROWS = b"".join(json.dumps(ROW | {"step": i}).encode() + b"\n" for i in range(3))
lines = st.lists(altered(ROW), max_size=3).map(lambda x: "".join(json.dumps(row) + "\n" for row in x).encode())


@given(st.one_of(damaged(ROWS), junk, lines))
@cases(800)
def test_damaged_metrics_are_refused_or_read(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    (folder / "metrics.jsonl").write_bytes(content)
    with answered():
        read_metrics(folder / "metrics.jsonl")
        with MetricsWriter(folder, tensorboard=False) as writer:
            writer.truncate_after(1)
            writer.write(2, {"loss": 1.0})
        assert read_metrics(folder / "metrics.jsonl")[-1]["step"] == 2


@given(st.one_of(junk, values.map(lambda x: json.dumps(x).encode())))
@cases(300)
def test_damaged_results_are_refused_or_read(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "results.json"
    file.write_bytes(content)
    with answered():
        assert isinstance(read_results(file), dict)


def test_the_watch_would_see_a_pickle():
    with pytest.raises(AssertionError, match="a file could run"), answered():
        pickle.loads(pickle.dumps(Bomb()))
    with answered():
        raise UserError("seen")
