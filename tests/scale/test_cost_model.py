"""What benchmarks/scaling.py makes of measurements; those are stood in for."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import scaling


def test_what_a_rank_does_alone_is_measured_with_one_rank_whichever_are_asked_for(monkeypatch, capsys):
    def started(ranks, together, *_):
        told = {"rate": 1000.0, "bytes": 8.0, "gradient_steps": 10.0, "parameters": 4, "collective": 0.01}
        told |= {"waiting": 0.05}
        return [told | {"iteration": 0.25 if ranks == 1 else 0.75}] * (1 if together else ranks)

    monkeypatch.setattr(scaling, "started", started)
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--ranks", "2", "--repeats", "1"])
    scaling.main()
    assert "10 sums of 16 bytes in an iteration of 0.25 s" in capsys.readouterr().out
