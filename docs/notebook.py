"""Run docs/first_hour.ipynb and keep its results: `make notebook`. Look at them before they are committed."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

PATH = Path(__file__).with_name("first_hour.ipynb")

if __name__ == "__main__":
    notebook = nbformat.read(PATH, as_version=4)
    resources = {"metadata": {"path": str(PATH.parent)}}
    NotebookClient(notebook, record_timing=False, coalesce_streams=True, resources=resources).execute()
    nbformat.write(notebook, PATH)
    print(PATH)
