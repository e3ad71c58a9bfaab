"""Which files belong to a run: the right ones are read, the wrong ones named."""

from dataclasses import replace
from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError
from harveyseg.files import write_json
from harveyseg.tracking.outputs import RunOutputs, list_workspace, read_epochs
from helpers.records import SCORES, make_history, make_record, write_outputs

PARAMS = "models: {unet: {network: unet}, attention_unet: {network: attention_unet}}\nfolds: [1, 0]\n"


def test_workspace_is_what_params_list(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    for model in ("attention_unet", "unet", "removed"):
        for fold in (0, 1):
            write_outputs(tmp_path, make_record(model, fold), SCORES)
    write_outputs(tmp_path, make_record("ensemble", None, kind="ensemble"), SCORES)
    outputs = list_workspace(tmp_path / "params.yaml", tmp_path)
    names = ["unet-f0", "unet-f1", "attention_unet-f0", "attention_unet-f1", "ensemble"]
    assert [output.record.name for output in outputs] == names
    assert [output.data_figures for output in outputs] == [None] * 4 + [tmp_path / "figures"]
    models = tmp_path / "models"
    (models / "unet-0" / "run.json").unlink()
    (models / "unet-1" / "run.json").write_text("{")
    (models / "attention_unet-0" / "run.json").write_bytes((models / "attention_unet-1" / "run.json").read_bytes())
    with pytest.raises(HarveysegError) as caught:
        list_workspace(tmp_path / "params.yaml", tmp_path)
    for part in (
        "3 problems",
        "unet-0/run.json: no such file",
        "unet-1/run.json: not valid JSON",
        "belongs to attention_unet-f1",
    ):
        assert part in str(caught.value)


def test_scores_are_of_this_run_and_this_evaluation(tmp_path: Path) -> None:
    outputs = [write_outputs(tmp_path, make_record(fold=fold), SCORES | {"evaluation": f"e{fold}"}) for fold in (0, 1)]
    outputs = [replace(output, postprocess=tmp_path / "postprocess") for output in outputs]
    assert [output.scores() for output in outputs] == [SCORES, SCORES]
    assert [output.evaluation for output in outputs] == ["e0", "e1"]
    entries = [
        {"uid": output.record.uid, "evaluation": f"e{fold}-p", "postprocess.method": "auto", "val/gain": gain}
        for fold, (output, gain) in enumerate(zip(outputs, (0.25, -0.5), strict=True))
    ]
    path = tmp_path / "postprocess" / "metrics" / "unet.json"
    write_json(path, {"val/gain": 9.0, "runs": entries})
    assert [output.scores()["val/gain"] for output in outputs] == [0.25, -0.5]
    assert [output.evaluation for output in outputs] == ["e0-p", "e1-p"]
    assert outputs[0].parameters["postprocess.method"] == "auto"
    # Evaluated again, while the post-processing is still that of the evaluation before.
    write_outputs(tmp_path, outputs[0].record, SCORES | {"evaluation": "e9"})
    with pytest.raises(HarveysegError, match=r"post-processes another evaluation of unet-f0 .* `dvc repro`"):
        outputs[0].scores()
    with pytest.raises(HarveysegError, match="post-processes another evaluation of unet-f0"):
        _ = outputs[0].evaluation  # no evaluation is better than another one's
    write_json(path, {"runs": entries[:1]})
    with pytest.raises(HarveysegError, match="evaluates another run"):
        outputs[1].scores()
    retrained = RunOutputs(make_record(), outputs[0].folder, outputs[0].predictions)
    with pytest.raises(HarveysegError, match="evaluates another run"):
        retrained.state()


def test_a_stage_sends_only_what_it_names(tmp_path: Path) -> None:
    output = write_outputs(tmp_path, make_record(), SCORES)
    (output.folder / "weights.safetensors").write_bytes(b"weights")
    for name in ("confusion.csv", "val_ids.csv", ".sheet-x7.png", "val.npy"):
        (output.predictions or tmp_path).joinpath(name).write_bytes(b"")
    for folder, name in (("figures", "unet.png"), ("rules", "unet.json"), ("rules", "other.json")):
        (tmp_path / "postprocess" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "postprocess" / folder / name).write_bytes(b"")
    evaluated = ["model/weights.safetensors", "evaluation/confusion.csv", "evaluation/metrics.json"]
    evaluated += ["evaluation/sheet.png"]
    postprocessed = replace(output, postprocess=tmp_path / "postprocess")
    for stage, expected in (
        (RunOutputs(output.record, output.folder), evaluated[:1]),
        (output, evaluated),
        (postprocessed, [*evaluated, "postprocess/unet.png", "postprocess/unet.json"]),
    ):
        assert [artifact.name for artifact in stage.artifacts()] == expected
    assert RunOutputs(output.record, output.folder).state().metrics == {}


def test_history_is_read_bit_for_bit_and_damage_is_named(tmp_path: Path) -> None:
    output = write_outputs(tmp_path, make_record(), SCORES, epochs=5)
    path = output.folder / "history.csv"
    assert read_epochs(path) == make_history(5)
    path.write_text("epoch,time_ms,train_loss,val_loss\n0,1,2.5,\n")
    assert read_epochs(path) == [{"epoch": 0, "time_ms": 1, "train_loss": 2.5}]
    for damage in (
        "epoch,time_ms\n0,1\n",
        "epoch,time_ms,train_loss\n0,1,abc\n",
        "epoch,time_ms,train_loss\n0,1,\n",
    ):
        path.write_text(damage)
        with pytest.raises(HarveysegError, match=r"history\.csv: .* `dvc checkout .*history\.csv --force` restores it"):
            output.state()


@pytest.mark.parametrize("row", ["x,X,0,0", "1,A,b,0", None])
def test_damaged_class_shares_are_named(tmp_path: Path, row: str | None) -> None:
    header = "class_id,name,pixel_share,photos" if row else "class_id,name"
    (tmp_path / "class_shares.csv").write_text(f"{header}\n0,Background,0,0\n{row or ''}\n")
    output = RunOutputs(make_record("ensemble", None, kind="ensemble"), tmp_path, data_figures=tmp_path)
    with pytest.raises(HarveysegError, match=r"class_shares\.csv: .*dvc checkout"):
        output.class_shares()
