"""Lists of classes for tests."""

from collections.abc import Collection, Mapping

from harveyseg.classes import ClassList, SegmentationClass


def make_classes(
    colours: Mapping[int, str], unscored: Collection[int] = (), ignore: int | str | None = None
) -> ClassList:
    """Classes with these ids and colours, which all are scored but for ``unscored``."""
    return ClassList(
        name="own",
        ignore=ignore,
        classes=tuple(
            SegmentationClass(id=value, name=f"class {value}", color=colour, scored=value not in unscored)
            for value, colour in colours.items()
        ),
    )
