"""Everything random in a run follows from its seed, by purpose and index, without overlap."""

import numpy as np

TRAINING, EVALUATION, NETWORK, NOISE, SELECTION, FRESH, OPPONENTS, RND = range(8)


def derive(seed: int, purpose: int, index: int, count: int) -> list[int]:
    """`count` independent seeds below 2^31 for one purpose (a constant of this module) and index (an iteration).

    From Python's and NumPy's view the streams of two purposes have nothing to do with each other, so environments that
    evaluate never repeat an episode that trained.
    """
    # Negative seeds are folded, since SeedSequence takes none.
    entropy = (abs(seed) * 2 + (seed < 0), purpose, index)
    return [int(s) & 0x7FFFFFFF for s in np.random.SeedSequence(entropy).generate_state(count)]
