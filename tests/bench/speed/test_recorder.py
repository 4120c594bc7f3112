from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.folder import Notice, RunNotWritten
from bench.run import Manifest, RunWriter, load_run
from bench.speed.energy import FILE, Window
from bench.speed.events import Doing, Noticed, PassesDone, PointFound, ProcessState, WindowDone
from bench.speed.recorder import Recorder

Make = Callable[..., Any]


@pytest.fixture
def on_disk(tmp_path: Path, make_manifest: Make) -> Recorder:
    manifest = make_manifest()
    return Recorder(manifest, RunWriter.create(tmp_path, manifest))


def test_events_become_the_run_that_is_read_back(
    on_disk: Recorder, make_round: Make, make_point: Make, make_process: Make
) -> None:
    notice = Notice(kind="a", happened="b", matters="c", remedy="d")
    for event in (
        Doing(text="timing"),
        ProcessState(process=make_process()),
        PointFound(point=make_point(1)),
        PointFound(point=make_point(1024)),
        PassesDone(samples=tuple(make_round(0))),
        Noticed(notice=notice),
        Noticed(notice=notice),
        PassesDone(samples=tuple(make_round(1))),
    ):
        on_disk.take(event)
    path = on_disk.run.path
    assert path is not None
    assert on_disk.doing == "timing"
    assert load_run(path).samples == on_disk.run.samples == make_round(0) + make_round(1)
    on_disk.end("complete")
    assert load_run(path).manifest == on_disk.manifest
    assert on_disk.manifest.notices == (notice,)
    assert on_disk.manifest.status == "complete"


def test_later_news_of_a_point_or_a_process_replace_earlier(
    make_manifest: Make, make_point: Make, make_process: Make
) -> None:
    recorder = Recorder(make_manifest())
    other = make_point(1, process=1)
    for point in (make_point(1), other, make_point(16), make_point(1, status="failed", reason="it is")):
        recorder.take(PointFound(point=point))
    assert recorder.manifest.points == (other, make_point(16), make_point(1, status="failed", reason="it is"))
    for process in (make_process(), make_process(1), make_process(stop_reason="minibatches")):
        recorder.take(ProcessState(process=process))
    assert recorder.manifest.processes == (make_process(1), make_process(stop_reason="minibatches"))
    assert recorder.run.path is None


def test_what_the_disk_refuses_is_raised_and_the_rest_goes_on_in_memory(
    on_disk: Recorder, make_round: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk.take(PassesDone(samples=tuple(make_round(0))))

    def refuse(writer: RunWriter, what: object) -> None:
        raise RunNotWritten("no space")

    monkeypatch.setattr(RunWriter, "append", refuse)
    monkeypatch.setattr(RunWriter, "replace", refuse)
    with pytest.raises(RunNotWritten):
        on_disk.take(PassesDone(samples=tuple(make_round(1))))
    assert on_disk.run.samples == make_round(0)  # what is not on disk is not shown either
    on_disk.detach()
    on_disk.end("incomplete")
    assert on_disk.manifest.status == "incomplete"
    assert on_disk.run.path is not None
    on_file: Manifest = load_run(on_disk.run.path).manifest
    assert on_file.status == "running"


def test_the_end_lets_go_of_the_folder_even_if_it_cannot_be_written(
    on_disk: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(writer: RunWriter, what: object) -> None:
        raise RunNotWritten("no space")

    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, "replace", refuse)
        with pytest.raises(RunNotWritten):
            on_disk.end("complete")
    assert on_disk.run.path is not None
    again, _ = RunWriter.reopen(on_disk.run.path)
    again.close()


def test_windows_of_energy_are_written_and_the_first_one_makes_the_file(on_disk: Recorder) -> None:
    path = on_disk.run.path
    assert path is not None
    assert not (path / FILE).exists()
    window = Window(
        setting=0,
        process=0,
        cycle=0,
        kind="idle",
        started="2026-01-02T03:04:05+00:00",
        offset_s=0.0,
        seconds=5.0,
        joules=400.0,
        images=0,
        period_s=0.1,
        resolution_j=0.001,
    )
    for cycle in range(2):
        on_disk.take(WindowDone(window=window.model_copy(update={"cycle": cycle})))
    on_disk.end("complete")
    assert load_run(path).windows == on_disk.run.windows
    assert [found.cycle for found in on_disk.run.windows] == [0, 1]
    with open(path / FILE, "a") as file:
        file.write('{"setting": 0')
    run = load_run(path)
    assert [notice.kind for notice in run.notices] == ["torn-line"]
    writer, again = RunWriter.reopen(path)
    writer.drop_torn_line()
    writer.append_window(window)
    writer.close()
    assert len(load_run(path).windows) == len(again.windows) + 1
    assert load_run(path).notices == ()
