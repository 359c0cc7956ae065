"""Short runs from the command line, and how a refusal looks."""

from pathlib import Path

HERE = str(Path(__file__).parent)
SMALL = ["--steps", "256", "--environments", "4", "--rollout-length", "16", "--episodes", "2", "--network.hidden", "8"]
SMALL += ["--update.minibatch-size", "32", "--update.epochs", "1", "--episode-limit", "50"]


def refused(answer, *words):
    code, out, err = answer
    assert code == 2
    assert out == ""
    assert err.startswith("proximo: ")
    assert "Traceback" not in err
    assert err.count("\n") == 1, "one sentence"
    for word in words:
        assert word in err, err
