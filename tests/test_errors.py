"""One error lists all problems at once, and hands the single ones on."""

from pathlib import Path

import pytest

from harveyseg.errors import HarveysegError, raise_problems, report_errors


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


def test_a_folder_for_a_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a file for a folder, and a name that no file system takes: no traceback."""
    (tmp_path / "file").write_text("")
    for path, cause in (
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "inside", "Not a directory"),
        (tmp_path / ("a" * 300), "File name too long"),
    ):
        with pytest.raises(SystemExit) as ended, report_errors():
            path.read_text()
        assert ended.value.code == 1
        assert capsys.readouterr().err == f"error: {path}: {cause}. Name another file or folder.\n"


def test_other_errors_of_the_system_are_defects(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, report_errors():
        (tmp_path / "absent").read_text()
    assert "This is a defect of harveyseg" in caught.value.__notes__[0]
