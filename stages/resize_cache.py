"""Stage ``resize-cache``: decode and shrink every photo and mask once, into packed arrays."""

from pathlib import Path

import harveyseg.pipeline.start  # noqa: F401 - before all that is slow to import
from harveyseg.config.settings import section
from harveyseg.data.cache import ResizeParams, build_cache, load_part
from harveyseg.pipeline.stage import CacheDir, Made, ParamsFile, RawDir, run


def main(
    params: ParamsFile = Path("params.yaml"),
    raw: RawDir = Path("data/raw"),
    cache: CacheDir = Path("data/cache"),
) -> Made:
    """Write CACHE/train, CACHE/test and CACHE/score from the verified photos in RAW."""
    build_cache(raw, cache, section(params, "resize-cache", ResizeParams))
    train, test = load_part(cache / "train"), load_part(cache / "test")
    size = f"{train.size[0]}x{train.size[1]} pixels"
    return Made(f"{len(train.ids)} training and {len(test.ids)} test photos of {size}", cache)


if __name__ == "__main__":
    run(main)
