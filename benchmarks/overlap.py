"""How well overlapping photos are found by their pictures, against known groups, and what that costs.

    .venv/bin/python benchmarks/overlap.py FOLDER_OF_PHOTOS GROUPS.csv

GROUPS.csv has the columns id, group_strict and group_loose. Photos of one strict group surely overlap, directly or
through others; photos of different loose groups surely do not. The first table compares every pair of photos and shows
which numbers of matching features separate the two. The second one is `split.groups: overlap` itself, on a quarter of
the photos, on all of them and on four times as many: its time must grow with their number, not with its square. The
further photos are the same ones mirrored, stretched, and both, so that none shows the ground of another kind, and each
kind overlaps as much as the photos do.

    .venv/bin/python benchmarks/overlap.py FOLDER_OF_PHOTOS GROUPS.csv --only-time
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import pandas as pd
from PIL import Image, ImageOps

from harveyseg.data.overlap import LEAST_MATCHES, count_matches, find_overlaps, photo_features
from harveyseg.data.split import SplitParams, group_labels
from harveyseg.files import read_table
from harveyseg.project import library_versions

THREADS = 2


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder in the Kaggle layout")
    parser.add_argument("groups", type=Path, help="CSV file of the known groups")
    parser.add_argument("--only-time", action="store_true", help="leave out the first table")
    arguments = parser.parse_args()
    columns = {"id": str, "group_strict": str, "group_loose": str}
    known = read_table(arguments.groups, columns, "Name a file with these columns.").set_index("id")
    photos = sorted(arguments.photos.glob("*_images/**/*.jpg"), key=lambda path: path.stem)
    print(f"{len(photos)} photos, {THREADS} threads, numpy {library_versions()['numpy']}\n")
    if not arguments.only_time:
        print(compare_all_pairs(photos, known).to_markdown(index=False), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        table = time_the_search(photos, known, Path(folder))
    print(table.to_markdown(index=False, floatfmt=".1f"))


def compare_all_pairs(photos: list[Path], known: pd.DataFrame) -> pd.DataFrame:
    """Errors of the groups for several least numbers of matches, when every pair is compared."""
    ids = [path.stem for path in photos]
    pairs = list(combinations(range(len(ids)), 2))
    with ThreadPoolExecutor(THREADS) as pool:
        features = list(pool.map(photo_features, photos))
        counts = list(pool.map(lambda pair: count_matches(features[pair[0]], features[pair[1]]), pairs))
    rows = []
    for least in range(6, 17):
        overlaps = [
            (ids[first], ids[second]) for (first, second), count in zip(pairs, counts, strict=True) if count >= least
        ]
        rows.append({"least matches": least, "overlaps": len(overlaps), **count_errors(ids, overlaps, known)})
    return pd.DataFrame(rows)


def other_ground(photos: list[Path], folder: Path) -> list[Path]:
    """The photos mirrored (m), stretched (s) and both, whose overlaps are those of the photos among themselves."""
    copies = []
    for kind in ("m", "s", "ms"):
        for path in photos:
            with Image.open(path) as photo:
                changed = ImageOps.mirror(photo) if "m" in kind else photo
                if "s" in kind:
                    changed = changed.resize((2 * photo.width, photo.height))
                copies.append(folder / f"{kind}-{path.name}")
                changed.save(copies[-1], quality=95)
    return copies


def time_the_search(photos: list[Path], known: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Seconds and errors of the search that the stage ``split`` runs. CPU seconds do not depend on what else runs."""
    rows = []
    for chosen in (photos[: len(photos) // 4], photos, photos + other_ground(photos, folder)):
        ids = [path.stem for path in chosen]
        started, cpu_started = time.perf_counter(), time.process_time()
        overlaps = find_overlaps(chosen, ids, THREADS)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        rows.append(
            {
                "photos": len(chosen),
                "least matches": LEAST_MATCHES,
                "seconds": seconds,
                "CPU seconds": cpu_seconds,
                "CPU seconds per photo": cpu_seconds / len(chosen),
                "overlaps": len(overlaps),
                **count_errors([name for name in ids if name in known.index], overlaps, known),
            }
        )
    return pd.DataFrame(rows)


def count_errors(ids: list[str], overlaps: list[tuple[str, str]], known: pd.DataFrame) -> dict[str, int]:
    """Pairs of one strict group that are apart, and pairs of different loose groups that are together."""
    labels = group_labels(ids, SplitParams(folds=2, groups="overlap"), Path(), overlaps)
    group_of = dict(zip(ids, labels, strict=True))
    strict = known["group_strict"]
    loose = known["group_loose"]
    pairs = list(combinations(ids, 2))
    return {
        "strict pairs apart": sum(strict[a] == strict[b] and group_of[a] != group_of[b] for a, b in pairs),
        "loose groups joined": sum(loose[a] != loose[b] and group_of[a] == group_of[b] for a, b in pairs),
    }


if __name__ == "__main__":
    main()
