import pytest
from typer.testing import CliRunner

from reports.__main__ import app
from reports.scaling.results import FILES

SMALL = {"losses": ("ce", "self-norm"), "counts": (100, 1000)}


@pytest.fixture
def reports():
    def invoke(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def test_a_study_is_drawn_again_with_the_same_bytes(reports, write_study, make_speed, tmp_path) -> None:
    folder = write_study(tmp_path, **SMALL, speed=make_speed((100, 1000)))
    answer = reports(folder)
    assert answer.exit_code == 0, answer.output
    first = {name: (folder / name).read_bytes() for name in FILES}
    assert "self-norm: at 1,000 classes; not at 100 classes (worse)" in answer.output
    assert reports(folder).exit_code == 0
    assert {name: (folder / name).read_bytes() for name in FILES} == first


def test_it_is_written_where_it_is_asked_to_be(reports, write_study, tmp_path) -> None:
    folder = write_study(tmp_path / "runs", **SMALL)
    answer = reports(tmp_path / "runs", "--output", tmp_path / "drawn")
    assert answer.exit_code == 0, answer.output
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == set(FILES)
    assert not (folder / "fig4.png").exists()
    assert f"written to {tmp_path / 'drawn'}" in answer.output


def test_a_study_that_is_not_whole_ends_with_3(reports, write_study, tmp_path) -> None:
    answer = reports(write_study(tmp_path, **SMALL, status="interrupted"))
    assert answer.exit_code == 3
    assert "this is the table so far" in answer.output


def test_a_study_is_drawn_alone(reports, write_study, write_run, tmp_path) -> None:
    answer = reports(write_study(tmp_path, **SMALL), write_run(tmp_path, "resnet50"), "--output", tmp_path / "both")
    assert answer.exit_code == 2
    assert "is drawn alone" in answer.stderr


def test_a_study_without_anything_to_draw_is_one_line(reports, write_study, tmp_path) -> None:
    answer = reports(write_study(tmp_path, losses=("ce",), counts=(), optima=False, costs=False))
    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()) == 1
    assert "holds no model yet" in answer.stderr


def test_queries_that_were_altered_are_one_line(reports, write_study, tmp_path) -> None:
    folder = write_study(tmp_path, **SMALL)
    (folder / "queries" / "100-ce-seed0.npz").write_bytes(b"PK")
    answer = reports(folder)
    assert answer.exit_code == 2
    assert "100-ce-seed0.npz" in answer.stderr
