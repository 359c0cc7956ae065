"""What chance may do once and a fault does always: cuts on the next start, and a negative KL."""

import numpy as np
import pytest
from health_rows import RESPONSES, SOUND, judged


@pytest.mark.parametrize(
    ("faked", "colour"),
    [
        ([2, 2], "red"),
        ([2, 2, 1], "amber"),
        ([1] * 9, "green"),
        ([0, 2], "green"),
        ([2], "green"),
        ([0] + [2] * 33, "red"),
    ],
)
def test_cuts_on_the_next_start_are_a_fault_as_a_habit(faked, colour):
    """Of two cuts in each iteration; what is more than 32 iterations ago is forgotten."""
    *_, verdict = judged([{**SOUND, "truncations_faked": n} for n in faked])
    assert verdict.health == colour


@pytest.mark.parametrize(
    ("kl", "error", "colours"),
    [
        (-0.09, 0.001, "gggggg"),  # rounding may reach it
        (-0.11, 0.001, "ggggaa"),
        (-1.0, 0.63, "gggggg"),  # within four standard errors of the mean of six: 4 * 0.63 / 6^0.5 = 1.03
        (-1.0, 0.60, "ggggga"),
        (-1.0, None, "gggggg"),
        (-3.9, 0.1, "ggggar"),  # 19.5 after five, 23.4 after six
        (-3.9, None, "gggggr"),
    ],
)
def test_a_kl_stays_negative_by_more_than_its_spread(kl, error, colours):
    verdicts = judged([{**SOUND, **RESPONSES, "kl": kl, "kl_se": error}] * 6)
    assert "".join(verdict.health[0] for verdict in verdicts) == colours


@pytest.mark.parametrize(("drawn", "expected"), [(1.0, False), (2.0, True)])
def test_only_responses_of_another_distribution_have_a_negative_kl(drawn, expected):
    """p and q nearly the same, eight responses of 20 tokens: drawn from p nothing is said in 2,000 iterations.

    Drawn from a sharper p, as with a low temperature, they are those that the sharper q likes more than p does.
    """
    stream = np.random.default_rng(0)
    logits = stream.normal(size=50)
    log = [x - np.log(np.exp(x).sum()) for x in (logits, 1.5 * logits if expected else 1.05 * logits, drawn * logits)]
    rows = []
    for _ in range(30 if expected else 2000):
        tokens = stream.choice(50, (8, 20), p=np.exp(log[2]))
        k1 = (log[0] - log[1])[tokens].sum(1)
        rows.append({"kl": k1.mean(), "kl_se": k1.std(ddof=1) / 8**0.5})
    assert any(verdict.findings for verdict in judged(rows)) == expected
