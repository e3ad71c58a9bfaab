"""Stage ``resize-cache``: decode and shrink every photo and mask once, into packed arrays."""

from pathlib import Path

from harveyseg.config.settings import section
from harveyseg.data.cache import ResizeParams, build_cache
from harveyseg.pipeline.stage import CacheDir, ParamsFile, RawDir, run


def main(
    params: ParamsFile = Path("params.yaml"),
    raw: RawDir = Path("data/raw"),
    cache: CacheDir = Path("data/cache"),
) -> None:
    """Write CACHE/train, CACHE/test and CACHE/score from the verified photos in RAW."""
    build_cache(raw, cache, section(params, "resize-cache", ResizeParams))


if __name__ == "__main__":
    run(main)
