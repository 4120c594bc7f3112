import io
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.accuracy.rows import table1
from bench.folder import Notice
from reports.accuracy import terminal
from reports.accuracy.terminal import Progress, Running

NOTICE = Notice(kind="busy", happened="a core is [busy]", matters="it takes longer", remedy="stop it")
RUNNING = Running("batch-ce-lr0.1-seed0", 1000, 4000, 301.5, 0.1234, 0.9712)


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch) -> FakeTerminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    return FakeTerminal()


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _progress(done: int = 3, running: tuple[Running, ...] = (RUNNING,), **fields) -> Progress:
    values = {"examples_per_s": 38_592.0, "seconds_left": 100.0, **fields}
    return Progress(trainings_done=done, trainings_total=14, running=running, **values)


def _live(screen: FakeTerminal, clock: Clock, height: int = 40) -> terminal.LiveView:
    console = Console(file=screen, force_terminal=True, width=110, height=height, markup=False, highlight=False)
    return terminal.LiveView(screen, console=console, clock=clock)


def test_live_view_redraws_at_most_four_times_a_second(make_accuracy_run, screen) -> None:
    clock = Clock()
    view = _live(screen, clock)
    view.start(make_accuracy_run(("ce",), missing=["ce"]))
    for _ in range(1001):  # one second, an update a millisecond
        view.update(_progress())
        clock.now += 0.001
    assert 4 <= screen.getvalue().count(RUNNING.name) <= 5
    view.stop()


def test_live_view_starts_no_thread_and_gives_the_cursor_back(make_accuracy_run, screen) -> None:
    before = set(threading.enumerate())
    view = _live(screen, Clock())
    view.start(make_accuracy_run(("ce",)))
    view.update(_progress())
    assert set(threading.enumerate()) == before
    view.stop()
    view.stop()
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


def test_live_view_tells_a_training_that_ended_at_once_and_once(make_accuracy_run, screen) -> None:
    view = _live(screen, Clock())
    view.start(make_accuracy_run(("ce",), missing=["ce"]))
    ended = make_accuracy_run(("ce",), diverged={("ce", 0.1): 3}).trainings
    for _ in range(3):
        view.update(_progress(ended=ended))
    view.stop()
    assert screen.getvalue().count("ce-lr0.1-seed0: diverged: the loss was not finite at step 3") == 1
    assert screen.getvalue().count("ce-lr0.01-seed0: 4,000 steps") == 1


def test_live_view_fits_its_terminal(make_accuracy_run, screen) -> None:
    view = _live(screen, Clock(), height=12)
    view.start(make_accuracy_run(("ce",), missing=["ce"]))
    view.update(_progress(running=tuple(replace(RUNNING, name=f"training-{index}") for index in range(30))))
    view.stop()
    assert "training-4" in screen.getvalue()
    assert "training-5" not in screen.getvalue()
    assert "and 25 more" in screen.getvalue()


def test_plain_view_says_how_far_it_is_every_ten_seconds_at_most(make_accuracy_run) -> None:
    clock, stream = Clock(), io.StringIO()
    view = terminal.PlainView(stream, clock=clock)
    view.start(make_accuracy_run(("ce",), missing=["ce"]))
    for _ in range(1000):  # a minute and forty seconds
        view.update(_progress())
        clock.now += 0.1
    assert 9 <= stream.getvalue().count("38,592 examples/s, 2 min left") <= 10
    assert "batch-ce-lr0.1-seed0 at step 1,000 of 4,000, loss 0.1234, validation 97.12 %" in stream.getvalue()


def test_plain_view_says_every_training_that_ends_once(make_accuracy_run) -> None:
    stream = io.StringIO()
    view = terminal.PlainView(stream, clock=Clock())
    view.start(make_accuracy_run(("ce", "nce"), missing=["ce", "nce"]))
    ended = make_accuracy_run(("ce", "nce"), diverged={("nce", 0.01): 7}).trainings
    for count in (1, 1, 3, 4, 4):
        view.update(_progress(done=count, ended=ended[:count]))
    told = [line.split(":")[0] for line in stream.getvalue().splitlines() if "-seed0: " in line]
    assert told == [training.member.name for training in ended]
    assert "nce-lr0.01-seed0: diverged: the loss was not finite at step 7" in stream.getvalue()


def test_a_run_that_goes_on_does_not_tell_again_what_had_ended(make_accuracy_run) -> None:
    stream = io.StringIO()
    run = make_accuracy_run(("ce",))
    view = terminal.PlainView(stream, clock=Clock())
    view.start(run)
    view.update(_progress(done=2, ended=run.trainings))
    assert "2 of 2 trainings ended before" in stream.getvalue()
    assert "ce-lr0.1-seed0" not in stream.getvalue()


def test_plain_view_counts_trainings_it_is_not_told_of(make_accuracy_run) -> None:
    stream = io.StringIO()
    view = terminal.PlainView(stream, clock=Clock())
    view.start(make_accuracy_run(("ce",), missing=["ce"]))
    for done in (0, 1, 1, 2):
        view.update(_progress(done=done))
    assert [line for line in stream.getvalue().splitlines() if "ended" in line] == [
        "1 of 14 trainings ended",
        "2 of 14 trainings ended",
    ]


def test_plain_output_is_plain_lines(make_accuracy_run, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock, stream = Clock(), io.StringIO()
    view = terminal.choose_view(stream)
    assert isinstance(view, terminal.PlainView)
    run = make_accuracy_run(seeds=(0, 1), diverged={("max-margin", 0.1): 3, ("max-margin", 0.01): 5})
    view.start(make_accuracy_run(("ce",), missing=["ce"]))
    clock.now += 60
    view.update(_progress(ended=run.trainings[:2]))
    view.notice(NOTICE)
    view.stop()
    view.finish(run, table1(run), [NOTICE], [Path("/r/run/table1.csv")])
    text = stream.getvalue()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert text.isascii()


def _finished(run, notices=(), paths=()) -> str:
    stream = io.StringIO()
    terminal.QuietView(stream).finish(run, table1(run), notices, paths)
    return stream.getvalue()


def test_the_end_shows_table_1_verdicts_warnings_and_paths(make_accuracy_run) -> None:
    run = make_accuracy_run(notices=(NOTICE,))
    text = _finished(run, [NOTICE], [Path("/r/run/table1.csv"), Path("/r/run/fig2.png")])
    lines = text.splitlines()
    ce = next(line for line in lines if line.startswith("| CE "))
    assert [cell.strip() for cell in ce.strip("|").split("|")][:6] == [
        *("CE", "0.1", "0.0107", "0.0118", "0.1284", "0.0016")
    ]
    assert "worse (" in ce
    assert "| improvement " in text
    assert text.count("a core is [busy]") == 1
    assert "batch CE, one logit against all logits of the same model: " in text
    assert lines[-1] == "written to /r/run: table1.csv, fig2.png"


def test_a_line_parts_unaligned_from_aligned(make_accuracy_run) -> None:
    lines = _finished(make_accuracy_run()).splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("| self-norm"))
    assert lines[first - 1].startswith("+-")
    assert lines[first - 2].startswith("| max-margin")


def test_the_end_of_an_incomplete_run_says_what_is_missing(make_accuracy_run) -> None:
    run = make_accuracy_run(status="interrupted", missing=["nce"], diverged={("ce", 0.01): 37})
    text = _finished(run)
    assert "the run is interrupted: 12 of 14 trainings ended: this is the table so far" in text
    assert "ce-lr0.01-seed0: diverged: the loss was not finite at step 37" in text
    assert any(line.startswith("| NCE") and "missing" in line for line in text.splitlines())


def test_quiet_view_says_nothing_but_warnings_before_the_end(make_accuracy_run) -> None:
    stream = io.StringIO()
    view = terminal.choose_view(stream, quiet=True)
    view.start(make_accuracy_run(("ce",)))
    view.update(_progress())
    assert stream.getvalue() == ""
    view.notice(NOTICE)
    view.notice(NOTICE)
    assert stream.getvalue().count("warning: a core is [busy]") == 1


def test_a_terminal_gets_a_live_view(screen) -> None:
    assert isinstance(terminal.choose_view(screen), terminal.LiveView)


@given(st.integers(0, 20), st.lists(st.integers(0, 4000), max_size=8))
def test_the_share_that_is_done_is_a_share(done: int, steps: list[int]) -> None:
    running = tuple(replace(RUNNING, step=step) for step in steps)
    assert 0 <= terminal.done_share(_progress(done, running)) <= 1


def test_beside_the_paper_only_what_it_has(make_accuracy_run) -> None:
    stream = io.StringIO()
    terminal.print_beside(table1(make_accuracy_run(("ce", "sigmoid-tanimoto", "batch-ce"))), stream)
    assert [line.split("|")[2].strip() for line in stream.getvalue().splitlines() if "MNIST" in line] == [
        "CE",
        "batch CE",
    ]
    stream = io.StringIO()
    terminal.print_beside(table1(make_accuracy_run(("ce",), dataset="digits")), stream)
    assert stream.getvalue() == ""


def test_a_stack_of_trainings_is_a_line_each(make_accuracy_run) -> None:
    from bench.accuracy import grid
    from bench.accuracy.events import Stepped

    run = make_accuracy_run(("ce", "nce"))
    unit = Stepped(
        members=run.manifest.members[:2],
        step=50,
        steps=4000,
        training_losses=(0.5, None),
        validation_accuracies=(0.9, 0.1),
        steps_per_s=200.0,
    )
    told = terminal.progress_of(run, grid.Progress(4, 14, (unit,), 51_200.0, None))
    assert told.running == (
        Running("ce-lr0.1-seed0", 50, 4000, 200.0, 0.5, 0.9),
        Running("ce-lr0.01-seed0", 50, 4000, 200.0, None, 0.1),
    )
    assert (told.trainings_done, told.trainings_total, told.ended) == (4, 14, run.trainings)
