"""One error lists all problems at once, and hands the single ones on."""

import pytest

from harveyseg.errors import HarveysegError, raise_problems


def test_all_problems_are_in_one_message() -> None:
    with pytest.raises(HarveysegError) as caught:
        raise_problems(["a.jpg: empty", "b.jpg: absent"], "the photos", "Replace them.")
    assert str(caught.value) == "the photos: 2 problems\n  - a.jpg: empty\n  - b.jpg: absent\nReplace them."
    assert caught.value.problems == ("a.jpg: empty", "b.jpg: absent")


def test_one_problem_is_not_called_problems() -> None:
    with pytest.raises(HarveysegError, match=r"^the photos: 1 problem\n"):
        raise_problems(["a.jpg: empty"], "the photos", "Replace it.")


def test_no_problem_raises_nothing() -> None:
    raise_problems([], "the photos", "Replace them.")


def test_a_plain_error_is_its_own_problem() -> None:
    assert HarveysegError("a.jpg: empty").problems == ("a.jpg: empty",)
