"""Stage ``resize-cache``: decode and shrink every photo and mask once, into packed arrays."""

from pathlib import Path

from harveyseg.config.settings import section
from harveyseg.data.cache import ResizeParams, build_cache
from harveyseg.pipeline.stage import run


def main(raw: Path = Path("data/raw"), cache: Path = Path("data/cache"), params: Path = Path("params.yaml")) -> None:
    """Write CACHE/train, CACHE/test and CACHE/score from the verified photos in RAW."""
    build_cache(raw, cache, section(params, "resize-cache", ResizeParams))


if __name__ == "__main__":
    run(main)
