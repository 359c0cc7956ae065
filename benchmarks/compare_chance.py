"""How often `proximo compare` calls two equal settings different: normal scores, the same on both sides.

python benchmarks/compare_chance.py
"""

import numpy as np

from proximo.views.seeds import difference

PAIRS = 400


def main() -> None:
    """Print a line for each number of seeds."""
    for seeds in (3, 4, 5, 10, 20):
        rng = np.random.default_rng(0)
        found = [difference(rng.normal(size=seeds).tolist(), rng.normal(size=seeds).tolist()) for _ in range(PAIRS)]
        wrong = np.mean([not x.low <= 0 <= x.high for x in found])
        print(f"{seeds} seeds a side: {wrong:.1%} of {PAIRS} equal pairs called different")


if __name__ == "__main__":
    main()
