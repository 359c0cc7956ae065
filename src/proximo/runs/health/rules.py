"""One iteration's metrics -> findings. A rule is a function of the row and what came before it.

Thresholds are amber where a number is unusual and red where nothing sound is known to look so. "Healthy" below means
the healthy runs of `docs/doctor.md`.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from math import hypot
from typing import Any

from proximo.runs.health.codes import Finding, Severity, found
from proximo.runs.health.history import WINDOW, History, number

Row = Mapping[str, Any]
Rule = Callable[[Row, History], Iterator[Finding]]

FEWEST_CUTS = 4  # episodes cut by a time limit, before their last observations together are evidence

# Amber above the first number, red above the second; the reasons stand with the rules. Reports draw them too.
RATIO_DEVIATION = 1e-4
SAMPLER_GAP = (0.02, 0.1)
OBSERVATION_RMS = (30.0, 300.0)
RETURN_RMS = (500.0, 5000.0)
APPROX_KL, FINAL_KL = (0.1, 1.0), (0.3, 3.0)
CLIP_FRACTION = 0.7
CLIPPED_ACTIONS = 0.8
GRAD_NORM = 100.0
KL_PER_TOKEN = (1.0, 3.0)
# Amber below.
ENTROPY_LEFT = 0.02
EXPLAINED_VARIANCE = 0.0
FINISHED = 0.1


def _level(value: float | None, amber: float, red: float) -> Severity | None:
    """The severity of a number that should be small."""
    if value is None or value <= amber:
        return None
    return "red" if value > red else "amber"


# -- What is true or false. No threshold is needed, so these are red at once.


def first_ratio(row: Row, history: History) -> Iterator[Finding]:
    """The run stops where rounding can not explain the ratio; here is said what is unusual for this run."""
    deviation = number(row.get("ratio_deviation"))
    # 1e-4 is the largest deviation ever seen from rounding in float32 (SmolLM2-135M, thousands of tokens).
    if deviation is None or deviation <= RATIO_DEVIATION:
        return
    if (usual := history.median("ratio_deviation")) is not None and deviation > 20 * usual:
        yield found("P012", "amber", f"off by {deviation:.2g} at the first minibatch, usually {usual:.1g}")


def normalizers(row: Row, history: History) -> Iterator[Finding]:
    """Statistics stand still inside an iteration, and move after it."""
    if (number(row.get("normalizers_moved")) or 0.0) > 0:
        yield found("P010", "red", f"a statistic moved by {row['normalizers_moved']:.2g} before the update ended")
    if row.get("normalizers_still"):
        yield found("P011", "red", "no statistic moved after the update")


def reset_rows(row: Row, history: History) -> Iterator[Finding]:
    """Rows that only report a reset weigh nothing."""
    if (number(row.get("reset_row_weight")) or 0.0) > 0:
        yield found("P013", "red", f"{row.get('reset_rows')} such rows weigh {row['reset_row_weight']:.3g} together")


def truncations(row: Row, history: History) -> Iterator[Finding]:
    """Every cut episode is bootstrapped from the state that it really reached."""
    cut, missed, faked = (number(row.get(f"truncations{end}")) or 0.0 for end in ("", "_missed", "_faked"))
    if missed:
        yield found("P014", "red", f"{missed:.0f} of {cut:.0f} have no final observation")
        return
    # In a world of few states an episode may be cut where the next one starts, by chance: only a habit says more.
    faked += sum(history.recent("truncations_faked"))
    if not faked:
        return
    told = (number(row.get("truncations_compared")) or 0.0) + sum(history.recent("truncations_compared"))
    if told >= FEWEST_CUTS and faked > 0.5 * told:
        severity: Severity = "red" if faked == told else "amber"
        yield found("P014", severity, f"in {faked:.0f} of {told:.0f} it is the next episode's first observation")


def divergence_sign(row: Row, history: History) -> Iterator[Finding]:
    """k1 is negative by chance only, and so not in five iterations of six by more than its spread explains.

    Amber: the mean of those iterations is 4 standard errors below 0 (chance: 3e-5), and a tenth of a nat, which
    rounding does not reach. Red: their sum is below -20 nats. Where x is drawn from p, E[q(x) / p(x)] <= 1, so by
    Markov P(sum of k1 < -t) <= e^-t, whatever the spread and however few the responses: 2e-9.
    """
    if (now := number(row.get("kl"))) is None or now >= 0:
        return
    rows = [*list(history.rows)[-5:], row]
    seen = [(k1, number(each.get("kl_se"))) for each in rows if (k1 := number(each.get("kl"))) is not None]
    if sum(k1 < 0 for k1, _ in seen) < 5:
        return
    total = sum(k1 for k1, _ in seen)
    errors = [error for _, error in seen if error is not None]
    beyond = len(errors) == len(seen) and total < -4 * hypot(*errors)
    if total < -20 or (beyond and total < -0.1 * len(seen)):
        said = f"k1 = {total / len(seen):.2g} nats per response, mean of {len(seen)} iterations"
        yield found("P015", "red" if total < -20 else "amber", said)


# -- Where the data come from.


def sampler(row: Row, history: History) -> Iterator[Finding]:
    """Mean |log-prob of the sampler - of the trainer|: bfloat16 has three digits, some 1e-2 nats per token."""
    gap = number(row.get("sampler_gap"))
    if severity := _level(gap, *SAMPLER_GAP):
        yield found("P016", severity, f"log-probs differ by {gap:.2g} nats per token")


def judge(row: Row, history: History) -> Iterator[Finding]:
    """Scores that do not vary teach nothing."""
    if number(row.get("score_std")) == 0.0 and history.count and history.rows[-1].get("score_std") == 0.0:
        yield found("P055", "red", f"every score is {row.get('score')}")


FEW, FEWER = 0.05, 0.03  # share of informative rewards


def informative(row: Row, history: History) -> Iterator[Finding]:
    """Rewards that differ from the commonest one, mean of 8 iterations.

    Below 5 % a batch of 64 has 3 of them. Below 3 % it has one or two, and most minibatches none: all that these move
    is the critic's errors. If the commonest reward is the best one, that is how a solved task looks.
    """
    now, before = number(row.get("informative_rewards")), history.recent("informative_rewards", 7)
    if now is None or len(before) < 7 or number(row.get("score_std")) == 0.0:  # P055 says that
        return
    share = (now + sum(before)) / 8
    common, best = number(row.get("commonest_reward")) or 0.0, number(row.get("best_reward")) or 0.0
    solved = common >= max(best, *history.recent("best_reward"))
    if severity := _level(1 - share, 1 - FEW, 1.0 if solved else 1 - FEWER):
        yield found("P056", severity, f"{share:.1%} of the rewards differ from {common:.3g}")


def scales(row: Row, history: History) -> Iterator[Finding]:
    """Networks are initialised for inputs and outputs of size 1.

    Healthy: observations up to 4, returns up to 100 (CartPole's). A first layer of 30 times its meant input saturates
    every tanh; a critic that starts at 0 with Adam steps of 3e-4 takes 3e6 steps to a return of 1,000.
    """
    seen = number(row.get("observation_rms"))
    if severity := _level(seen, *OBSERVATION_RMS):
        yield found("P040", severity, f"a dimension has a root mean square of {seen:,.3g}")
    returns, values = number(row.get("return_rms")) or 0.0, number(row.get("value_rms")) or 0.0
    if severity := _level(max(returns, values), *RETURN_RMS):
        yield found("P031", severity, f"returns of size {returns:,.3g}, values of {values:,.3g}")


def ends(row: Row, history: History) -> Iterator[Finding]:
    """Ten and more episodes of one length, all of them terminated: what a clock does, not a task."""
    spread, length = number(row.get("episode_length_std")), number(row.get("episode_length"))
    if spread != 0.0:
        return
    cut = number(row.get("truncations")) or sum(history.recent("truncations"))
    over = (number(row.get("terminations")) or 0.0) + sum(history.recent("terminations"))
    if length is not None and length > 1 and not cut and over >= 10:
        yield found("P017", "amber", f"{over:.0f} episodes in a row terminated at step {length:,.0f}")


# -- How the policy moves.


def step_size(row: Row, history: History) -> Iterator[Finding]:
    """KL(old policy, policy), mean over minibatches.

    Limits in use lie between 0.01 and 0.05 (Spinning Up 0.015, SB3's zoo 0.01 to 0.04); healthy: up to 0.03. After the
    last step three times as much is as unusual: KL grows with the square of the way, whose mean is a third of its end.
    """
    kl, fraction = number(row.get("approx_kl")) or 0.0, number(row.get("clip_fraction")) or 0.0
    final = number(row.get("final_approx_kl")) or 0.0
    severity = _level(kl, *APPROX_KL)
    if (end := _level(final, *FINAL_KL)) and severity != "red":
        yield found("P020", end, f"KL {final:.2g} nats after the last step")
    elif severity or fraction > CLIP_FRACTION:  # healthy: up to 0.5, in single iterations
        yield found("P020", severity or "amber", f"KL {kl:.2g} nats, clip fraction {fraction:.2g}")
    elif row.get("stopped_by_kl") and number(row.get("gradient_steps")) == 1:
        yield found("P020", "amber", "one gradient step was enough to pass target_kl")


def entropy(row: Row, history: History) -> Iterator[Finding]:
    """Little is left of the first entropy (discrete), or of the first deviation (continuous).

    A solved task ends so too (CartPole at 40 %); below 2 % nothing new is ever tried.
    """
    name = "std" if "std" in row else "entropy"
    now, first = number(row.get(name)), history.first.get(name)
    if now is not None and first and 0 <= now < ENTROPY_LEFT * first:
        yield found("P025", "amber", f"{name} {now:.2g}, {first:.2g} at first")


STILL = 16  # iterations in which a deviation has not moved by one bit


def deviations(row: Row, history: History) -> Iterator[Finding]:
    """A deviation that no update moves: it stands at its bound, or nothing reaches it.

    Any gradient moves it by more than float32's spacing (5e-7 at the lowest bound) unless the rate is below 1e-7, so
    standing still in 16 iterations in a row, of many steps each, is no chance.
    """
    stuck = number(row.get("std_stuck"))
    before = history.recent("std_stuck", STILL - 1)
    if not stuck or len(before) < STILL - 1 or not row.get("learning_rate"):
        return
    if (still := min(stuck, *before)) > 0:
        std = number(row.get("std"))
        mean = "" if std is None else f", mean std {std:.2g}"
        which = "one deviation has" if still == 1 else f"{still:.0f} deviations have"
        yield found("P028", "amber", f"{which} not moved in {STILL} iterations{mean}")


def bounds(row: Row, history: History) -> Iterator[Finding]:
    """Share of action columns beyond the bounds; a deviation of half the range, the default, cuts 32 %."""
    cut = number(row.get("clipped_actions"))
    if cut is not None and cut > CLIPPED_ACTIONS:
        yield found("P027", "amber", f"{cut:.0%} of the action columns")


def critic(row: Row, history: History) -> Iterator[Finding]:
    """Explained variance stays at or below 0, where returns do vary (by more than 5 % of their size)."""
    usual = history.median("explained_variance", fewest=20)
    spread, size = number(row.get("return_std")), number(row.get("return_rms"))
    if (
        usual is not None
        and usual < EXPLAINED_VARIANCE
        and spread is not None
        and size is not None
        and spread > 0.05 * size
    ):
        yield found("P030", "amber", f"explained variance {usual:.2g} (median of {len(history.rows)} iterations)")


def gradient(row: Row, history: History) -> Iterator[Finding]:
    """A norm of 100 and more, of which the usual limits (0.5, 1) leave under 1 %; healthy: up to 40."""
    if row.get("grad_clip_fraction") != 1.0:
        return
    norm = history.median("grad_norm")
    if norm is not None and norm > GRAD_NORM:
        yield found("P023", "amber", f"norm {norm:,.3g}, cut in every step")


def late_returns(row: Row, history: History) -> Iterator[Finding]:
    """Lately the episodes return less than the first policy's: by 3.5 standard errors and 0.4 deviations of one.

    The reasons for the thresholds stand in `returns.py`. Amber while a run goes on, for it may recover.
    """
    if (seen := history.learning) is not None and seen.worse:
        yield found("P064", "amber", f"first policy {seen.begun}, lately {seen.late}")


# -- What responses become.


def responses(row: Row, history: History) -> Iterator[Finding]:
    """Responses end, differ from each other, and stay about as long as they were."""
    finished, length = number(row.get("finished")), number(row.get("response_length"))
    if finished is not None and finished < FINISHED:
        yield found("P052", "amber", f"{finished:.0%} of the responses ended by themselves")
    same = number(row.get("duplicates"))
    if same is not None and same > 0.3 + history.first.get("duplicates", 0.0):
        yield found("P054", "amber", f"{same:.0%} of the responses were there already")
    first = history.first.get("response_length")
    if length is not None and first and not 0.5 < length / first < 2.0:
        yield found("P053", "amber", f"{length:.0f} tokens, {first:.0f} at first")


def reference(row: Row, history: History) -> Iterator[Finding]:
    """Nats per token between policy and reference.

    Published runs end at 0.2 to 0.5 (Ziegler et al. 2019: some 10 nats over 24 tokens); 2 nats per token mean that the
    reference would have said e^-2 = 1 in 7 of each word chosen.
    """
    kl, length = number(row.get("kl")), number(row.get("response_length"))
    if kl is not None and length and (severity := _level(kl / length, *KL_PER_TOKEN)):
        yield found("P051", severity, f"{kl:.1f} nats per response of {length:.0f} tokens")


def memory(row: Row, history: History) -> Iterator[Finding]:
    """Resident memory that has risen by a fifth and 100 MB, steadily: within 32 iterations, or ever since the 32nd."""
    now, recent = number(row.get("memory_mb")), history.recent("memory_mb")
    if now is None or len(recent) < WINDOW:
        return
    marks = [*recent[:: WINDOW // 4], now]
    grown = now - marks[0]
    if _much(grown, marks[0]) and min(b - a for a, b in pairwise(marks)) > 0.1 * grown:
        yield found("P045", "amber", f"{grown:,.0f} MB more in {len(recent)} iterations")
        return
    sparse = [number(each.get("memory_mb")) for each in history.sparse]
    known = [mark for mark in sparse if mark is not None]
    if len(known) < max(4, len(sparse)) or not _much(now - known[0], known[0]):
        return
    # Three doublings of the run: what leaks rises in each twice as far as in the one before, a cache that fills less.
    rises = [(b - a) / 2**i for i, (a, b) in enumerate(pairwise(known[-4:]))]
    if min(rises) > max(0.0, 0.6 * (known[-1] - known[-4]) / 7):
        yield found("P045", "amber", f"{now - known[0]:,.0f} MB more since iteration {WINDOW}")


def _much(grown: float, before: float) -> bool:
    return grown > max(100.0, 0.2 * before)


RULES: tuple[Rule, ...] = (
    first_ratio,
    normalizers,
    reset_rows,
    truncations,
    divergence_sign,
    sampler,
    judge,
    informative,
    scales,
    ends,
    step_size,
    entropy,
    deviations,
    bounds,
    critic,
    gradient,
    late_returns,
    responses,
    reference,
    memory,
)
