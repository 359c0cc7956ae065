"""The page of `proximo report`, opened in a real browser."""

import json
import shutil

import pytest

import proximo
from proximo.cli import main as cli
from proximo.core.ratio_bins import EDGES

DRAWN = "document.documentElement.dataset.drawn"
SCROLL = """(async () => {
  for (const plot of document.querySelectorAll(".plot")) {
    plot.scrollIntoView({ block: "center" });
    while (!plot.querySelector(".main-svg")) await new Promise((next) => setTimeout(next, 10));
  }
  scrollTo(0, 0);
})()"""
"""What a reader does: each figure is drawn when it comes into view."""
TITLES = "[...document.querySelectorAll('figure h3')].map(x => x.innerText)"
HAS = "x => !!x.querySelector('.main-svg')"
EVIL = "<img src=x onerror=alert(1)>"


def opened(page, file):
    """The page once every figure is drawn; one that is open already is taken as it is."""
    if page.run("location.href") != f"file://{file}":
        page.open(f"file://{file}")
        page.wait(DRAWN)
        page.run(SCROLL)
    return page


def looked_at(page, plot, condition):
    """Scroll to a figure and wait until it shows what it should."""
    page.run(f"document.querySelector('{plot}').scrollIntoView()")
    page.wait(f"{DRAWN} && {condition}")


@pytest.fixture(scope="module")
def both(runs, tmp_path_factory):
    """A report of two seeds."""
    return proximo.report(runs, out=tmp_path_factory.mktemp("report") / "both.html")


@pytest.fixture(scope="module")
def alone(runs):
    """A report of one run, where the command puts it."""
    return proximo.report(runs[0])


def test_one_run_is_one_file_that_loads_nothing_and_draws_every_figure(runs, page, capsys):
    assert cli.main(["report", str(runs[0]), "--json"]) == 0
    file = runs[0] / "report.html"
    assert json.loads(capsys.readouterr().out) == {"report": str(file)}
    assert file.stat().st_size < 6_000_000
    opened(page, file)
    figures = page.run("document.querySelectorAll('.plot').length")
    assert page.run(f"[...document.querySelectorAll('.plot')].filter({HAS}).length") == figures
    assert figures >= 15
    assert page.errors == []
    assert page.requests == [f"file://{file}"]
    drawn = page.run("(x => [x.data[0].y, x.layout.shapes])(document.querySelector('#plot-approx_kl'))")
    assert [shape["fillcolor"] for shape in drawn[1]] == ["#009e73"]  # all of it is healthy
    assert drawn[1][0]["y0"] < min(drawn[0]) < max(drawn[0]) < drawn[1][0]["y1"]
    assert {"return, CartPole-v1", "KL of an update", "episodes cut by a limit"} <= set(page.run(TITLES))


def test_only_what_is_in_view_is_drawn_and_all_of_it_for_the_printer(both, page):
    page.open(f"file://{both}")
    page.wait(DRAWN)
    drawn = f"[...document.querySelectorAll('.plot')].map({HAS})"
    first = page.run(drawn)
    assert first[0]
    assert not any(first[len(first) // 2 :])
    page.run("document.querySelectorAll('.plot')[14].scrollIntoView()")
    page.wait(f"{drawn}[14]")
    page.call("Page.printToPDF")
    assert all(page.run(drawn))
    assert page.errors == []


def test_the_page_has_no_more_of_plotly_than_it_draws_with(alone, page):
    """All of it is 4.8 MB, which took a browser most of the time of opening a report."""
    assert alone.stat().st_size < 2_000_000
    opened(page, alone)
    known = "Object.keys(Plotly.PlotSchema.get().traces)"
    drawn = "[...new Set([...document.querySelectorAll('.js-plotly-plot')].flatMap(x => x.data.map(y => y.type)))]"
    assert set(page.run(known)) == set(page.run(drawn)) == {"scatter", "bar", "heatmap"}


def test_the_ratio_map_shows_what_the_run_has_recorded(runs, alone, page):
    opened(page, alone)
    drawn = page.run("(({x, y, z}) => ({x, y, z}))(document.querySelector('#plot-ratio').data[0])")
    rows = proximo.metrics(runs[0])
    assert drawn["x"] == [row["step"] for row in rows]
    assert len(drawn["y"]) == len(EDGES) + 1
    outside = [sum(z[i] for y, z in zip(drawn["y"], drawn["z"], strict=True) if abs(y) > 1) for i in range(len(rows))]
    counts = [[int(n) for n in row["ratio_histogram"].split()] for row in rows]
    # Six bins on each side lie beyond one clip range: five closed ones and the open one.
    assert outside == pytest.approx([100 * (sum(n[:6]) + sum(n[-6:])) / sum(n) for n in counts], abs=0.2)
    assert page.run("document.querySelector('#plot-ratio').layout.shapes.map(x => x.y0)") == [-1, 1]


def test_every_explanation_can_be_reached_and_read(both, page):
    opened(page, both)
    sentences = page.run(
        "[...document.querySelectorAll('figure .explained')].map(x => [x.dataset.sentence, x.tabIndex])"
    )
    assert len(sentences) == page.run("document.querySelectorAll('figure').length")
    assert all(len(text) > 20 and text.endswith(".") and index == 0 for text, index in sentences)
    bubble = "getComputedStyle(document.querySelector('figure .explained'), '::after').content"
    assert page.run(bubble) == "none"
    page.run("document.querySelector('figure .explained').focus()")
    assert page.run(bubble).strip('"') == sentences[0][0]


def test_every_headline_says_in_a_sentence_what_it_is(both, talk, page, tmp_path):
    rows = "[...document.querySelectorAll('#headline tbody th')].map(x => [x.innerText, x.firstChild.title || ''])"
    opened(page, both)
    seen = page.run(rows)
    opened(page, proximo.report(talk, out=tmp_path / "new" / "folder" / "talk.html"))
    seen += page.run(rows)
    assert {"environment steps", "responses", "speed", "return, best", "final policy"} <= {label for label, _ in seen}
    assert [label for label, text in seen if len(text) < 20 or not text.endswith(".")] == []


AXES = """[...document.querySelectorAll('.js-plotly-plot')].map(x => [x.id,
  ...['xaxis', 'yaxis'].map(name => x.layout[name].title.text || (x.layout[name].ticktext || []).join())])"""


def test_every_axis_says_what_it_counts_in_which_unit(both, page):
    opened(page, both)
    seen = {plot: axes for plot, *axes in page.run(AXES)}
    assert [plot for plot, axes in seen.items() if not all(axes)] == []
    assert seen["plot-approx_kl"] == ["environment steps", "nats"]
    assert seen["plot-phases"] == ["share of the measured time, %", "seed-1,seed-0"]


def test_each_setting_says_what_proximo_explain_says(both, page):
    opened(page, both)
    shown = dict(page.run("[...document.querySelectorAll('details th')].map(x => [x.textContent, x.firstChild.title])"))
    assert [name for name, text in shown.items() if not text] == ["setting", "seed-0", "seed-1", "kind"]
    (setting,) = proximo.explain("update.epochs").settings
    assert shown["update.epochs"] == next(place.text for place in setting.places if place.verb == "train")


def test_the_run_picker_works_from_the_keyboard(both, page):
    opened(page, both)
    lines = "document.querySelector('#plot-approx_kl').data.length"
    assert page.run(lines) == 2
    page.run("document.querySelector('#theme').focus()")
    page.press("Tab")
    assert page.run("document.activeElement.type") == "checkbox"
    page.press(" ", " ")
    looked_at(page, "#plot-approx_kl", f"{lines} === 1")
    assert page.run("document.querySelector('#plot-approx_kl').data[0].name") == "seed-1"
    page.run("document.activeElement.scrollIntoView()")
    page.press(" ", " ")
    looked_at(page, "#plot-approx_kl", f"{lines} === 2")
    assert page.errors == []


def test_dark_follows_the_system_and_the_button(both, page):
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('#plot-approx_kl').layout.font.color"
    page.dark(False)
    opened(page, both)
    assert page.run(paper) == "rgb(255, 255, 255)"
    light = page.run(ink)
    page.dark(True)
    looked_at(page, "#plot-approx_kl", f"{ink} !== '{light}'")
    dark = page.run(paper)
    assert dark != "rgb(255, 255, 255)"
    swatch = "document.querySelector('#runs .swatch').style.backgroundImage"
    line = "document.querySelector('#plot-approx_kl').data[0].line.color"
    as_rgb = f"(c => `rgb(${{[1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)).join(', ')}})`)({line})"
    in_the_dark = page.run(as_rgb)
    assert in_the_dark in page.run(swatch)
    page.run("document.querySelector('#theme').click()")
    looked_at(page, "#plot-approx_kl", f"{ink} === '{light}'")
    assert page.run(as_rgb) != in_the_dark
    assert page.run(as_rgb) in page.run(swatch)
    assert page.run(paper) == "rgb(255, 255, 255)"
    page.dark(False)


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(both, page, width):
    page.size(width, 800)
    opened(page, both)
    page.wait(f"document.documentElement.scrollWidth <= {width}", 10)
    columns = page.run("getComputedStyle(document.querySelectorAll('.grid')[3]).gridTemplateColumns").split()
    assert len(columns) == (1 if width == 400 else 2)


@pytest.fixture(scope="module")
def awkward(runs, tmp_path_factory):
    """A report of twelve runs: numbers that need many digits, a divergence without end, long names and short ones."""
    folder, rows = tmp_path_factory.mktemp("awkward"), proximo.metrics(runs[0])
    for k in range(12):
        odd = [
            row
            | {"learning_rate": 0.002 - 1e-6 * i, "return": -123456.0 + 0.01 * i, "value_loss": 5e-7 * i - 1e-6}
            | {"approx_kl": 1e-3 if i % 2 else 1e300, "clip_fraction": 0.0, "step": row["step"] + 20 * k}
            | {"return_rms": 31.0 + 0.1 * i, "final_approx_kl": 3.1e-5 + 1e-7 * i, "exact_kl": 0.02}
            for i, row in enumerate(rows)
        ]
        run = folder / (f"{k}" if k else "a-name-without-end-" * 9)
        shutil.copytree(runs[0], run)
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in odd))
    return proximo.report(sorted(folder.iterdir()), out=folder / "awkward.html")


OVER = """[...document.querySelectorAll('.js-plotly-plot')].filter(plot => {
  const title = plot.querySelector('.ytitle')?.getBoundingClientRect();
  const marks = [...plot.querySelectorAll('.ytick text')].map(mark => mark.getBoundingClientRect());
  return title && marks.some(mark => mark.width && mark.left < title.right);
}).map(plot => plot.id)"""


def test_no_mark_of_an_axis_lies_on_its_title_however_long_its_numbers_are(awkward, page):
    page.size(1280, 800)
    opened(page, awkward)
    looked_at(page, "#plot-learning_rate", "document.querySelector('#plot-learning_rate .ytick')")
    assert page.run(OVER) == []
    page.run(
        "Plotly.relayout('plot-value_loss', {'yaxis.range': [1e-7, 1.0003e-7]}).then(() => 1)"
    )  # as if it were zoomed in to
    page.wait(f"({OVER}).length === 0", 5)
    assert page.errors == []


def test_a_share_is_drawn_between_0_and_1_and_a_log_axis_has_few_marks(awkward, page):
    opened(page, awkward)
    low, high = page.run("document.querySelector('#plot-clip_fraction').layout.yaxis.range")
    assert -0.1 < low <= 0 < high < 1.1
    seen = {}
    for name in ("approx_kl", "return_rms", "final_approx_kl", "exact_kl"):
        looked_at(page, f"#plot-{name}", f"document.querySelector('#plot-{name} .ytick')")
        seen[name] = page.run(f"[...document.querySelectorAll('#plot-{name} .ytick text')].map(x => x.textContent)")
    assert [name for name, marks in seen.items() if not 2 <= len(set(marks)) == len(marks) <= 8] == []
    assert max(len(mark) for marks in seen.values() for mark in marks) <= 8


@pytest.mark.parametrize("width", [400, 1280])
def test_many_runs_and_long_names_are_scrolled_in_their_tables_and_not_squeezed(awkward, page, width):
    page.size(width, 800)
    opened(page, awkward)
    page.wait(f"document.documentElement.scrollWidth <= {width}", 10)
    narrow = "[...document.querySelectorAll('.scroll td')].map(x => x.clientWidth).filter(x => x && x < 50).length"
    assert page.run(narrow) == 0
    page.size(1280, 800)


def test_names_and_samples_of_a_stranger_are_text(runs, page, tmp_path):
    folder = tmp_path / EVIL
    shutil.copytree(runs[0], folder)
    sample = {"responses": 64, "prompt": f"</script><script>alert(2)</script>{EVIL}", "response": EVIL, "score": 1.0}
    (folder / "samples.jsonl").write_text(json.dumps(sample) + "\n" + '{"responses": 128, "prom')
    opened(page, proximo.report([folder, runs[1]], out=tmp_path / "evil.html"))
    page.run("document.querySelector('#plot-approx_kl').dispatchEvent(new MouseEvent('mousemove'))")
    assert page.run("document.images.length") == 0
    assert page.run("document.querySelector('#runs label').innerText").strip() == EVIL
    assert sample["prompt"] in page.run("document.querySelector('.texts').textContent")
    assert page.errors == []


def test_a_run_without_ratios_leaves_no_figure_over_its_findings(runs, page, tmp_path):
    older = tmp_path / "older"
    shutil.copytree(runs[0], older)
    rows = [{**row, "ratio_histogram": None} for row in proximo.metrics(older)]
    (older / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened(page, proximo.report([runs[1], older], out=tmp_path / "older.html"))
    height = "document.querySelector('#plot-ratio .main-svg').getBoundingClientRect().height"
    room = "document.querySelector('#plot-ratio').getBoundingClientRect().height"
    assert page.run(height) == page.run(room) > 200
    page.run("document.querySelector('#own').selectedIndex = 1")
    page.run("document.querySelector('#own').dispatchEvent(new Event('change'))")
    looked_at(page, "#plot-ratio", f"{room} < 200")
    assert page.run(height) == page.run(room)
    assert "The ratio's histogram of older is left out" in page.run("document.body.innerText")
    assert page.errors == []
