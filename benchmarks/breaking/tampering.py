"""Results that were changed behind the pipeline's back."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from breaking.trials import Outcome, Trial, judge
from breaking.workspace import MODEL, Reference, leftovers, untidy
from helpers.project import Project

PART = "Results changed by hand or by a bad disk"
Tamper = Callable[[Path], None]


def flip(name: str, place: float) -> Tamper:
    """Flip one bit of a byte at a share of the file."""

    def change(data: Path) -> None:
        content = bytearray((data / name).read_bytes())
        content[min(len(content) - 1, int(place * len(content)))] ^= 0x10
        (data / name).write_bytes(content)

    return change


def cut(name: str) -> Tamper:
    """Cut the second half off."""

    def change(data: Path) -> None:
        content = (data / name).read_bytes()
        (data / name).write_bytes(content[: len(content) // 2])

    return change


def edit(name: str, pattern: str, replacement: str) -> Tamper:
    """Change the first match of a pattern in a text."""

    def change(data: Path) -> None:
        text, count = re.subn(pattern, replacement, (data / name).read_text(), count=1)
        assert count == 1, name
        (data / name).write_text(text)

    return change


CHANGES: dict[str, Tamper] = {
    "`run.json`, another uid": edit(f"models/{MODEL}/run.json", r'("uid": ")\w{4}', r"\1dead"),
    "`run.json`, another learning rate": edit(f"models/{MODEL}/run.json", r'("train\.lr": )[\d.]+', r"\g<1>0.5"),
    "`run.json`, a better score": edit(f"models/{MODEL}/run.json", r'("best/val_argmax_score": )0', r"\g<1>7"),
    "`run.json`, cut": cut(f"models/{MODEL}/run.json"),
    "`history.csv`, another loss": edit(f"models/{MODEL}/history.csv", r"(\n1,\d+,)\d", r"\g<1>9"),
    "weights, one bit": flip(f"models/{MODEL}/weights.safetensors", 0.7),
    "weights, cut": cut(f"models/{MODEL}/weights.safetensors"),
    "photos of the cache, one bit": flip("cache/train/images.npy", 0.6),
    "masks of the cache, one bit": flip("cache/train/masks.npy", 0.6),
    "masks of the score, one bit": flip("cache/score/train_masks.npy", 0.6),
    "folds, another one": edit("splits/folds.csv", r",1\n", ",0\n"),
    "probabilities, one bit": flip(f"predictions/{MODEL}/val.npy", 0.6),
    "probabilities of the test photos, cut": cut(f"predictions/{MODEL}/test.npy"),
    "`metrics.json`, a better score": edit(f"predictions/{MODEL}/metrics.json", r'("val/argmax_score": )0', r"\g<1>1"),
    "the ensemble's weights": edit("ensemble/weights.json", r"1\.0", "0.5"),
    "rule, another method": edit("postprocess/rules/ensemble.json", r'"argmax"', '"expected"'),
    "rule, other runs": edit("postprocess/rules/ensemble.json", r'("ensemble": ")\w{4}', r"\1dead"),
    "submission, one digit": edit("submission/submission.csv", r"(_5,\d)\d", r"\g<1>0"),
    "table, a better score": edit("reports/comparison.csv", r"(unet,0,)0", r"\g<1>1"),
}
READ_BY = {
    "harveyseg check": ("run.json", "history.csv", "metrics.json", "table"),
    "harveyseg predict": ("run.json", "weights", "rule", "ensemble"),
    "harveyseg predict --model": ("run.json", "weights", "rule"),
}
"""Which results each command reads, besides ``dvc repro``, which watches all."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "dvc repro": ("dvc", "repro"),
    "harveyseg check": ("harveyseg", "check"),
    "harveyseg predict": ("harveyseg", "predict", "photo.jpg", "--out", "maps"),
    "harveyseg predict --model": ("harveyseg", "predict", "photo.jpg", "--model", "unet", "--out", "maps"),
}


def tamper(reference: Reference, work: Path) -> Iterator[Trial]:
    """Change each result in turn, and run every command that would use it."""
    project = reference.copy(work / "tampered")
    photo = next((project.folder / "data" / "raw").rglob("*.jpg"))
    shutil.copy(photo, project.folder / "photo.jpg")
    right = {name: _maps(project, command) for name, command in COMMANDS.items() if "predict" in name}
    for what, change in CHANGES.items():
        for name, command in COMMANDS.items():
            if name in READ_BY and not any(words in what for words in READ_BY[name]):
                continue
            kept = work / "untouched"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(project.folder, kept, symlinks=True)
            change(project.folder / "data")
            yield Trial(PART, what, *_use(reference, project, name, command, right.get(name)))
            shutil.rmtree(project.folder)
            kept.rename(project.folder)


def _use(
    reference: Reference, project: Project, name: str, command: tuple[str, ...], right: dict[str, bytes] | None
) -> tuple[Outcome, str]:
    done = subprocess.run(
        command, cwd=project.folder, env=project.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, timeout=600,
    )  # fmt: skip
    if traceback := untidy(done.stdout):
        return Outcome.UNCLEAR, f"{name}: {traceback[0]}"
    if name == "dvc repro":
        wrong = reference.differences(project.folder) + leftovers(project.folder)
        if done.returncode:
            wrong.append(done.stdout[-300:])
        return judge([f"{name}: {problem}" for problem in wrong])
    if done.returncode:
        return Outcome.SURVIVED, ""
    if right is None:
        return judge([f"{name} notices nothing"])
    maps = {str(path.relative_to(project.folder)): path.read_bytes() for path in _files(project)}
    return judge([] if maps == right else [f"{name} draws other maps"])


def _maps(project: Project, command: tuple[str, ...]) -> dict[str, bytes]:
    project.run(*command)
    maps = {str(path.relative_to(project.folder)): path.read_bytes() for path in _files(project)}
    shutil.rmtree(project.folder / "maps")
    return maps


def _files(project: Project) -> list[Path]:
    return [path for path in sorted((project.folder / "maps").rglob("*")) if path.is_file()]
