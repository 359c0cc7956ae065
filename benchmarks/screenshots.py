"""The pictures of README and docs: console, report and live page of real short trainings.

    make screenshots                              # a minute on 2 cores; needs Chromium (apt-get install chromium)
    python benchmarks/screenshots.py OUT          # elsewhere than docs/pictures

Three seeds of CartPole-v1 and one with a learning rate that is ten times higher. The console's panel is the one that a
terminal of 80 columns shows two thirds through the first training. Light report, dark live page; each at most 300 kB.
"""

import io
import sys
import tempfile
import threading
from copy import deepcopy
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from browser import chromium
from PIL import Image
from rich.console import Console

import proximo
from proximo.runs.console.live import LivePanel, render
from proximo.views.watch.server import open_server

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
STEPS, LARGEST = 60_000, 300_000
DRAWN = "document.documentElement.dataset.drawn"


def train(folder: Path) -> str:
    """Train four runs in the folder; the console's panel of the first as SVG."""
    seen, show = [], LivePanel.show
    LivePanel.show = lambda panel, now: (seen.append(deepcopy(now)), show(panel, now))[1]  # type: ignore[method-assign]
    for seed in range(3):
        films = [proximo.VideoEvery(STEPS // 2)] if seed == 0 else []
        mode = "quiet" if seed else "live"
        proximo.train(
            "CartPole-v1", steps=STEPS, seed=seed, run=f"{folder}/cartpole-{seed}", callbacks=films, progress=mode
        )
    fast = {"learning_rate": 0.02, "run": f"{folder}/cartpole-fast"}
    proximo.train("CartPole-v1", steps=STEPS, progress="quiet", **fast)
    now = min(seen, key=lambda now: abs(now.step - 2 * STEPS // 3))
    now.folder = f"runs/{Path(now.folder).name}"
    console = Console(record=True, width=80, force_terminal=True, file=io.StringIO())
    console.print(render(now))
    return console.export_svg(title="proximo train CartPole-v1")


def save(page, file: Path) -> None:
    """A screenshot, in few colours where it would be large."""
    page.picture(file)
    picture = Image.open(file).convert("RGB")
    picture.save(file, optimize=True)
    if file.stat().st_size > LARGEST:
        picture.quantize(256).save(file, optimize=True)
    assert file.stat().st_size <= LARGEST, f"{file} has {file.stat().st_size:,} bytes"
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def main(out: Path) -> None:
    """Train and take the three pictures."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, chromium(f"{name}/profile") as page:
        runs = Path(name) / "runs"
        (Path(name) / "console.svg").write_text(train(runs), "utf-8")
        page.size(994, 560)
        page.open(f"file://{name}/console.svg")
        height = page.run("Math.ceil(document.documentElement.viewBox.baseVal.height)")
        width = page.run("Math.ceil(document.documentElement.viewBox.baseVal.width)")
        page.size(width, height)
        save(page, out / "console.png")
        page.size(1280, 1320)
        page.dark(False)
        page.open(f"file://{proximo.report(sorted(runs.iterdir()), out=Path(name) / 'report.html')}")
        page.wait(DRAWN)
        save(page, out / "report.png")
        with open_server(runs, 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            page.size(1280, 900)
            page.dark(True)
            page.open(f"http://127.0.0.1:{server.server_port}/")
            page.wait(DRAWN)
            save(page, out / "watch.png")
            server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
