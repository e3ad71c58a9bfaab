"""RESULTS.md: the verdict on each claim of the report and the tables of the studies.

What they mean is said in docs/reproduction.md, which is written by hand.
"""

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import pandas as pd

from harveyseg.errors import HarveysegError
from harveyseg.files import refuse_foreign, write_text
from harveyseg.reproduction.claims import Claim, Judgement, Noise, StudyResults, find_deciding, read_claims
from harveyseg.reproduction.export import StudyRuns
from harveyseg.reproduction.figures import FIGURE_SIGNATURE, draw_claims, draw_softmax
from harveyseg.reproduction.studies import read_studies
from harveyseg.reproduction.tables import (
    describe_variants,
    draw_curves,
    name_computing,
    study_markdown,
    study_table,
)

_SIGNATURE = "Made by `harveyseg results`"
_HEADING = f"""\
# The report's claims, measured

{_SIGNATURE}; do not edit. [docs/reproduction.md](docs/reproduction.md) says what follows from it.

"""
_RULE = """\
[The rule](docs/reproduction.md#the-rule) was fixed before the runs. A difference larger than its margin (half the width
of the 95% interval) confirms or contradicts the claim; there is no difference when the whole interval lies within
&plusmn;0.01; the rest is undecided. Seeds that collapsed to one class are left out of the difference and counted; a
gain that vanishes with them counts as contradicted. Scores are argmax scores of the held-out photos: the report
submitted argmax maps. `score` in the studies' tables is that of the post-processed maps.
"""


@dataclass(frozen=True)
class _Part:
    """The runs of one recipe, and what they say."""

    runs: StudyRuns
    results: StudyResults

    @property
    def photo_size(self) -> str:
        size = self.runs.recipe.params["resize-cache"]["size"]
        return "x".join(map(str, size)) if isinstance(size, list) else str(size)

    @property
    def area(self) -> int:
        size = self.runs.recipe.params["resize-cache"]["size"]
        return math.prod(size) if isinstance(size, list) else size**2


def write_results(recipes: Sequence[StudyRuns], path: Path, figures: Path) -> str:
    """Write RESULTS.md and its figures, which docs/reproduction.md shows as well; returns the text.

    Args:
        recipes: the runs of all studies, of one recipe or of several with photos of different sizes.
        path: of RESULTS.md.
        figures: folder of ``study-epochs.png`` and the like, in or below the folder of ``path``.

    Raises:
        HarveysegError: when no study has a finished run, or someone else wrote a file of these names; no file is
            touched then.
    """
    refuse_foreign(path, _SIGNATURE)
    curves, claims, softmax = (figures / f"study-{name}.png" for name in ("epochs", "claims", "softmax"))
    for figure in (curves, claims, softmax):
        refuse_foreign(figure, FIGURE_SIGNATURE)
    parts = [_Part(runs, StudyResults.of(runs)) for runs in recipes]
    parts = sorted((part for part in parts if part.results.runs), key=lambda part: part.area)
    if not parts:
        raise HarveysegError(
            "There is no finished run of any study with the recipe and data that params.yaml names. "
            "`harveyseg study softmax` runs one, `harveyseg study --list` prints all."
        )
    judged = {name: _judge(claim, parts) for name, claim in read_claims().items()}
    draw_claims(judged, claims)
    text = [_HEADING, _settings_table(parts), "\n## Claims\n\n", _RULE, "\n", _claims_table(judged)]
    text.append(_link("Differences of the claims", claims, path))
    text.append("\n## The studies\n")
    for name, study in read_studies().items():
        text.append(f"\n### {study.title}\n\nThe report: {study.says}\n")
        measured = [part for part in parts if part.results.measured(name)]
        if not measured:
            text.append(f"\nNot run: `harveyseg study {name}`.\n")
        for part in measured:
            variants = list(part.results.studies[name].values())
            text.append(f"\n{study_markdown(study_table(study, variants))}\n{describe_variants(variants)}\n")
        if study.curves and measured:
            draw_curves(study, list(measured[-1].results.studies[name].values()), curves)
            text.append(_link("Losses of each epoch", curves, path))
        if name == "softmax" and measured:
            draw_softmax(list(measured[-1].results.studies[name].values()), softmax)
            text.append(_link("Losses and gains with one softmax and two", softmax, path))
    written = "".join(text)
    write_text(path, written)
    return written


def _settings_table(parts: Sequence[_Part]) -> str:
    """On what the studies ran."""
    columns = [_settings(part) for part in parts]
    headings = [f"{part.photo_size} pixels" for part in parts]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return _table(pd.DataFrame(rows, columns=["setting", *headings]))


def _settings(part: _Part) -> dict[str, str]:
    recipe = part.runs.recipe.params
    train = recipe["train"]
    split = recipe["split"]
    runs = part.results.runs
    newest = datetime.datetime.fromtimestamp(max(run.started_ms for run in runs) / 1000, datetime.UTC)
    n_photos = max((value for name, value in part.runs.data.items() if name.startswith("data/photos/")), default=None)
    return {
        "data": ", ".join(sorted({run.data_source for run in runs})),
        "photos": PurePath(str(recipe["data"]["path"])).name,
        "training photos": "unknown" if n_photos is None else f"{n_photos:.0f}",
        "folds": f"{split['folds']}, held out: {', '.join(map(str, part.runs.recipe.folds))}",
        "groups that share a fold": PurePath(str(split["groups"])).name,
        "photo size (the report: 256)": part.photo_size,
        "encoder weights": train["encoder_weights"] or "random",
        "training runs": f"{len(runs)}, the last of {newest:%Y-%m-%d}",
        "computed with": name_computing(runs),
        "epochs": f"{train['epochs']}",
        "samples of a photo in an epoch": f"{train['sampling']['crops_per_photo']}",
        "batch size": f"{train['batch_size']}",
        "first seed": f"{train['seed']}",
        "standard deviation of a seed's argmax score": _format_noise(part.results.noise()),
    }


def _format_noise(noise: Noise) -> str:
    if not noise.freedom:
        return "unknown: no variant has several seeds that learnt"
    return f"{noise.deviation:.4f} ({noise.n_variants} variants, {noise.freedom} degrees of freedom)"


def _judge(claim: Claim, parts: Sequence[_Part]) -> tuple[Claim, Judgement, str]:
    """The judgement on a claim, and the size of the photos that it rests on."""
    part = parts[find_deciding(claim, [part.results for part in parts])]
    return claim, claim.judge(part.results), part.photo_size


def _claims_table(judged: Mapping[str, tuple[Claim, Judgement, str]]) -> str:
    rows = [
        {
            "the report": f"{claim.section}: {claim.says}",
            "measured here": judgement.measured,
            "difference": _format_difference(judgement.difference),
            "margin": "" if judgement.margin is None else f"{judgement.margin:.4f}",
            "verdict": f"**{judgement.verdict}**",
            "pixels": photo_size if judgement.measured else "",
            "note": judgement.note,
        }
        for claim, judgement, photo_size in judged.values()
    ]
    return _table(pd.DataFrame(rows))


def _link(title: str, figure: Path, page: Path) -> str:
    return f"\n![{title}]({figure.relative_to(page.parent)})\n"


def _table(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True, stralign=None) + "\n"


def _format_difference(difference: float | None) -> str:
    return "" if difference is None or math.isnan(difference) else f"{difference:+.4f}"
