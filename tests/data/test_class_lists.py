"""Lists of classes: built in, from a file, and as they are stored."""

import re
from pathlib import Path

import pytest

from harveyseg.classes import (
    BUILT_IN,
    FLOODNET10,
    HARVEY25,
    HARVEY26,
    RESCUENET,
    RESCUENET12,
    ClassList,
    SegmentationClass,
    fitting_lists,
    other_edition,
)
from harveyseg.data.class_lists import load_classes, read_classes, store_classes, stored_classes, write_classes
from harveyseg.errors import HarveysegError

OWN = ClassList(
    name="my town",
    ignore="#FFFFFF",
    classes=(
        SegmentationClass(id=12, name="Roof", color="#c83e3e"),
        SegmentationClass(id=200, name="Ground: bare", color="#505050", scored=False),
        SegmentationClass(id=3, name="Water", color="#1e5ac8"),
    ),
)


@pytest.mark.parametrize("classes", [OWN, *BUILT_IN.values()], ids=lambda classes: classes.name)
def test_a_written_list_comes_back(classes: ClassList, tmp_path: Path) -> None:
    write_classes(tmp_path / "classes.yaml", classes)
    assert read_classes(tmp_path / "classes.yaml") == classes
    assert load_classes("classes.yaml", tmp_path) == classes
    store_classes(tmp_path, classes)
    assert stored_classes(tmp_path) == classes


def test_indices_put_what_is_not_scored_first() -> None:
    assert OWN.names == ("Ground: bare", "Water", "Roof")
    assert (OWN.unscored, OWN.scored) == (1, 2)
    assert OWN.ids[:4].tolist() == [200, 3, 12, 255]
    assert [int(OWN.indices[value]) for value in (200, 3, 12, 0, 255)] == [0, 1, 2, 255, 255]
    assert OWN.palette.tolist() == [[80, 80, 80], [30, 90, 200], [200, 62, 62]]
    assert OWN.slugs == ("200_ground_bare", "03_water", "12_roof")
    assert OWN.ignored_value == 255


def test_a_list_is_identified_by_all_but_its_colours() -> None:

    def changed(**changes: object) -> ClassList:
        return ClassList.model_validate(OWN.model_dump() | changes)

    entries = [entry.model_dump() for entry in OWN.classes]
    repainted = [entry | {"color": f"#00000{index}"} for index, entry in enumerate(entries)]
    assert changed(name="other", classes=repainted).identity() == OWN.identity()
    assert changed(ignore=7).identity() != OWN.identity()
    assert changed(classes=[entries[0], entries[1] | {"scored": False}, entries[2]]).identity() != OWN.identity()


def test_the_edition_of_2022() -> None:
    """Bridge stands at 17, the classes from there on moved up by one, and Parking Area was added."""
    later = dict(zip(range(27), HARVEY26.names, strict=True))
    assert (later.pop(17), later.pop(26)) == ("Bridge", "Parking Area")
    assert list(later.values()) == list(HARVEY25.names)
    assert (later[16], later[18], later[25]) == ("Power Lines & Cables", "Water Tank / Oil Tank", "Boat")


def test_the_lists_of_binalab() -> None:
    """In the order of the ids in their label files, by the papers and the repositories of both data sets."""
    assert " ".join(name.replace(" ", "-").lower() for name in FLOODNET10.names) == (
        "background building-flooded building-non-flooded road-flooded road-non-flooded water tree vehicle pool grass"
    )
    assert " ".join(name.replace(" ", "-").lower() for name in RESCUENET.names) == (
        "background water building-no-damage building-minor-damage building-major-damage building-total-destruction "
        "vehicle road-clear road-blocked tree pool"
    )
    # By the docstring of `rescuenetv1.py` in the authors' repository.
    assert dict(enumerate(name.replace(" ", "_") for name in RESCUENET12.names)) == {
        0: "Background", 1: "Debris", 2: "Water", 3: "Building_No_Damage", 4: "Building_Minor_Damage",
        5: "Building_Major_Damage", 6: "Building_Total_Destruction", 7: "Vehicle", 8: "Road", 9: "Tree", 10: "Pool",
        11: "Sand",
    }  # fmt: skip
    for classes in (FLOODNET10, RESCUENET, RESCUENET12):
        assert classes.ids[: len(classes)].tolist() == list(range(len(classes)))


def test_lists_that_fit_the_same_ids() -> None:
    def fitting(*ids: int) -> list[str]:
        return [classes.name for classes in fitting_lists(ids)]

    assert fitting(*range(10)) == ["floodnet10", "rescuenet", "rescuenet12"]
    assert fitting(*range(12)) == ["rescuenet12"]
    assert fitting(*range(25)) == ["harvey25", "harvey26"]
    assert fitting(*range(26)) == ["harvey26"]
    assert fitting(0, 1) == fitting(0, 1, 200) == []


def test_the_other_edition_of_a_list() -> None:
    """Only where it has all ids and calls one of them something else."""
    assert other_edition(RESCUENET, range(11)).startswith("rescuenet12 fits the masks, too, and calls 1, 2, 3, ")
    assert (
        other_edition(RESCUENET12, [0, 7]) == "rescuenet fits the masks, too, and calls 7 Road Clear instead of Vehicle"
    )
    assert other_edition(HARVEY25, [16, 17]) == (
        "harvey26 fits the masks, too, and calls 17 Bridge instead of Water Tank / Oil Tank"
    )
    for classes, ids in ((RESCUENET12, [1, 11]), (RESCUENET, [0, 9, 10]), (HARVEY25, range(17)), (FLOODNET10, [1])):
        assert other_edition(classes, ids) == ""


def test_at_most_150_classes(tmp_path: Path) -> None:
    for number in (150, 151):
        rows = [f'  - {{id: {index}, name: c{index}, color: "#0000{index:02x}"}}' for index in range(number)]
        (tmp_path / f"{number}.yaml").write_text("\n".join(["classes:", *rows]))
    assert len(read_classes(tmp_path / "150.yaml")) == 150
    with pytest.raises(HarveysegError, match=r"151\.yaml: 1 problem\n  - classes: Tuple should have at most 150 items"):
        read_classes(tmp_path / "151.yaml")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('{id: true, name: X, color: "#000001"}', "id: true is no value of a mask; write a number"),
        ('{id: 9, name: " X", color: "#000001"}', "name: ' X' must be one line without blanks at its ends"),
        ('{id: 9, name: "a\\nb", color: "#000001"}', "must be one line"),
        ('{id: 9, name: Image, color: "#000001"}', "name: 'Image' is a column of areas.csv; choose another name"),
        ('{id: 9, name: Water m2, color: "#000001"}', "is a column of areas.csv"),
    ],
)
def test_entries_that_would_mislead(entry: str, said: str, tmp_path: Path) -> None:
    known = ['{id: 2, name: Water, color: "#0000ff"}', '{id: 3, name: Land, color: "#00ff00"}']
    (tmp_path / "own.yaml").write_text("classes:\n" + "".join(f"  - {row}\n" for row in (*known, entry)))
    with pytest.raises(HarveysegError, match=re.escape(said)):
        read_classes(tmp_path / "own.yaml")


def test_what_is_no_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarveysegError, match=r"data\.classes = harvey: no such list.*harvey25, harvey26"):
        load_classes("harvey", tmp_path)
    with pytest.raises(HarveysegError, match=r"absent\.yaml: no such file"):
        load_classes("absent.yaml", tmp_path)
    rows = '{id: 2, name: Water, color: "#0000ff"}, {id: 3, name: Land, color: "#00ff00"}'
    (tmp_path / "true.yaml").write_text(f"ignore: true\nclasses: [{rows}]\n")
    with pytest.raises(HarveysegError, match="ignore: true is no value of a mask"):
        load_classes("true.yaml", tmp_path)
    (tmp_path / "map.yaml").write_text("classes: {0: Ground, 1: Water}\n")
    with pytest.raises(HarveysegError, match=r"classes: must be a list of entries such as `- \{id: 1, name: Water"):
        load_classes("map.yaml", tmp_path)
    (tmp_path / "one.yaml").write_text('classes:\n  - {id: 1, name: Water, color: "#0000ff"}\n')
    with pytest.raises(HarveysegError, match="should have at least 2 items"):
        load_classes("one.yaml", tmp_path)
