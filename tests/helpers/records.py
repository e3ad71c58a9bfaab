"""Records of runs, and the files that the stages of a finished run leave."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harveyseg.files import write_json
from harveyseg.record import RunRecord, write_run
from harveyseg.tracking.outputs import RunOutputs

START_MS = 1_790_000_000_000

SCORES = {
    "val/argmax_score": 2 / 3,
    "val/argmax_macro_dice": 0.1 + 0.2,
    "val/miou": 0.25,
    "val/pixel_accuracy": 0.75,
    "val/all_empty_score": 0.6,
    "val/argmax_dice/03_swimming_pool": 1e-17,
}


def make_record(model: str = "unet", fold: int | None = 0, **changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "kind": "train",
        "model": model,
        "fold": fold,
        "stage_key": "a1" * 32,
        "parameters": {"train.lr": 0.001, "train.batch_size": 4, "resize-cache.size": "128 x 128", "train.ema": None},
        "git_commit": "c0ffee",
        "git_dirty": False,
        "data_source": "demo",
        "data_hash": "d" * 64,
        "split_hash": "e" * 64,
        "device": "cpu",
        "environment": {"torch": "2.15.0"},
        "started_ms": START_MS,
    }
    return RunRecord.model_validate(values | changes)


def make_history(epochs: int) -> list[dict[str, float]]:
    """Epochs a second apart; the best val_argmax_score is in the middle."""
    return [
        {
            "epoch": epoch,
            "time_ms": START_MS + 1000 * epoch,
            "train_loss": 3 / epoch,
            "val_loss": 3.3 / epoch,
            "val_argmax_score": 0.65 - 0.05 * abs(epoch - 1 - epochs // 2),
            "val_predicted_classes": 2.5,
            "lr": 0.001,
            "images_per_second": 7.5,
            "seconds": 1.0,
        }
        for epoch in range(1, epochs + 1)
    ]


def make_results(history: list[dict[str, float]]) -> dict[str, float]:
    best = max(history, key=lambda row: row["val_argmax_score"])
    return {
        "best/epoch": best["epoch"],
        "best/val_argmax_score": best["val_argmax_score"],
        **{f"written/{name}": best[name] for name in ("epoch", "train_loss", "val_loss")},
        "epochs": float(len(history)),
        "seconds": 44.0,
        "images_per_second": 7.5,
        "parameters": 1234.0,
    }


def write_outputs(root: Path, record: RunRecord, scores: Mapping[str, float | str], epochs: int = 3) -> RunOutputs:
    """A finished and evaluated run's files, as the stages write them; returns where they are."""
    name = "ensemble" if record.fold is None else f"{record.model}-{record.fold}"
    folder = root / "ensemble" if record.fold is None else root / "models" / name
    predictions = folder if record.fold is None else root / "predictions" / name
    if record.kind == "train":
        history = make_history(epochs)
        record = record.model_copy(update={"ended_ms": START_MS + 9000, "results": make_results(history)})
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "history.csv").open("w", newline="") as opened:
            writer = csv.DictWriter(opened, list(history[0]))
            writer.writeheader()
            writer.writerows(history)
    write_run(folder / "run.json", record)
    identity = {"run_id": record.run_id, "uid": record.uid, "model": record.model, "fold": record.fold}
    write_json(predictions / "metrics.json", identity | dict(scores))
    (predictions / "sheet.png").write_bytes(b"sheet")
    return RunOutputs(record, folder, predictions)
