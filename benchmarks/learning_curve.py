"""Learning curves of runs as one SVG, from their metrics.jsonl.

python benchmarks/learning_curve.py OUT.svg RUN [RUN ...]
"""

import json
import sys
import tomllib
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 300, 60, 40, 44, 46
COLOURS = ("#1f6feb", "#d1572c", "#2da44e", "#8250df")
POINTS = 120


def curve(run: Path) -> list[tuple[float, float]]:
    """(steps, mean return of the last 100 training episodes), at most `POINTS` of them."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = [(row["step"], row["return"]) for row in rows if row.get("return") is not None]
    every = max(1, len(points) // POINTS)
    return [*points[::every], points[-1]]


def step_of(span: float) -> float:
    """Distance between two marks of an axis: 1, 2 or 5 times a power of ten, four to nine marks."""
    size = 10.0 ** (len(str(int(span))) - 1)
    return next(size * part for part in (0.1, 0.2, 0.5, 1, 2) if span / (size * part) <= 8)


def marks(last: float, low: float, high: float) -> list[str]:
    """Numbers on both axes, and lines across at those of the returns."""
    drawn, value = [], 0.0
    while value <= high:
        _, y = place(0, value, last, low, high)
        drawn += [f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>']
        drawn += [f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,.0f}</text>']
        value += step_of(high - low)
    value = 0.0
    while value <= last:
        x, _ = place(value, low, last, low, high)
        drawn += [f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:,.0f}</text>']
        value += step_of(last)
    return drawn


def place(x: float, y: float, last: float, low: float, high: float) -> tuple[float, float]:
    """Where a point of the data lies in the picture."""
    across = LEFT + x / last * (WIDTH - LEFT - RIGHT)
    return across, HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def picture(runs: list[Path]) -> str:
    """The curves of all runs over common axes."""
    curves = [curve(run) for run in runs]
    settings = [tomllib.loads((run / "config.toml").read_text()) for run in runs]
    last = max(x for points in curves for x, _ in points)
    low = min(0.0, *(y for points in curves for _, y in points))
    high = max(y for points in curves for _, y in points) * 1.08
    lines = []
    for i, (points, config) in enumerate(zip(curves, settings, strict=True)):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point, last, low, high) for point in points))
        colour, x = COLOURS[i % len(COLOURS)], WIDTH - RIGHT - 52 * (len(runs) - i - 1)
        lines += [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
        lines += [f'<text x="{x}" y="24" text-anchor="end" fill="{colour}">seed {config["seed"]}</text>']
    title = f"{settings[0]['environment']}, preset {settings[0]['preset']}: mean return of the last 100 episodes"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12" fill="#57606a">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
            f'<text x="{LEFT}" y="24" fill="#24292f">{title}</text>',
            *marks(last, low, high),
            *lines,
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">environment steps</text>',
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture([Path(run) for run in sys.argv[2:]]))
