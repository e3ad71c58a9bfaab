"""docs/first_hour.ipynb: runs as it is, and its committed results are complete, small and of no particular machine."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from helpers.paths import ROOT

PATH = ROOT / "docs" / "first_hour.ipynb"


def read_notebook() -> Any:
    return nbformat.read(PATH, as_version=4)


def text_of(cell: Any) -> str:
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def test_the_committed_results_are_of_one_run_without_complaint() -> None:
    cells = [cell for cell in read_notebook().cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], cell.source
    assert sum("image/jpeg" in output.get("data", {}) for cell in cells for output in cell.outputs) == 4
    assert PATH.stat().st_size < 300_000
    assert "site-packages" not in PATH.read_text()  # no path of a machine


@pytest.mark.slow
def test_the_notebook_runs_and_its_network_learns(tmp_path: Path) -> None:
    notebook = read_notebook()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = [text_of(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(text.count("epoch ") for text in texts) == 12
    (metrics,) = (text for text in texts if "val/argmax_macro_dice" in text)
    # Of classes at random it would be below 0.02.
    assert float(metrics.partition("val/argmax_macro_dice")[2].split()[0]) > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["trial"]  # and nothing elsewhere
