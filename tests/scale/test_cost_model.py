"""What benchmarks/scaling.py makes of measurements; those are stood in for."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import scaling
import taking_turns


def test_what_a_rank_does_alone_is_measured_with_one_rank_whichever_are_asked_for(monkeypatch, capsys):
    row = {"together": 3e4, "apart": 4e4, "efficiency": 0.75, "error": 0.01, "alone": 0.25, "iteration": 0.35}
    row |= {"waiting": 0.05, "bytes": 8.0, "gradient_steps": 10.0, "parameters": 4, "collective": 0.01}
    monkeypatch.setattr(scaling, "measured", lambda ranks, *_: {"ranks": ranks, **row})
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--ranks", "2"])
    monkeypatch.setattr("proximo.scale.cpus.available_cpus", lambda: 2)
    scaling.main()
    out = capsys.readouterr().out
    assert "10 sums of 16 bytes in an iteration of 0.25 s" in out
    assert "| 0.75 ± 0.01 | 5.0% | 8 | 10,000 us | 1.00 |" in out  # 0.25 s and ten sums of 10 ms are the 0.35 s


def group(turns, *entries):
    """A group of programs that have had their turns."""
    made = taking_turns.Group(Path(), "a", [], [])
    made.turns, made.told = turns, [{"entries": e} for e in entries]
    return made


def test_a_rate_is_what_was_done_in_a_programs_own_turns_whatever_the_others_turns_took():
    # Seven units a second of its own time; it stands still from 12 to 112, 114 to 120 and 122 to 130.
    def own(s):
        return 10 + s if s < 2 else 110 + s if s < 4 else 116 + s if s < 6 else 124 + s

    turns = [(10, 12), (112, 114), (120, 122), (130, 131)]
    # A piece of work of half a second ends after the last turn, at 500.
    entries = [*((own(s / 2), 7 * s / 2) for s in range(14)), (500, 49 + 3.5)]
    one = group(turns, entries)
    assert one.own_time([9, 11, 50, 113, 200]).tolist() == [0, 1, 2, 3, 7]
    assert one.rates().tolist() == pytest.approx([7, 7])  # the first and the last turn are left out
    both = group(turns, entries, [(t, 2 * units) for t, units in entries])
    assert both.rates().tolist() == pytest.approx([21, 21])
    assert taking_turns.ratio(both, one) == pytest.approx((3, 0), abs=1e-9)


def test_the_error_of_a_ratio_is_that_of_paired_turns():
    turns = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    slow = group(turns, [(0, 0), (1, 0), (2, 1), (3, 3), (4, 6), (5, 6)])  # 1, 2 and 3 a second
    fast = group(turns, [(0, 0), (1, 0), (2, 2), (3, 6), (4, 12), (5, 12)])  # always twice as many: no error
    assert taking_turns.ratio(slow, fast) == pytest.approx((0.5, 0), abs=1e-12)
    other = group(turns, [(0, 0), (1, 0), (2, 2), (3, 4), (4, 6), (5, 6)])  # 2 each time
    # Residues -1, 0 and 1: deviation 1, divided by the root of 3 and by 2.
    assert taking_turns.ratio(slow, other) == pytest.approx((1, 1 / (3**0.5 * 2)))
