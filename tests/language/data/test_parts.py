"""Parts of preference pairs: disjoint, together all, whatever the order of the file."""

import pytest

from proximo.errors import UserError
from proximo.language.config import RewardConfig
from proximo.language.data.dataset import Loaded, Pair
from proximo.language.data.parts import part_of

PAIRS = [Pair([1, i], [2, j]) for i in range(30) for j in range(10)]


def tokens(pairs):
    return sorted((tuple(pair.chosen), tuple(pair.rejected)) for pair in pairs)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_parts_share_nothing_and_leave_nothing_out(count):
    parts = [part_of(Loaded(PAIRS), f"{k}/{count}") for k in range(1, count + 1)]
    assert tokens(pair for part in parts for pair in part.items) == tokens(PAIRS)
    # Each pair falls into one of the parts by chance: a size is binomial, 5 deviations are a chance of 6e-7.
    spread = (len(PAIRS) * (1 / count) * (1 - 1 / count)) ** 0.5
    assert all(abs(len(part.items) - len(PAIRS) / count) < 5 * spread for part in parts)
    assert parts[0].message == f"part 1/{count}: {len(parts[0].items)} of 300 pairs"


def test_a_part_does_not_depend_on_the_order_of_the_file():
    there, back = (part_of(Loaded(rows), "2/3").items for rows in (PAIRS, PAIRS[::-1]))
    assert tokens(there) == tokens(back)
    assert part_of(Loaded(PAIRS), "").items == PAIRS


def test_a_part_that_can_not_be_is_refused():
    for part in ("0/2", "3/2", "half", "1/0", "1/2/3"):
        with pytest.raises(ValueError, match=r"part = .* must be k/n with 1 <= k <= n"):
            RewardConfig(part=part)
    k = next(k for k in range(1, 11) if PAIRS[0] not in part_of(Loaded(PAIRS), f"{k}/10").items)
    with pytest.raises(UserError, match=f"part = {k}/10 of 1 pairs has none: give a larger part"):
        part_of(Loaded(PAIRS[:1]), f"{k}/10")
