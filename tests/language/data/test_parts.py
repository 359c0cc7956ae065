"""Parts of preference pairs: disjoint, together all, whatever the order of the file and the reader's tokenizer."""

import pytest
from tiny import byte_tokenizer
from words import word_tokenizer

from proximo.errors import UserError
from proximo.language.config import RewardConfig
from proximo.language.data.dataset import load_pairs
from proximo.language.data.parts import part_of
from proximo.language.data.rows import Rows

PLACES = [(i, j) for i in range(4, 34) for j in range(4, 14)]
VALUES = [{"prompt": f"w{i}", "chosen": f" w{j} w4", "rejected": f" w{j} w5"} for i, j in PLACES]
ROWS = Rows(VALUES, list(range(1, len(VALUES) + 1)), "rows")


def texts(rows):
    return sorted(tuple(row.values()) for row in rows.values)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_parts_share_nothing_and_leave_nothing_out(count):
    parts = [part_of(ROWS, f"{k}/{count}") for k in range(1, count + 1)]
    assert sorted(text for part, _ in parts for text in texts(part)) == texts(ROWS)
    # Each pair falls into one of the parts by chance: a size is binomial, 5 deviations are a chance of 6e-7.
    spread = (len(VALUES) * (1 / count) * (1 - 1 / count)) ** 0.5
    assert all(abs(len(part.values) - len(VALUES) / count) < 5 * spread for part, _ in parts)
    assert parts[0][1] == f"part 1/{count}: {len(parts[0][0].values)} of 300 pairs"


def test_a_part_does_not_depend_on_the_order_of_the_file():
    back = Rows(VALUES[::-1], ROWS.numbers, "rows")
    assert texts(part_of(ROWS, "2/3")[0]) == texts(part_of(back, "2/3")[0])
    assert part_of(ROWS, "") == (ROWS, "")


def test_two_tokenizers_read_the_same_part():
    """The first half as words, and the second half as bytes, share no pair."""
    words, letters = word_tokenizer(), byte_tokenizer()
    mine = load_pairs(VALUES, words, 64, part="1/2").items
    theirs = load_pairs(VALUES, letters, 64, part="2/2").items
    read = {_plain(words, x) for x in mine}
    assert len(mine) + len(theirs) == len(VALUES)
    assert not read & {_plain(letters, x) for x in theirs}


def _plain(tokenizer, pair):
    return tuple("".join(filter(str.isalnum, tokenizer.decode(side))) for side in (pair.chosen, pair.rejected))


def test_a_part_that_can_not_be_is_refused():
    for part in ("0/2", "3/2", "half", "1/0", "1/2/3"):
        with pytest.raises(ValueError, match=r"part = .* must be k/n with 1 <= k <= n"):
            RewardConfig(part=part)
    one = Rows(VALUES[:1], [1], "rows")
    k = next(k for k in range(1, 11) if VALUES[0] not in part_of(ROWS, f"{k}/10")[0].values)
    with pytest.raises(UserError, match=f"part = {k}/10 of 1 pairs has none: give a larger part"):
        part_of(one, f"{k}/10")
