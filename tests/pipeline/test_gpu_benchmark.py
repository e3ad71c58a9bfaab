"""Every part of benchmarks/gpu.py works, in its tiny form on the CPU: minutes of a lent GPU are not for mistakes."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import gpu
from harveyseg.data.cache import ResizeParams, build_cache
from harveyseg.data.sources import DataParams, download_source
from helpers.project import FEW_PHOTOS, TINY, start_project


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has the packed cache and nothing else."""
    folder = tmp_path_factory.mktemp("packed")
    download_source(DataParams.model_validate({"source": "demo", **FEW_PHOTOS}), folder, folder / "raw")
    build_cache(folder / "raw", folder / "data" / "cache", ResizeParams(size=64))
    return folder


@pytest.fixture(autouse=True)
def _as_before() -> object:
    """Torch as the other tests want it."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("part", ["tests", "loops", "memory", "deterministic", "compile", "resume"])
def test_a_part_writes_its_table(part: str, packed: Path, tmp_path: Path) -> None:
    assert gpu.run_part(part, gpu.Bench(packed, ["U-Net 16"], tiny=True), tmp_path, minutes=1)
    lines = json.loads((tmp_path / f"{part}.json").read_text())
    table = (tmp_path / f"{part}.md").read_text()
    columns = table.splitlines()[4].removeprefix("| | ").removesuffix(" |").split(" | ")
    for title, line in lines.items():
        assert f"| {title} | {' | '.join(str(line[column]) for column in columns)} |\n" in table
    if part == "resume":
        assert lines == {"U-Net 16": {"tensors that differ": 0}}
    if part == "loops":
        assert set(lines["U-Net 16"]) == {"ours", "ours, 1 workers", "usual, fp32", "usual, autocast"}
        assert np.all(np.array(list(lines["U-Net 16"].values())) > 0)


def test_a_part_goes_on_where_it_was_broken_off(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(title: str) -> gpu.Line:
        measured.append(title)
        return {"value": len(measured)}

    def two_lines(bench: gpu.Bench) -> object:
        return ((title, partial(measure, title)) for title in ("first", "second"))

    monkeypatch.setitem(gpu.PARTS, "memory", two_lines)
    bench = gpu.Bench(packed, [], tiny=True)
    (tmp_path / "memory.json").write_text('{"first": {"value": 7}}')
    assert not gpu.run_part("memory", bench, tmp_path, minutes=-1)
    assert not (tmp_path / "memory.md").exists()
    assert gpu.run_part("memory", bench, tmp_path, minutes=1)
    assert measured == ["second"]
    assert "| first | 7 |\n| second | 1 |\n" in (tmp_path / "memory.md").read_text()


@pytest.mark.slow
def test_the_table_is_of_the_projects_own_stage(tmp_path: Path) -> None:
    project = start_project(tmp_path / "project", {**TINY, "data": FEW_PHOTOS})
    project.run("dvc", "repro", "code", "resize-cache", "split")
    assert gpu.run_part("table", gpu.Bench(project.folder, [], tiny=True), tmp_path / "out", minutes=1)
    record = project.record("unet-0")
    line = json.loads((tmp_path / "out" / "table.json").read_text())["unet"]
    assert (line["run"], line["precision"]) == (record.run_id, record.environment["precision"])
    assert project.query("select count(*) from runs where status = 'FINISHED'") == 1
