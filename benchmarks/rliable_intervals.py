"""What rliable's own bootstrap says of some scores, to hold those of `proximo.views.seeds` against.

    python -m venv build/rliable
    build/rliable/bin/pip install rliable==1.2.0 arch==7.2.0 'pandas<3'    # with which its bootstrap runs
    build/rliable/bin/python benchmarks/rliable_intervals.py

The scores are normal, rounded to two digits, and the same in every run. Percentile bootstrap, 50,000 draws over seeds.
"""

import json

import numpy as np
from rliable import library, metrics

DRAWS = 50_000


def scores(seed: int, count: int) -> list[float]:
    """Some seeds' scores."""
    return np.random.default_rng(seed).normal(100 + seed, 20, count).round(2).tolist()


def main() -> None:
    """Print each statistic with its interval as JSON, one a line."""
    for a, b in ((5, 5), (10, 8), (20, 20)):
        x, y = scores(1, a), scores(9, b)
        both = {"iqm": np.array(x)[:, None], "improvement": (np.array(x)[:, None], np.array(y)[:, None])}
        for name, function in (
            ("iqm", lambda s: np.array([metrics.aggregate_iqm(s)])),
            ("improvement", lambda s, t: np.array([metrics.probability_of_improvement(s, t)])),
        ):
            point, interval = library.get_interval_estimates(
                {name: both[name]}, function, method="percentile", reps=DRAWS, random_state=np.random.RandomState(0)
            )
            low, high = interval[name][:, 0]
            told = {"of": name, "seeds": [a, b], "value": float(point[name][0]), "low": float(low), "high": float(high)}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
