"""Fitted rules as files: what a rule was fitted on, what it scores, and the masks it produces for a photo."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harveyseg.arrays import BinaryMasks, ClassMap, ProbabilityMap, ProbabilityMaps
from harveyseg.classes import IGNORED
from harveyseg.errors import HarveysegError
from harveyseg.evaluation.metrics import class_map_metrics
from harveyseg.files import read_json, write_json
from harveyseg.inference.probabilities import STRIPE, argmax_map, update_argmax, upsample_rows
from harveyseg.postprocess.rules import ExpectedDiceRule, Rule
from harveyseg.postprocess.select import SelectedRule
from harveyseg.postprocess.statistics import (
    SpecialMask,
    Thresholds,
    ThresholdStatistics,
    count_levels,
    round_to_levels,
    upsample_levels,
)
from harveyseg.record import POOLED, RunRecord, Value
from harveyseg.score import pair_metrics

_REMEDY = "Run `dvc repro postprocess`."


class FittedRule(BaseModel):
    """The rule of one model or of the ensemble, what it was fitted on, and what it scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[3] = 3
    source: str
    """A model of params.yaml, or ``"ensemble"``."""
    uids: dict[str, str]
    """By name, the uids of the runs whose out-of-fold predictions the rule was fitted on."""
    unscored: int
    """Number of classes that are not scored; they come first."""
    scored_classes: tuple[str, ...]
    """The slugs of the scored classes, in their order."""
    score_size: tuple[int, int]
    """(height, width) at which it was fitted, and at which masks are submitted."""
    photos: int
    groups: int
    argmax_score: float
    """The score of these photos' argmax maps."""
    nested_score: float
    """The score of these photos, each post-processed by a rule chosen and fitted without its group fold."""
    in_sample_score: float
    """The score of these photos by ``rule``, which was fitted on them: optimistically biased."""
    cross_validated_scores: dict[str, float]
    """Cross-validated score of each rule, on which the choice rests."""
    nested_rules: Sequence[str]
    """For each fold of the nested estimate, the rule chosen without it."""
    rule: Rule = Field(discriminator="name")

    @model_validator(mode="after")
    def _check_classes(self) -> "FittedRule":
        if isinstance(self.rule, ExpectedDiceRule):
            for values in (self.rule.calibration_intercept, self.rule.presence_intercept):
                if sorted(values) != sorted(self.scored_classes):
                    raise ValueError("the rule is not for these classes")
        return self

    def summary(self) -> dict[str, object]:
        """The entries of ``submission.json`` about the rule."""
        return {"rule": self.rule.name, "val_score": self.nested_score}

    def submitted_masks(self, probabilities: ProbabilityMaps) -> BinaryMasks:
        """The masks to submit for one photo.

        Args:
            probabilities: uint8 (C, H, W), of any size.

        Returns:
            bool (S, height, width) of the score's size: a mask for each scored class; they may overlap and need not
            cover the photo.
        """
        most_probable = argmax_map(probabilities, self.score_size)
        upsampled = [upsample_levels(channel, self.score_size) for channel in probabilities[self.unscored :]]
        masks = np.zeros((len(upsampled), *self.score_size), np.bool_)
        for index, threshold in enumerate(self._thresholds(upsampled)):
            if threshold == SpecialMask.ARGMAX:
                masks[index] = most_probable == index + self.unscored
            elif threshold != SpecialMask.EMPTY:
                masks[index] = upsampled[index] >= threshold
        return masks

    def class_map(self, probabilities: ProbabilityMaps, size: tuple[int, int] | None = None) -> ClassMap:
        """A map with one class for each pixel that agrees with :meth:`submitted_masks`; see :func:`class_map_of`.

        Args:
            probabilities: uint8 (C, H, W).
            size: (height, width) of the map in pixels; that of the score if None.

        Returns:
            uint8 (height, width).
        """
        scored = probabilities[self.unscored :]
        thresholds = self._thresholds(upsample_levels(channel, self.score_size) for channel in scored)
        return class_map_of(probabilities, thresholds, self.unscored, size or self.score_size)

    def _thresholds(self, upsampled: Iterable[ProbabilityMap]) -> Thresholds:
        """(S,): for one photo, given the levels of the scored classes at the size of the score."""
        level_counts = np.stack([count_levels(channel) for channel in upsampled])
        thresholds: Thresholds = self.rule.thresholds(level_counts[None])[0]
        return thresholds


def class_map_of(
    probabilities: ProbabilityMaps, thresholds: Thresholds, unscored: int, size: tuple[int, int]
) -> ClassMap:
    """A map with one class for each pixel that agrees with a photo's submitted masks, for pictures.

    Where masks overlap, a pixel gets the class whose probability is the highest in relation to its threshold. Where
    there is no mask, it gets the most probable one of the classes that are not scored and those that have a mask
    elsewhere in the photo; of all classes, if there is none of either. The map is made in stripes, so it may have
    any size.

    Args:
        probabilities: uint8 (C, H, W).
        thresholds: the photo's masks, int64 (S,).
        unscored: number of classes that are not scored; they come first.
        size: (height, width) of the map in pixels.

    Returns:
        uint8 (height, width).
    """
    submitted = (np.flatnonzero(thresholds != SpecialMask.EMPTY) + unscored).tolist()
    candidates = [*range(unscored), *submitted] or range(len(probabilities))
    class_map = np.zeros(size, np.uint8)
    for top in range(0, size[0], STRIPE):
        rows = slice(top, top + STRIPE)
        stripe = class_map[rows]
        highest = np.full(stripe.shape, -1, np.float32)
        masked_class = np.full_like(stripe, IGNORED)
        highest_ratio = np.ones(stripe.shape, np.float32)
        for index in candidates:
            channel = upsample_rows(probabilities[index], size, rows)
            update_argmax(channel, index, highest, stripe)
            if index < unscored:
                continue
            threshold = thresholds[index - unscored]
            if threshold not in (SpecialMask.ARGMAX, SpecialMask.EMPTY):
                ratio = round_to_levels(channel) / np.float32(threshold)
                better = ratio >= highest_ratio
                masked_class[better] = index
                highest_ratio[better] = ratio[better]
        np.copyto(stripe, masked_class, where=masked_class != IGNORED)
    return class_map


def read_rule(path: Path, records: Sequence[RunRecord]) -> FittedRule:
    """Read a :class:`FittedRule`.

    Args:
        path: the file.
        records: the runs that it must have been fitted on.

    Raises:
        HarveysegError: when it is absent, damaged, of another version, or fitted on other runs.
    """
    try:
        fitted = FittedRule.model_validate(read_json(path, _REMEDY))
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) or item["msg"] for item in error.errors())
        raise HarveysegError(f"{path}: not a rule of this version (wrong or missing: {keys}). {_REMEDY}") from None
    if set(fitted.uids.values()) != {record.uid for record in records}:
        raise HarveysegError(f"{path}: was fitted on other runs ({', '.join(fitted.uids)}). {_REMEDY}")
    return fitted


def postprocess_metrics(
    val: ThresholdStatistics, selected: SelectedRule, test: ThresholdStatistics | None
) -> dict[str, float]:
    """Compute the scores of a selected rule.

    Args:
        val: of the out-of-fold photos, which are post-processed by ``selected.nested_thresholds``.
        selected: the rule, selected on these photos.
        test: of the test photos, which are post-processed by ``selected.rule``; None where their masks are unknown.

    Returns:
        ``<part>/score`` of what is submitted, for ``val`` (nested) and ``test``; ``<part>/postprocess_gain``, the score
        minus that of the argmax maps of the same predictions; ``<part>/submitted_classes``, the mean number of masks
        that are not empty per photo; ``val/macro_dice`` and ``val/dice/<slug>`` of the nested masks, see
        :func:`harveyseg.score.pair_metrics`.
    """
    pairs = pair_metrics(val.dice(selected.nested_thresholds), val.present, val.classes.scored_slugs)
    metrics = {f"val/{name}": value for name, value in pairs.items() if name != "all_empty_score"}
    metrics["val/postprocess_gain"] = pairs["score"] - float(val.argmax_dice.mean())
    metrics["val/submitted_classes"] = float(val.not_empty(selected.nested_thresholds).sum(1).mean())
    if test is not None:
        thresholds = selected.rule.thresholds(test.level_counts)
        test_score = float(test.dice(thresholds).mean())
        metrics["test/score"] = test_score
        metrics["test/postprocess_gain"] = test_score - float(test.argmax_dice.mean())
        metrics["test/submitted_classes"] = float(test.not_empty(thresholds).sum(1).mean())
    return metrics


def pooled_metrics(
    metrics: Mapping[str, float], val: ThresholdStatistics, test: ThresholdStatistics | None
) -> dict[str, float]:
    """Compute the metrics of a model as a whole, as those of an ensemble are: over the photos of all its folds.

    A mean over folds would be another number: mIoU and macro Dice of all photos are no means of those of the folds.

    Args:
        metrics: from :func:`postprocess_metrics`, of all photos.
        val: of the out-of-fold photos.
        test: of the mean of the fold models' probabilities.

    Returns:
        ``pooled/<part>/<metric>``: those of :func:`postprocess_metrics` and of
        :func:`harveyseg.evaluation.metrics.class_map_metrics`, without those of single classes; the
        ``nested_argmax_score`` of an ensemble is the argmax score here.
    """
    pooled = dict(metrics)
    for part, statistics in (("val", val), ("test", test)):
        if statistics is not None:
            argmax = class_map_metrics(statistics.confusions, statistics.classes)
            pooled |= {f"{part}/{name}": value for name, value in argmax.items()}
    pooled["val/nested_argmax_score"] = pooled["val/argmax_score"]  # a single model has no weights to choose
    return {f"{POOLED}{name}": value for name, value in pooled.items() if "dice/" not in name}


def write_rule(
    folder: Path,
    source: str,
    records: Mapping[int | None, RunRecord],
    val: ThresholdStatistics,
    photos: pd.DataFrame,
    selected: SelectedRule,
    score_size: tuple[int, int],
    test: ThresholdStatistics | None,
    identities: Mapping[int | None, Mapping[str, Value]],
    overlapping: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Write ``rules/<source>.json``, a :class:`FittedRule`, and ``metrics/<source>.json``.

    Args:
        folder: e.g. ``data/postprocess``.
        source: a model, or ``"ensemble"``.
        records: the source's runs by fold; an ensemble's only one under None.
        val: of the out-of-fold photos.
        photos: the same photos, with the columns group and fold.
        selected: the rule, selected on these photos.
        score_size: (height, width) at which it was fitted.
        test: see :func:`postprocess_metrics`.
        identities: see :func:`harveyseg.record.identify_postprocessing`.
        overlapping: see :func:`harveyseg.data.split.count_overlapping_photos`; None where overlaps are unknown.

    The file of metrics has an entry for each run: for a training the metrics of the photos of its fold, and, the same
    in every fold, the :func:`pooled_metrics` of the model. Test photos are post-processed for the source as a whole.
    ``<part>/overlapping_photos`` is of the source as a whole as well.

    Returns:
        The metrics over all photos, see :func:`postprocess_metrics`.
    """
    fitted = FittedRule(
        source=source,
        uids={record.name: record.uid for record in records.values()},
        unscored=val.classes.unscored,
        scored_classes=val.classes.scored_slugs,
        score_size=score_size,
        photos=len(photos),
        groups=photos["group"].nunique(),
        argmax_score=float(val.argmax_dice.mean()),
        nested_score=float(val.dice(selected.nested_thresholds).mean()),
        in_sample_score=float(val.dice(selected.rule.thresholds(val.level_counts)).mean()),
        cross_validated_scores=selected.cross_validated_scores,
        nested_rules=selected.nested_rules,
        rule=selected.rule,
    )
    write_json(folder / "rules" / f"{source}.json", fitted.model_dump())
    known = {f"{part}/overlapping_photos": float(count) for part, count in (overlapping or {}).items()}
    metrics = postprocess_metrics(val, selected, test) | known
    whole = known if None in records else pooled_metrics(metrics, val, test)
    runs: list[dict[str, Value]] = []
    for fold, record in records.items():
        in_run = np.array([fold in (None, photo_fold) for photo_fold in photos["fold"]])
        selected_in_run = replace(selected, nested_thresholds=selected.nested_thresholds[in_run])
        run_metrics = postprocess_metrics(val.subset(in_run), selected_in_run, test if len(records) == 1 else None)
        runs.append({"uid": record.uid, **identities[fold], **run_metrics, **whole})
    write_json(folder / "metrics" / f"{source}.json", {**metrics, "runs": runs})
    return metrics
