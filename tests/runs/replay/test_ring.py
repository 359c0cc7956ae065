"""The ring of last updates holds its bounds, is refused when it is damaged, and says what it has."""

from dataclasses import dataclass, field

import pytest
import torch

from proximo.core.settings import UpdateSettings
from proximo.core.updates.optimizer import FlatAdam
from proximo.core.updates.update import UpdateReport
from proximo.errors import UserError
from proximo.runs.replay.change import changed, settable
from proximo.runs.replay.entry import NAME, read
from proximo.runs.replay.ring import LAST, Ring
from proximo.runs.replay.undo import Undo

REPORT = UpdateReport({"approx_kl": 0.5}, 4, stopped_by_kl=False)


@dataclass(frozen=True)
class Settings:
    learning_rate: float | str = 1e-3
    gamma: float = 0.9
    lam: float = 0.9
    update: UpdateSettings = field(default_factory=UpdateSettings)


def optimizer(size=1000):
    return FlatAdam([torch.nn.Parameter(torch.zeros(size))], 1e-3)


def fill(ring, undo, adam, iterations, numbers=250):
    for i in range(iterations):
        ring.forget()
        undo.remember()
        ring.begin(i, i / 10, {"seen": torch.full((numbers,), float(i))})
        adam.flat.add_(1.0)
        ring.end(REPORT)


def made(megabytes, iterations, numbers=250):
    adam = optimizer()
    undo = Undo(adam, {"shuffle": torch.Generator()}, {})
    ring = Ring(undo, adam, megabytes, dict)
    fill(ring, undo, adam, iterations, numbers)
    return ring


@pytest.mark.parametrize(
    ("megabytes", "kept"),
    # 1,000 weights before and after and 250 numbers, four bytes each: 9,000 bytes an update.
    [(0, []), (0.008, []), (0.009, [19]), (0.0269, [18, 19]), (0.027, [17, 18, 19]), (1, list(range(20 - LAST, 20)))],
)
def test_the_bound_holds(megabytes, kept):
    ring = made(megabytes, 20)
    assert [entry.iteration for entry in ring.entries] == kept
    assert sum(entry.size for entry in ring.entries) <= megabytes * 1e6


def test_one_large_update_leaves_the_small_ones():
    adam = optimizer()
    undo = Undo(adam, {}, {})
    ring = Ring(undo, adam, 0.03, dict)
    fill(ring, undo, adam, 2)
    undo.remember()
    ring.begin(2, 0.5, {"seen": torch.zeros(100_000)})
    ring.end(REPORT)
    assert [entry.iteration for entry in ring.entries] == [0, 1]


def test_it_is_said_once_what_an_update_takes():
    said = made(0.02, 3)
    assert said.news() == "replay: the last 2 updates are kept, 0.009 MB each, in memory and at checkpoints on the disk"
    assert said.news() is None
    assert made(0.005, 1).news().endswith("takes 0.009 MB, so that replay_mb = 0.005 keeps none but one that fails")
    assert made(0, 1).news() is None


def test_what_is_kept_is_what_was_though_the_buffers_are_used_again(tmp_path):
    adam = optimizer(3)
    undo = Undo(adam, {"shuffle": torch.Generator().manual_seed(5)}, {})
    ring = Ring(undo, adam, 1.0, dict)
    buffer = torch.zeros(4)
    for i in range(3):
        undo.remember()
        buffer.fill_(float(i))
        ring.begin(i, i / 10, {"seen": buffer}, {"price": 0.1 * i})
        adam.gradient.fill_(1.0)
        adam.step()
        ring.end(REPORT)
    ring.write(tmp_path / "replay")
    for i, entry in enumerate(read(tmp_path / "replay").entries):
        assert torch.equal(entry.learnt["seen"], torch.full((4,), float(i)))
        assert (entry.iteration, entry.progress, entry.facts) == (i, i / 10, {"price": 0.1 * i})
        assert entry.report == {"values": {"approx_kl": 0.5}, "steps": 4, "stopped_by_kl": False}
        assert float(entry.before.moments["step"]) == i if i else not entry.before.moments
        # Adam's first steps are each as long as the learning rate where the gradient does not change.
        assert entry.before.weights.tolist() == pytest.approx([-1e-3 * i] * 3, rel=1e-3)
        assert entry.after.tolist() == pytest.approx([-1e-3 * (i + 1)] * 3, rel=1e-3)


@pytest.mark.parametrize("megabytes", [0, 1])
def test_an_update_that_fails_is_kept_whatever_the_bound(tmp_path, megabytes):
    adam = optimizer()
    undo = Undo(adam, {}, {})
    ring = Ring(undo, adam, megabytes, dict)
    fill(ring, undo, adam, 2)
    ring.forget()
    assert not ring.write_failed(tmp_path / "replay"), "it failed before there was an update"
    undo.remember()
    ring.begin(2, 0.5, {"seen": torch.ones(3)})
    assert ring.write_failed(tmp_path / "replay")
    kept = read(tmp_path / "replay")
    assert [entry.iteration for entry in kept.entries] == ([0, 1, 2] if megabytes else [2])
    assert (kept.entries[-1].after, kept.entries[-1].report) == (None, None)
    with pytest.raises(UserError, match=r"iteration 7 is not kept; choose --iteration from .*2"):
        kept.choose(7)


def test_what_is_damaged_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"keeps no updates: .* several ranks have trained it"):
        read(tmp_path / "replay")
    made(1, 2).write(tmp_path / "replay")
    file = tmp_path / "replay" / NAME / "tensors.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(UserError, match="was altered"):
        read(tmp_path / "replay")
    # Whole files of something else.
    from proximo.runs.storage.checkpoint import save_checkpoint

    for state in ({}, {"run": {}, "entries": []}, {"run": {}, "entries": [{"iteration": 0}]}, {"run": 1, "entries": 2}):
        save_checkpoint(tmp_path / "replay", NAME, {"a": torch.zeros(1)}, state)
        with pytest.raises(UserError, match="does not hold the updates"):
            read(tmp_path / "replay")


def test_only_what_enters_an_update_can_be_set():
    config = Settings()
    names = settable(config)
    assert changed(config, "target_kl=0.03", names).update.target_kl == 0.03
    assert changed(config, " update.clip = 0.2 -> 0.1", names).update.clip == "0.2 -> 0.1"
    assert changed(config, "clip=none", names).update.clip is None
    assert changed(config, "normalize_advantages=off", names).update.normalize_advantages == "off"
    assert changed(config, "learning_rate=1e-4", names).learning_rate == 1e-4
    for wrong, said in {
        "target_kll=1": "did you mean target_kl",
        "hidden=64": "does not enter the update",
        "clip": "no KEY=VALUE",
        "clip=": "no KEY=VALUE",
        "epochs=many": "must be a whole number",
        "epochs=0": "must be positive",
    }.items():
        with pytest.raises(UserError, match=said):
            changed(config, wrong, names)
    steered = Settings(update=UpdateSettings(adaptive_kl=0.01))
    with pytest.raises(UserError, match="learning_rate: that does not enter"):
        changed(steered, "learning_rate=1", settable(steered))
