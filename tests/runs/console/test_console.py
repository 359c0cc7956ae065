import io
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from proximo.runs.console import progress
from proximo.runs.console.live import LivePanel, render
from proximo.runs.console.progress import (
    COLUMNS,
    Progress,
    Snapshot,
    format_line,
    format_seconds,
)
from proximo.runs.console.sparkline import Curve, sparkline
from proximo.runs.console.tables import print_results, print_table

VALUES = {"return": 1234.5, "approx_kl": 0.0123, "clip_fraction": 0.113, "explained_variance": 0.87, "entropy": 1.0}
PHASES = {"environment": 5.5, "policy": 1.2, "update": 3.3}


def snapshot(**changes: object) -> Snapshot:
    now = Snapshot("CartPole-v1", "steps", 1_000_000, COLUMNS, "runs/one", 204_800, 15_300.0, 13.4, VALUES, PHASES)
    return Snapshot(**{**vars(now), **changes})


def test_a_line_says_it_all():
    assert format_line(snapshot()) == (
        "steps 204,800/1,000,000  20% | 15,300 steps/s | return 1,234.5 (last 100) | KL 0.012 | clip 0.11 | EV 0.87"
        " | env 55% policy 12% update 33%"
    )
    assert format_line(snapshot(values={}, phases={}, rate=None)) == "steps 204,800/1,000,000  20%"
    assert format_line(snapshot(values={"return": float("nan")}, phases={}, rate=None, total=0)).endswith(
        "nan (last 100)"
    )


def test_times_are_readable():
    assert [format_seconds(s) for s in (None, 0, 59.6, 3599, 3723)] == ["-", "0:00", "1:00", "59:59", "1:02:03"]
    assert snapshot(rate=1000.0).remaining == pytest.approx(795.2)
    assert snapshot(rate=None).remaining is None


@pytest.mark.parametrize("width", [20, 80, 200])
@pytest.mark.parametrize("changes", [{}, {"values": {}, "phases": {}}, {"total": 0}, {"title": "[bold]x[/nope]"}])
def test_the_panel_fits_every_terminal(width: int, changes: dict):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(render(snapshot(**changes)))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    if width == 200:
        text = "\n".join(lines)
        assert changes.get("title", "CartPole-v1") in text
        assert "runs/one" in text
        assert ("return (last 100)" in text) == ("values" not in changes)
        assert ("environment" in text) == ("phases" not in changes)


@pytest.mark.parametrize(("verdict", "colour"), [("green", "\x1b[32m"), ("red P012 ratio-not-one", "\x1b[1;31m")])
def test_the_panel_shows_the_verdict_in_its_colour(verdict: str, colour: str):
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    console.print(render(snapshot(values={**VALUES, "verdict": verdict})))
    assert re.search(rf"{re.escape(colour)} *{verdict}", console.file.getvalue())


def test_in_80_columns_no_label_is_broken_and_nothing_is_glued_whatever_the_verdict_is():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    large = {"step": 2_048_000, "total": 10_000_000, "elapsed": 7440.0, "rate": 1030.0}
    values = {**VALUES, "verdict": "red P012 ratio-not-one", "learning_rate": 3e-4}
    console.print(render(snapshot(values=values, **large)))
    text = console.file.getvalue()
    for whole in ("return (last 100)", "explained variance", "red P012 ratio-not-one", "2.05M / 10M steps  20%"):
        assert whole in text


def test_plain_lines_go_to_stderr_at_their_time_and_the_last_state_always(capsys: pytest.CaptureFixture):
    with Progress("CartPole-v1", 100, mode="plain", every_seconds=1000, folder="runs/one") as progress:
        for step in (10, 20, 30):
            progress.update(step, {"return": float(step), "unknown": 1.0}, {"environment": 1.0})
        progress.update(40, {"return": None})
        progress.message("saved [best]")
    out, err = capsys.readouterr()
    assert out == ""
    title, message, last = err.splitlines()
    assert title == "CartPole-v1  runs/one"
    assert message == "saved [best]"
    assert last.startswith("steps 40/100  40% | ")
    assert last.endswith("| return 30.0 (last 100) | env 100%")


def test_the_rate_counts_only_the_steps_of_this_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    clock = [100.0]
    monkeypatch.setattr("proximo.runs.console.progress.time.monotonic", lambda: clock[0])
    with Progress("x", 2_000_000, mode="plain", every_seconds=1, start=1_000_000) as progress:
        for second in range(1, 61):
            clock[0] += 1.0
            progress.update(1_000_000 + 500 * second)
    lines = capsys.readouterr().err.splitlines()[1:]
    assert len(lines) == 60
    assert all("| 500 steps/s" in line for line in lines)


def test_steps_beyond_those_asked_for_are_not_more_than_all(capsys: pytest.CaptureFixture):
    with Progress("x", 500, mode="plain", every_seconds=0) as progress:
        progress.update(512)
        progress.update(1024)
    assert [line.partition(" |")[0] for line in capsys.readouterr().err.splitlines()[1:]] == [
        "steps 512/512  100%",
        "steps 1,024/1,024  100%",
    ]


@pytest.mark.parametrize(
    ("drawing", "share", "longest"), [(0.002, 0.0035, 0.7), (0.02, 0.0035, 6.8), (3.0, 0.32, 10.1)]
)
def test_a_terminal_that_draws_slowly_is_drawn_to_less_often(monkeypatch, drawing: float, share: float, longest: float):
    now, shown = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def slowly(panel, snapshot):
        shown.append(now[0])
        now[0] += drawing

    monkeypatch.setattr(LivePanel, "show", slowly)
    with Progress("a task", 100_000, mode="live") as display:
        for step in range(20_000):
            display.update(step)
            now[0] += 0.01
    assert len(shown) * drawing / now[0] <= share
    gaps = [after - before for before, after in itertools.pairwise(shown[:-1])]  # the last is at the end
    assert longest - 0.2 <= max(gaps) <= longest


@pytest.mark.parametrize("slow", [[0], [5], [5, 6], [0, 4, 5, 9]])
def test_a_drawing_that_had_to_wait_for_imports_or_the_processor_does_not_make_the_panel_stand_still(monkeypatch, slow):
    now, shown = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def draw(panel, snapshot):
        now[0] += 0.5 if len(shown) in slow else 0.001
        shown.append(now[0])

    monkeypatch.setattr(LivePanel, "show", draw)
    with Progress("a task", 1_000, mode="live") as display:
        for step in range(1_000):
            display.update(step)
            now[0] += 0.01
    assert len(shown) > 20
    assert max(after - before for before, after in itertools.pairwise(shown)) < 0.9  # 0.5 and a third of a second


def test_quiet_is_quiet(capsys: pytest.CaptureFixture):
    with Progress("x", 10, mode="quiet") as progress:
        progress.update(10)
        progress.message("hello")
    assert capsys.readouterr() == ("", "")


RUN = """
import time
from proximo.runs.console.progress import Progress
with Progress("CartPole-v1", 1000, every_seconds=0) as progress:
    for step in range(1001):
        progress.update(step, {"return": 1.0}, {"update": 1.0})
        if step == 500: progress.message("half [way]")
print("result")
"""


def run(stderr: int, **environment: str) -> subprocess.Popen:
    clean = {name: value for name, value in os.environ.items() if name not in ("CI", "TERM")}
    return subprocess.Popen(
        [sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=stderr, text=True, env={**clean, **environment}
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("environment", "live"), [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"CI": "1"}, False)]
)
def test_a_terminal_gets_a_panel_and_stdout_only_the_result(environment: dict, live: bool):
    ours, theirs = os.openpty()
    process = run(theirs, **environment)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    assert process.communicate()[0] == "result\n"
    assert b"half [way]" in seen
    assert b"100%" in seen
    assert ("╭".encode() in seen) == live
    if live:
        assert seen.count(b"CartPole-v1") < 10  # 1001 updates in a moment are not 1001 drawings
        assert seen.rstrip().endswith(b"\x1b[?25h")  # the cursor is shown again


def test_a_reader_who_goes_away_does_not_end_the_run(tmp_path: Path):
    reader, writer = os.pipe()
    os.close(reader)
    process = run(writer)
    os.close(writer)
    assert process.communicate()[0] == "result\n"


def test_tables_align_and_are_plain_when_piped(capsys: pytest.CaptureFixture):
    print_table([["a", 1, 2.5], ["[bb]", 1000, None]], ["name", "n", "x"])
    print_table([], ["name"])
    print_results({"return": 12.34567, "path": "runs/one"}, title="Results")
    assert capsys.readouterr().out.splitlines() == [
        "name       n     x",
        "──────────────────",
        "a          1   2.5",
        "[bb]   1,000     -",
        "name",
        "────",
        "Results",
        "  return  12.35",
        "  path    runs/one",
    ]
    print_table([["x" * 3000]], ["one line"])
    assert "x" * 3000 in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [40, 80])
def test_tables_fit_the_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, width: int):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    print_table([["tuned", "word " * 100]], ["preset", "source"])
    print_results({"final": "word " * 100})
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.count("word") for line in lines) == 200


def test_a_curve_rises_where_its_values_rise_and_is_flat_where_they_are_equal():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0] * 5, 8) == "▁" * 5
    assert sparkline([0, 2, 10, 12], 2) == "▁█"  # the means 1 and 11
    assert sparkline([1.0], 8) == ""


@pytest.mark.parametrize("count", [2, 31, 64, 1000, 4097])
def test_a_long_curve_keeps_its_course_in_few_numbers(count: int):
    curve = Curve(32)
    for i in range(count):
        curve.add(float(i))
        curve.add(float("nan"))
    shown = str(curve)
    assert len(shown) <= 32
    assert list(shown) == sorted(shown)
    assert (shown[0], shown[-1]) == ("▁", "█")
    assert len(curve._means) < 64


def test_a_terminal_without_such_characters_gets_no_curve():
    now = snapshot()
    for value in (1.0, 2.0):
        now.curve.add(value)
    for encoding, shown in (("utf-8", True), ("ascii", False)):
        console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding), width=80, force_terminal=True)
        console.print(render(now))
        console.file.flush()
        assert ("▁█" in console.file.buffer.getvalue().decode(encoding)) == shown


def test_two_samples_a_minute_are_shown_in_one_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    clock = [0.0]
    monkeypatch.setattr("proximo.runs.console.progress.time.monotonic", lambda: clock[0])
    with Progress("x", 10, mode="plain", every_seconds=1000) as progress:
        for second in range(61):
            clock[0] = float(second)
            progress.sample("a\nfilm", f"is\x1b[2J good {second} " + "very " * 100, 1.25)
    lines = capsys.readouterr().err.splitlines()[1:]
    assert len(lines) == 3
    assert all(line.startswith("  sample +1.25  a film ▸ is [2J good ") and len(line) < 260 for line in lines)


def test_the_curve_is_of_one_metric(capsys: pytest.CaptureFixture):
    """Until an episode has ended there is no return, and another column stands first."""
    with Progress("x", 100, mode="plain", every_seconds=1000) as progress:
        for step in range(8):
            progress.update(step, {"approx_kl": 0.01})
        for step in range(8, 16):
            progress.update(step, {"return": 100.0 + step, "approx_kl": 0.01})
        assert progress._now.drawn == "return"
        assert str(progress._now.curve) == "▁▂▃▄▅▆▇█"
