import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.accuracy.run import (
    EVALUATIONS,
    TRAININGS,
    AccuracyWriter,
    Influence,
    load,
    read_influence,
    write_influence,
)
from bench.errors import UsageError

Make = Callable[..., Any]


@pytest.fixture
def written(
    tmp_path: Path,
    make_grid_manifest: Make,
    make_member: Make,
    make_training: Make,
    make_evaluation: Make,
    make_influence: Make,
) -> Path:
    """A run of one loss whose two trainings ended and whose better model was tested."""
    writer = AccuracyWriter.create(tmp_path, make_grid_manifest(["ce"]))
    for rate in (0.1, 0.01):
        writer.append_to(TRAININGS, [make_training(make_member(learning_rate=rate))])
    write_influence(writer.path, make_member(), make_influence())
    writer.append_to(EVALUATIONS, [make_evaluation(make_member())])
    writer.close()
    return writer.path


def test_what_is_written_is_what_is_read(
    written: Path, make_grid_manifest: Make, make_member: Make, make_evaluation: Make, make_influence: Make
) -> None:
    run = load(written)
    assert run.manifest == make_grid_manifest(["ce"])
    assert [training.member.learning_rate for training in run.trainings] == [0.1, 0.01]
    assert run.evaluations == (make_evaluation(make_member()),)
    (name,) = run.influences
    assert name == "ce-lr0.1-seed0"
    for found, put_in in zip(run.influences[name], make_influence(), strict=True):
        np.testing.assert_array_equal(found, put_in)
    assert (run.path, run.notices) == (written, ())


def test_of_what_was_tried_again_the_last_record_stands(
    written: Path, make_member: Make, make_training: Make, make_evaluation: Make, make_influence: Make
) -> None:
    """A training failed, another rate was chosen and tested; then it ended, and was chosen and tested in its place."""
    better = make_member(learning_rate=0.01)
    before = load(written)
    writer, _ = AccuracyWriter.reopen(written)
    writer.append_to(TRAININGS, [make_training(better, status="failed"), make_training(better, 0.99)])
    assert load(written).evaluations == before.evaluations
    write_influence(written, better, make_influence(2e-4))
    writer.append_to(EVALUATIONS, [make_evaluation(better)])
    writer.close()
    run = load(written)
    assert run.trainings == (before.trainings[0], make_training(better, 0.99))
    assert run.evaluations == (make_evaluation(better),)
    assert list(run.influences) == ["ce-lr0.01-seed0"]


def test_a_run_that_lost_its_last_lines_says_so_and_is_written_on(
    written: Path, make_member: Make, make_training: Make
) -> None:
    for name in (TRAININGS, EVALUATIONS):
        (written / name).write_bytes((written / name).read_bytes()[:-7])
    run = load(written)
    assert (len(run.trainings), len(run.evaluations)) == (1, 0)
    assert [notice.kind for notice in run.notices] == ["torn-line", "torn-line"]
    writer, again = AccuracyWriter.reopen(written)
    assert again.trainings == run.trainings
    writer.drop_torn_line()
    writer.append_to(TRAININGS, [make_training(make_member(learning_rate=0.01))])
    writer.close()
    assert len(load(written).trainings) == 2
    assert load(written).notices == ()


@pytest.mark.parametrize(("name", "what"), [(TRAININGS, "training"), (EVALUATIONS, "evaluation")])
def test_rubbish_is_an_error_that_names_file_and_line(written: Path, name: str, what: str) -> None:
    before = (written / name).read_bytes()
    (written / name).write_bytes(b"{}\n" + before)
    for read in (load, AccuracyWriter.reopen):
        with pytest.raises(UsageError, match=rf"{name}, line 1: not a {what}"):
            read(written)
    assert (written / name).read_bytes() == b"{}\n" + before


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"kind": "speed"}, {"losses": "all"}, {"surplus": 1}])
def test_a_manifest_of_something_else_is_refused(written: Path, change: dict[str, Any]) -> None:
    content = json.loads((written / "run.json").read_text())
    (written / "run.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UsageError, match=r"run\.json"):
        load(written)


def test_a_run_is_written_by_one_process_at_a_time(written: Path) -> None:
    writer, _ = AccuracyWriter.reopen(written)
    with pytest.raises(UsageError, match="another process is writing"):
        AccuracyWriter.reopen(written)
    writer.close()
    again, _ = AccuracyWriter.reopen(written)
    again.close()


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _file(run: Path) -> Path:
    return run / "influences" / "ce-lr0.1-seed0.npz"


def _refused(run: Path, make_member: Make) -> None:
    with pytest.raises(UsageError, match=r"ce-lr0\.1-seed0\.npz: not the influences of a model"):
        read_influence(run, make_member())
    with pytest.raises(UsageError, match=r"ce-lr0\.1-seed0\.npz"):
        load(run)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_influences_that_were_cut_short_are_refused_by_name(written: Path, make_member: Make, keep: int) -> None:
    _file(written).write_bytes(_file(written).read_bytes()[:keep])
    _refused(written, make_member)


def test_influences_that_are_missing_are_refused_by_name(written: Path, make_member: Make) -> None:
    _file(written).unlink()
    _refused(written, make_member)


def test_an_altered_byte_is_refused(written: Path, make_member: Make) -> None:
    content = bytearray(_file(written).read_bytes())
    content[300] ^= 1
    _file(written).write_bytes(bytes(content))
    _refused(written, make_member)


def test_code_in_the_place_of_influences_is_refused_and_not_run(
    written: Path, make_member: Make, tmp_path: Path
) -> None:
    hostile = Hostile(tmp_path / "executed")
    _file(written).write_bytes(pickle.dumps(hostile))
    _refused(written, make_member)
    np.savez(_file(written), single=np.array([hostile], dtype=object), all=np.zeros(1))
    _refused(written, make_member)
    buffer = io.BytesIO()
    np.save(buffer, np.array([hostile], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(_file(written), "w") as archive:
        for name in ("single", "all"):
            archive.writestr(f"{name}.npy", buffer.getvalue())
    _refused(written, make_member)
    assert not hostile.path.exists()


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.zeros(3, dtype=np.int64), np.array([np.nan])])
def test_other_arrays_are_refused(written: Path, make_member: Make, wrong: np.ndarray) -> None:
    np.savez(_file(written), single=wrong, all=np.zeros(3))
    _refused(written, make_member)


def test_influences_are_replaced_as_a_whole(written: Path, make_member: Make) -> None:
    write_influence(written, make_member(), Influence(np.arange(3.0), np.arange(4.0)))
    assert read_influence(written, make_member()).all.tolist() == [0, 1, 2, 3]
    assert [path.name for path in (written / "influences").iterdir()] == ["ce-lr0.1-seed0.npz"]
