"""Groups of neighbouring frames, against a search for connected components of the links themselves."""

import random

from harveyseg.data.split import neighbour_groups, without_number


def test_groups_are_the_components_of_the_links() -> None:
    generator = random.Random(0)
    ids = [str(number) for number in generator.sample(range(6000, 7000), 120)]
    component = {photo_id: photo_id for photo_id in ids}
    for _ in ids:  # links carry the smaller name on, until nothing changes
        for first in ids:
            linked = [component[second] for second in ids if abs(int(first) - int(second)) <= 4]
            component[first] = min(linked)
    groups = neighbour_groups(ids, 4)
    pairs = {(component[photo_id], group) for photo_id, group in zip(ids, groups, strict=True)}
    assert len(pairs) == len(set(component.values())) == len(set(groups)) > 20
    smallest = min(ids, key=int)
    assert groups[ids.index(smallest)] == "0"


def test_ids_that_are_no_numbers() -> None:
    assert without_number(["12", "a1", "0012", "1.5", "", "-3", "²"]) == ["a1", "1.5", "", "-3", "²"]
