import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.accuracy.records import DatasetFacts
from bench.accuracy.records import Manifest as AccuracyManifest
from bench.accuracy.run import AccuracyRun, AccuracyWriter
from bench.accuracy.settings import LossSetting, Recipe
from bench.errors import UsageError
from bench.machine.fingerprint import Machine
from bench.run import Run, RunWriter, load_run
from bench.runs import is_of_a_single_logit, kind_of, load_any


@pytest.fixture
def speed_run(tmp_path: Path, make_manifest: Callable[..., Any], make_round: Callable[..., Any]) -> Path:
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.append(make_round(0))
    writer.close()
    return writer.path


@pytest.fixture
def accuracy_run(tmp_path: Path) -> Path:
    facts = DatasetFacts(name="digits", classes=2, input_shape=(4,), train=9, validation=1, test=5, split_seed=0)
    manifest = AccuracyManifest(
        name="accuracy-digits",
        created="2026-01-02T03:04:05+00:00",
        dataset=facts,
        recipe=Recipe(network="mlp", steps=1),
        losses=(LossSetting(key="ce", name="CE", aligned=False),),
        learning_rates=(0.1,),
        seeds=(0,),
        machine=Machine(os="", cpu="", cores_physical=1, cores_logical=1, cores_usable=1, memory_bytes=1),
        versions={},
    )
    writer = AccuracyWriter.create(tmp_path, manifest)
    writer.close()
    return writer.path


def test_runs_are_told_apart_by_their_manifest(speed_run: Path, accuracy_run: Path) -> None:
    assert (kind_of(speed_run), kind_of(accuracy_run)) == ("speed", "accuracy")
    assert isinstance(load_any(speed_run), Run)
    loaded = load_any(accuracy_run)
    assert isinstance(loaded, AccuracyRun)
    assert loaded.path == accuracy_run


def test_a_kind_that_is_not_known_is_refused(accuracy_run: Path) -> None:
    content = json.loads((accuracy_run / "run.json").read_text())
    (accuracy_run / "run.json").write_text(json.dumps({**content, "kind": "energy"}))
    with pytest.raises(UsageError, match="a run of kind 'energy', where"):
        load_any(accuracy_run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for read in (kind_of, load_any):
        with pytest.raises(UsageError, match="is not a run"):
            read(tmp_path)


def test_a_run_of_a_single_logit_is_told_from_others_and_names_its_command(speed_run: Path, accuracy_run: Path) -> None:
    content = json.loads((accuracy_run / "run.json").read_text())
    (accuracy_run / "run.json").write_text(json.dumps({**content, "kind": "single"}))
    assert (is_of_a_single_logit(speed_run), is_of_a_single_logit(accuracy_run)) == (False, True)
    for read in (kind_of, load_any):
        with pytest.raises(
            UsageError, match="a run of python -m bench single, which is shown alone: python -m reports"
        ):
            read(accuracy_run)
    with pytest.raises(UsageError, match="its command is python -m bench single"):
        load_run(accuracy_run)
