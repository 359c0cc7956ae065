"""A notebook in a real kernel: it runs from top to bottom, and an interrupt saves a run that resumes exactly."""

import asyncio
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import proximo

FILE = Path(__file__).parents[1] / "examples" / "notebook.ipynb"
WAIT = """
    if len(curve) == 3 and not __import__("os").path.exists("waiting"):
        import pathlib, time
        pathlib.Path("waiting").touch()
        for _ in range(6_000):  # a stop is noted at once; five minutes are for a machine that stands still
            if trainer._session.stop.requested:
                break
            time.sleep(0.05)
"""
LONG = 600.0  # seconds; nothing here waits for it


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """The example with fewer steps; its kernel looks for modules where this process does."""
    monkeypatch.setenv("PYTHONPATH", str(Path(proximo.__file__).parents[1]))
    cells = nbformat.read(FILE, as_version=4)
    setup = next(cell for cell in cells.cells if "STEPS, RUN" in cell.source)
    setup.source = setup.source.replace("100_000", "10_000")
    return NotebookClient(cells, timeout=LONG, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})


def outputs(cell):
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def test_the_example_runs_from_top_to_bottom_and_a_training_shows_one_table_in_its_cell(notebook, tmp_path):
    """The table is drawn over itself: the cell ends with one, and it is of the last step."""
    call = "proximo.train('CartPole-v1', steps=5_000, run='runs/<b>', seed=0);"
    notebook.nb.cells.append(nbformat.v4.new_code_cell(call))
    cells = notebook.execute().cells
    (table,) = [output["data"]["text/html"] for output in cells[-1].outputs if "data" in output]
    assert all(text in table for text in ("100%", "explained variance", "runs/&lt;b&gt;"))
    said = [outputs(cell) for cell in cells if cell.cell_type == "code"]
    assert "steps" in said[1]
    assert "final_deterministic" in said[2]
    assert said[3] in ("0", "1", "np.int64(0)", "np.int64(1)")
    assert str(len(proximo.metrics(tmp_path / "runs" / "notebook"))) in said[4]


def test_an_interrupt_ends_the_cell_and_the_same_cell_resumes(notebook, tmp_path):
    """The kernel is interrupted in the third iteration's turn of the loop, however fast it is."""
    setup, training, results, *_ = [cell for cell in notebook.nb.cells if cell.cell_type == "code"]
    indices = {cell.id: i for i, cell in enumerate(notebook.nb.cells)}
    training.source += WAIT

    def interrupt():
        while not (tmp_path / "waiting").exists():
            time.sleep(0.05)
        asyncio.run(notebook.km.interrupt_kernel())

    with notebook.setup_kernel():
        notebook.execute_cell(setup, indices[setup.id])
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        notebook.execute_cell(training, indices[training.id], store_history=True)
        interrupting.join()
        before = [row["step"] for row in proximo.metrics(tmp_path / "runs" / "notebook")]
        for cell in (training, results):
            notebook.execute_cell(cell, indices[cell.id])
    rows = proximo.metrics(tmp_path / "runs" / "notebook")
    assert len(before) == 3
    assert [row["step"] for row in rows][:3] == before
    assert rows[-1]["step"] >= 10_000
    whole = proximo.train("CartPole-v1", steps=10_000, seed=0, run=tmp_path / "whole", progress="quiet")
    same = ("return", "approx_kl", "entropy")
    assert [[row[k] for k in same] for row in proximo.metrics(whole.path)] == [[row[k] for k in same] for row in rows]
