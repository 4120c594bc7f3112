import sys
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.history.programs import programs_of


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree").mkdir()
    return tmp_path


def link_to_python(folder: Path) -> Path:
    """An environment as far as can be told from outside: a link to the same Python in a folder of its own."""
    folder.mkdir(exist_ok=True)
    link = folder / "python"
    link.symlink_to(sys.executable)
    return link


def test_programs_are_a_python_and_a_folder_a_side(inside: Path) -> None:
    found = programs_of(None, Path("tree"))
    assert (found["base"].python, found["base"].folder) == (sys.executable, inside / "tree")
    assert (found["new"].python, found["new"].folder) == (sys.executable, inside)
    assert set(programs_of(None, None)) == {"new"}


def test_an_environment_is_where_its_link_lies(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = link_to_python(inside)
    assert programs_of("./python", None)["base"].python == str(link)
    monkeypatch.setenv("HOME", str(inside))
    assert programs_of("~/python", None)["base"].python == str(link)
    assert programs_of(None, Path("~/tree"))["base"].folder == inside / "tree"


def test_the_program_of_new_is_no_base(inside: Path) -> None:
    (inside / "linked").symlink_to(inside)
    for python, folder in ((None, "."), (None, "tree/.."), (None, "linked"), (sys.executable, None)):
        with pytest.raises(UsageError, match="which measure NEW: give the working tree, or the environment"):
            programs_of(python, None if folder is None else Path(folder))


def test_another_environment_in_this_folder_is_a_base(inside: Path) -> None:
    link = link_to_python(inside / "environment")
    found = programs_of(str(link), Path())
    assert (found["base"].python, found["base"].folder) == (str(link), inside)


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="--base-dir 'none' is no folder"):
        programs_of(None, Path("none"))
    with pytest.raises(UsageError, match="--base-python 'no-such' is no program that can be started"):
        programs_of("no-such", None)
