"""Every example on an installed wheel, from another folder, as a pip user has it; and what the wheel holds.

    python benchmarks/wheel_check.py            # about 6 minutes on 2 cores; makes an environment in a temporary folder

The environment is empty but for what `requirements.lock` pins and the wheel itself. Examples run in reduced size.
"""

import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = ("py.typed", "control/presets/", "language/presets/", "runs/health/pages/P020", "lab/texts/")
NEEDED += ("views/report/page.css", "views/report/page.js", "views/report/draw.js", "views/inspect/episode.js")
NEEDED += ("views/plotly/plotly.min.js", "views/plotly/LICENSE")
STEPS = {"own_algorithm": 20_000, "own_simulator": 20_000, "three_seeds": 4096}
TINY = """
import sys; sys.path.insert(0, {helpers!r})
import tiny
from words import word_tokenizer
tiny.llama(64, layers=3).save_pretrained("model"); word_tokenizer().save_pretrained("model")
"""


def run(*command: object, cwd: Path) -> str:
    """What a command printed.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(folder: Path) -> Path:
    """An interpreter that has what is pinned and the wheel."""
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder / "dist", ROOT, cwd=folder)
    wheel = next((folder / "dist").glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    missing = [part for part in NEEDED if not any(f"proximo/{part}" in name for name in names)]
    print(f"{wheel.name}: {len(names)} files; " + (f"MISSING {missing}" if missing else f"with {', '.join(NEEDED)}"))
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    for arguments in (["torch==2.13.0"], ["-r", ROOT / "requirements.lock"], ["--no-deps", wheel]):
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments, cwd=folder)
    return python


def example(python: Path, file: Path, home: Path) -> str:
    """Run one in reduced size; its last line."""
    if file.stem == "own_reward":
        run(python, "-c", TINY.format(helpers=str(ROOT / "tests" / "helpers" / "language")), cwd=home)
        call = 'main("model", 64)'
    else:
        call = f"main({STEPS.get(file.stem, 4096)})"
    code = f"import {file.stem} as example; print(example.{call})"
    return run(python, "-c", f"import sys; sys.path.insert(0, {str(file.parent)!r}); {code}", cwd=home).splitlines()[-1]


def main() -> None:
    """Print a line for each example."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "elsewhere"
        home.mkdir()
        python = environment(folder)
        print(run(python, "-c", "import proximo; print(proximo.__file__)", cwd=home).strip().replace(name, "TMP"))
        for file in sorted((ROOT / "examples").glob("*.py")):
            started = time.perf_counter()
            said = example(python, file, home)
            print(f"{file.name}: {time.perf_counter() - started:.0f} s; {said[:90]}", flush=True)
        proximo = folder / "env" / "bin" / "proximo"
        print(run(proximo, "doctor", "runs/callbacks", cwd=home).splitlines()[0])
        print(run(proximo, "doctor", "P020", cwd=home).splitlines()[0])


if __name__ == "__main__":
    main()
