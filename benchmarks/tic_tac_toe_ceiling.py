"""What the best play reaches in tic-tac-toe against a random player: exact, by going through all positions.

`python benchmarks/tic_tac_toe_ceiling.py` prints shares won, drawn and lost from each seat and as a mean of both, for
who wants to win as often as possible, for who counts a loss as -1, and for who never takes a move that can lose.
"""

import functools

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
PLAYS = {"most wins": (1.0, 0.0, 0.0), "most wins less losses": (1.0, 0.0, -1.0), "never a loss": (1.0, 0.0, -1e9)}
Shares = tuple[float, float, float]


def winner(board: str) -> str:
    """X, O or nobody."""
    return next((board[i] for i, j, k in LINES if board[i] != "." and board[i] == board[j] == board[k]), "")


@functools.cache
def best(board: str, turn: str, own: str, worth: Shares) -> Shares:
    """Shares won, drawn and lost by `own`, who plays for what `worth` says of them, against a random player."""
    if won := winner(board):
        return (1.0, 0.0, 0.0) if won == own else (0.0, 0.0, 1.0)
    free = [i for i, mark in enumerate(board) if mark == "."]
    if not free:
        return 0.0, 1.0, 0.0
    other = "O" if turn == "X" else "X"
    after = [best(board[:i] + turn + board[i + 1 :], other, own, worth) for i in free]
    if turn == own:
        return max(after, key=lambda shares: (sum(x * y for x, y in zip(shares, worth, strict=True)), shares[0]))
    won, drawn, lost = (sum(shares[j] for shares in after) / len(after) for j in range(3))
    return won, drawn, lost


def main() -> None:
    """Print a row for each way to play."""
    for name, worth in PLAYS.items():
        first, second = (best("." * 9, "X", own, worth) for own in "XO")
        mean = tuple((x + y) / 2 for x, y in zip(first, second, strict=True))
        rows = {"first": first, "second": second, "both": mean}
        print(name, *(f"{seat} {' '.join(f'{x:.2%}' for x in shares)}" for seat, shares in rows.items()), sep=" | ")


if __name__ == "__main__":
    main()
