"""Make the packaged model `harvey25` from a finished run of the preset `best`: train on all photos, write the folder.

    .venv/bin/python benchmarks/score.py PHOTOS --groups overlap_groups.csv:group_strict --recipes best \
        --seeds 1 --keep WORKSPACE
    .venv/bin/python benchmarks/packaged_model.py WORKSPACE [--photo-scale 0.4] [--threads 2]

The recipe of the workspace's only model is trained once more, on the photos of all folds. Its rule of post-processing
is the one that was fitted on the out-of-fold predictions of the workspace's fold models, and their nested score is what
the card states: the shipped network has no held-out photo of its own. Its weights are stored as float16; the script
prints how many pixels of the test photos that changes. An interrupted training continues.
"""

import argparse
import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from harveyseg.config.settings import listed_models
from harveyseg.data.cache import CachedPart, load_part
from harveyseg.data.sources import SOURCE_GROUNDS
from harveyseg.device import resolve_precision
from harveyseg.files import digest, read_json
from harveyseg.inference.network_file import TrainedNetwork, load_network, save_network
from harveyseg.inference.params import InferenceParams
from harveyseg.inference.predictor import Predictor
from harveyseg.models import packaged
from harveyseg.pipeline.check import ModelConfig, read_config
from harveyseg.prediction.find_model import DEFAULT
from harveyseg.prediction.model_folder import read_model_folder, write_model_folder
from harveyseg.prediction.scale import Training as TrainingPhotos
from harveyseg.prediction.trained_ensemble import TrainedEnsemble, load_trained_ensemble
from harveyseg.project import library_versions
from harveyseg.training.checkpoint import Checkpoint
from harveyseg.training.trainer import Training

CARD = Path(__file__).with_suffix(".md")
NOTICE = (
    'trained on 45 photos of FloodNet (CDLA-Permissive-1.0) from "semantic_segmentation_satellite_imagery", '
    "J. Alchimowicz, figshare, doi 10.6084/m9.figshare.c.6026765.v1 (CC BY 4.0); credit both where you publish maps"
)
FOUND = 0.3
"""Dice from which the card says that a class is found."""


def main() -> None:
    """Train on all photos, write the model folder, compare its half precision with the weights as trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, help="folder in which `best` has run")
    parser.add_argument("--photo-scale", type=float, default=1.0, help="size of its photos relative to the camera's")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of the training")
    parser.add_argument("--out", type=Path, default=Path(packaged.__file__).parent / DEFAULT)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    os.chdir(arguments.workspace)
    (model,), _ = listed_models(Path("params.yaml"))
    config = read_config(Path("data/code/train") / f"{model}.json")
    config = replace(config, train=config.train.model_copy(update={"threads": arguments.threads}))
    part = load_part(Path("data/cache/train"))
    weights = Path("data/packaged-weights.safetensors")
    if not weights.exists():
        _train(config, part, weights)
    ensemble = load_trained_ensemble(Path("params.yaml"), Path("data"), model)
    trained = load_network(weights)
    sizes = {(int(height), int(width)) for height, width in part.photos[["height", "width"]].to_numpy()}
    cameras = {(round(h / arguments.photo_scale), round(w / arguments.photo_scale)) for h, w in sizes}
    shipped = replace(
        ensemble,
        networks=(trained,),
        weights=(1.0,),
        files=(weights,),
        name=DEFAULT,
        training=TrainingPhotos(SOURCE_GROUNDS["kaggle"], frozenset(sizes | cameras)),
    )
    write_model_folder(out, shipped, NOTICE, _card(shipped, config, len(part.ids)), half=True)
    stored = read_model_folder(out).networks[0]
    print(f"{out}: {sum(file.stat().st_size for file in out.iterdir()) / 1e6:.1f} MB")
    share = _changed_pixels(trained, stored, load_part(Path("data/cache/test")))
    print(f"argmax pixels of the test photos that float16 changes: {100 * share:.3f}%")


def _train(config: ModelConfig, part: CachedPart, path: Path) -> None:
    """Train on every photo; the same photos stand in for held-out ones, of which there are none."""
    key = digest({"photos": part.data_hash, "spec": config.spec, "train": config.train.model_dump()})
    rows = np.arange(len(part.ids))
    training = Training(config.spec, config.train, part, rows, rows, Checkpoint(Path(".checkpoints"), f"all-{key}"))
    for epoch in training.run():
        print(epoch, flush=True)
    result = training.result()
    save_network(path, result.state, config.spec, result.mean, result.std, part.size, part.classes)


def _changed_pixels(trained: TrainedNetwork, stored: TrainedNetwork, part: CachedPart) -> float:
    """The share of pixels whose most probable class differs between two versions of a network."""
    params = InferenceParams(precision="fp32")
    predictors = [Predictor(own.network, own.mean, own.std, params) for own in (trained, stored)]
    changed = 0.0
    for row in range(len(part.ids)):
        maps = [predictor(part.images[row : row + 1]).argmax(1) for predictor in predictors]
        changed += float((maps[0] != maps[1]).float().mean())
    return changed / len(part.ids)


def _card(shipped: TrainedEnsemble, config: ModelConfig, photos: int) -> str:
    """Fill in the model card: what it is, what it scores, what it finds."""
    metrics = read_json(Path("data/postprocess/metrics") / f"{config.model}.json", "Run `dvc repro`.")
    classes = shipped.classes
    names = dict(zip(classes.slugs, classes.names, strict=True))
    dice = {names[slug]: metrics.get(f"val/dice/{slug}") for slug in classes.scored_slugs}
    seen = sorted(((value, name) for name, value in dice.items() if value is not None), reverse=True)
    precision = resolve_precision(config.train.precision, torch.device("cpu"))
    return CARD.read_text(encoding="utf-8").format(
        name=DEFAULT,
        encoder=config.spec["encoder"].removeprefix("tu-tf_"),
        parameters=sum(value.numel() for value in shipped.networks[0].network.parameters()) / 1e6,
        classes=classes.scored,
        day=date.today(),
        versions=", ".join(f"{name} {version}" for name, version in library_versions().items()),
        precision=precision,
        seed=config.train.seed,
        score=metrics["val/score"],
        empty=read_json(Path("data/ensemble/metrics.json"), "Run `dvc repro`.")["val/all_empty_score"],
        macro_dice=metrics["val/macro_dice"],
        photos=photos,
        found=", ".join(f"{name} {value:.2f}" for value, name in seen if value >= FOUND) or "none",
        poor=", ".join(f"{name} {value:.2f}" for value, name in seen if value < FOUND) or "none",
        unseen=", ".join(name for name, value in dice.items() if value is None) or "none",
        notice=NOTICE,
    )


if __name__ == "__main__":
    main()
