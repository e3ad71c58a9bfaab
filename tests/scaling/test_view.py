"""The live view of items."""

from pathlib import Path

import pytest

from harveyseg.scaling.view import ItemsView


def test_a_line_says_how_far_a_training_is_or_what_its_item_printed_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    logs = {name: tmp_path / name for name in ("unet-0", "unet-1", "unet-2", "unet-3")}
    logs["unet-0"].write_text("training: 3/60 images\n")
    logs["unet-1"].write_text("Running stage 'train@unet-1':\nreads photos\n")
    with ItemsView(logs, lambda: {"unet-0": "epoch 3/20, 12 images/s"}) as view:
        view.refresh()
        view.finish("unet-3", "exit status 1")
    printed = capsys.readouterr().err
    assert "unet-0  epoch 3/20, 12 images/s" in printed
    assert "training: 3/60" not in printed
    assert "unet-1  reads photos" in printed
    assert "unet-2  waits for a free machine" in printed
    assert "unet-3  failed: exit status 1" in printed
