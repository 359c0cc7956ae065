"""The results of a control run, as they are printed everywhere."""

from typing import Any


def three_numbers(results: Any) -> dict[str, str]:
    """The three numbers that stand everywhere a result is printed, and what they are."""
    recent = results.get("last_100_training_return")
    unfinished, limit = results.get("unfinished_episodes"), results.get("episode_limit", 30_000)

    def task(name: str) -> str:
        value = results.get(f"{name}_task")
        return "" if value is None else f"; the task's own, below its wrappers: {value:,.1f}"

    return {
        "last-100 training return": "no episode ended"
        if recent is None
        else f"{recent:,.1f}{task('last_100_training_return')}",
        "final deterministic": f"{results['final_deterministic']:,.1f} ± {results['final_deterministic_std']:,.1f}"
        f" ({results['episodes']} episodes; sampled: {results['final_sampled']:,.1f})"
        f"{task('final_deterministic')}"
        f"{f'; {unfinished} were cut after {limit:,} steps, as they do not end' if unfinished else ''}",
        **_sampled(results),
        **_games(results),
        "best checkpoint": f"{results['best_checkpoint']:,.1f} ± {results['best_checkpoint_std']:,.1f}"
        f" (deterministic; chosen by {results.get('best_chosen_by', 'training return')}){task('best_checkpoint')}",
        "proximo.load gives": f"the final policy, which acts deterministically{_better_sampled(results)}",
    }


def _games(results: Any) -> dict[str, str]:
    """How the last policy's games went; nothing for what is no game."""
    if (shares := results.get("final_deterministic_games")) is None:
        return {}
    told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return {f"against {results['against']}": f"{told} (deterministic, seats swapped from game to game)"}


def _sampled(results: Any) -> dict[str, str]:
    """The number of the last policy when its actions are drawn; runs from before it had a spread have it elsewhere."""
    if "final_sampled_std" not in results:
        return {}
    return {"final sampled": f"{results['final_sampled']:,.1f} ± {results['final_sampled_std']:,.1f}"}


def _better_sampled(results: Any) -> str:
    """Advice where the mode of the actions is worse than a sample, by more than chance explains."""
    spreads = [results.get(f"{name}_std", 0.0) for name in ("final_deterministic", "final_sampled")]
    error = (sum(x * x for x in spreads) / max(1, results["episodes"])) ** 0.5
    if results["final_sampled"] - results["final_deterministic"] <= 2 * error:
        return ""
    return "; sampled actions are better here: act(observation, deterministic=False)"
