"""RESULTS.md: the verdict on each claim of the report and the tables of the studies.

What they mean is said in docs/reproduction.md, which is written by hand.
"""

import datetime
import math
from pathlib import Path, PurePath

import pandas as pd

from harveyseg.errors import HarveysegError
from harveyseg.files import refuse_foreign, write_text
from harveyseg.reproduction.claims import Noise, StudyResults, read_claims
from harveyseg.reproduction.export import StudyRuns
from harveyseg.reproduction.studies import read_studies
from harveyseg.reproduction.tables import describe_variants, draw_curves, study_markdown, study_table

_SIGNATURE = "Made by `harveyseg results`"
_FIGURE_SIGNATURE = "Matplotlib"
_HEADING = f"""\
# The report's claims, measured

{_SIGNATURE}; do not edit. [docs/reproduction.md](docs/reproduction.md) says what follows from it.

"""
_RULE = """\
A difference larger than its margin (half the width of the 95% interval) confirms or contradicts the claim; a smaller
one needs more seeds. Seeds that collapsed to one class are left out of the difference and counted; a gain that vanishes
with them counts as contradicted. Scores are argmax scores of the held-out photos: the report submitted argmax maps.
`score` in the studies' tables is that of the post-processed maps.
"""


def write_results(runs: StudyRuns, path: Path, figure: Path) -> str:
    """Write RESULTS.md and the learning curves that it shows; returns the text.

    Args:
        runs: of all studies.
        path: of RESULTS.md.
        figure: of the PNG, in or below the folder of ``path``.

    Raises:
        HarveysegError: when no study has a finished run, or someone else wrote a file of these names; no file is
            touched then.
    """
    refuse_foreign(path, _SIGNATURE)
    refuse_foreign(figure, _FIGURE_SIGNATURE)
    results = StudyResults.of(runs)
    if not results.runs:
        raise HarveysegError(
            "There is no finished run of any study with the recipe and data that params.yaml names. "
            "`harveyseg study softmax` runs one, `harveyseg study --list` prints all."
        )
    curves = f"![Losses of each epoch]({figure.relative_to(path.parent)})\n"
    parts = [_HEADING, _setting(runs, results), "\n## Claims\n\n", _RULE, "\n", _claims_table(results)]
    parts.append("\n## The studies\n")
    for name, study in read_studies().items():
        parts.append(f"\n### {study.title}\n\nThe report: {study.says}\n\n")
        variants = list(results.studies[name].values())
        if not results.measured(name):
            parts.append(f"Not run: `harveyseg study {name}`.\n")
            continue
        parts.append(f"{study_markdown(study_table(study, variants))}\n{describe_variants(variants)}\n")
        if study.curves:
            draw_curves(study, variants, figure)
            parts.append(f"\n{curves}")
    text = "".join(parts)
    write_text(path, text)
    return text


def _setting(runs: StudyRuns, results: StudyResults) -> str:
    """On what the studies ran, as a table."""
    recipe = runs.recipe.params
    train = recipe["train"]
    split = recipe["split"]
    newest = datetime.datetime.fromtimestamp(max(run.started_ms for run in results.runs) / 1000, datetime.UTC)
    n_photos = max((value for name, value in runs.data.items() if name.startswith("data/photos/")), default=None)
    rows = {
        "data": ", ".join(sorted({run.data_source for run in results.runs})),
        "photos": PurePath(str(recipe["data"]["path"])).name,
        "training photos": "unknown" if n_photos is None else f"{n_photos:.0f}",
        "folds": f"{split['folds']}, held out: {', '.join(map(str, runs.recipe.folds))}",
        "groups that share a fold": PurePath(str(split["groups"])).name,
        "photo size (the report: 256)": f"{recipe['resize-cache']['size']}",
        "encoder weights": train["encoder_weights"] or "random",
        "training runs": f"{len(results.runs)}, the last of {newest:%Y-%m-%d}",
        "epochs": f"{train['epochs']}",
        "samples of a photo in an epoch": f"{train['sampling']['crops_per_photo']}",
        "batch size": f"{train['batch_size']}",
        "first seed": f"{train['seed']}",
        "standard deviation of a seed's argmax score": _format_noise(results.noise()),
    }
    return _table(pd.DataFrame(rows.items(), columns=["setting", "value"]))


def _format_noise(noise: Noise) -> str:
    if not noise.freedom:
        return "unknown: no variant has several seeds that learnt"
    return f"{noise.deviation:.4f} ({noise.n_variants} variants, {noise.freedom} degrees of freedom)"


def _claims_table(results: StudyResults) -> str:
    judgements = [(claim, claim.judge(results)) for claim in read_claims().values()]
    rows = [
        {
            "the report": f"{claim.section}: {claim.says}",
            "measured here": judgement.measured,
            "difference": _format_difference(judgement.difference),
            "margin": "" if judgement.margin is None else f"{judgement.margin:.4f}",
            "verdict": f"**{judgement.verdict}**",
            "note": judgement.note,
        }
        for claim, judgement in judgements
    ]
    return _table(pd.DataFrame(rows))


def _table(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True, stralign=None) + "\n"


def _format_difference(difference: float | None) -> str:
    return "" if difference is None or math.isnan(difference) else f"{difference:+.4f}"
