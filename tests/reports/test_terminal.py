import errno
import io
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench.folder import Notice
from bench.speed.rows import BreakEven, Row
from reports import terminal

NOTICE = Notice(kind="busy", happened="a core is [busy]", matters="times grow", remedy="stop it")


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch) -> FakeTerminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    return FakeTerminal()


class Clock:
    """Stands still unless it is moved; `step` passes at every reading."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 100.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def _live(screen: FakeTerminal, clock: Clock) -> terminal.LiveView:
    console = Console(file=screen, force_terminal=True, width=100, height=40, markup=False, highlight=False)
    return terminal.LiveView(screen, console=console, clock=clock)


def _progress(
    rows: Callable[[], Sequence[Row]], *, done: int = 10, total: int = 100, doing: str = "round 3 of 100"
) -> terminal.Progress:
    return terminal.Progress(done=done, total=total, doing=doing, rows=rows, seconds_left=lambda: 100.0)


def _update(view: terminal.View, run, rows, done: int = 10, total: int = 100) -> None:
    view.update(run, _progress(lambda: rows, done=done, total=total))


def _needless() -> list[Row]:
    raise AssertionError("the rows are worked out and not shown")


def _redraws(screen: FakeTerminal) -> int:
    return screen.getvalue().count("round 3 of 100")


def test_live_view_redraws_at_most_four_times_a_second(make_run, make_rows, screen) -> None:
    clock = Clock()
    view = _live(screen, clock)
    view.start(make_run())
    rows = make_rows()
    for _ in range(1001):  # one second, an update a millisecond
        _update(view, make_run(), rows)
        clock.now += 0.001
    assert 4 <= _redraws(screen) <= 5
    view.stop()


def test_live_view_waits_longer_after_a_slow_redraw(make_run, make_rows, screen) -> None:
    clock = Clock(step=0.1)
    view = _live(screen, clock)
    view.start(make_run())
    _update(view, make_run(), make_rows())
    began, clock.step = clock.now, 0.0
    while _redraws(screen) < 2:
        clock.now += 0.1
        _update(view, make_run(), make_rows())
    assert clock.now - began >= 0.1 / terminal.MAX_DRAWING_SHARE - 1e-6
    view.stop()


def test_live_view_shows_at_once_that_something_else_is_being_done(make_run, make_rows, screen) -> None:
    view = _live(screen, Clock())
    view.start(make_run())
    for doing in ("warming up", "timing", "timing", "timing"):
        view.update(make_run(), _progress(make_rows, doing=doing))
    assert (screen.getvalue().count("warming up"), screen.getvalue().count("timing")) == (1, 1)
    view.stop()


def test_live_view_does_not_work_out_what_it_does_not_show(make_run, make_rows, screen) -> None:
    view = _live(screen, Clock())
    view.start(make_run())
    _update(view, make_run(), make_rows())
    view.update(make_run(), _progress(_needless))
    view.stop()


@pytest.mark.parametrize("quiet", [True, False])
def test_without_a_terminal_no_rows_are_worked_out_before_the_end(make_run, make_point, quiet: bool) -> None:
    view = terminal.choose_view(io.StringIO(), quiet=quiet)
    run = make_run(points=[make_point(1024, status="failed")])
    view.start(run)
    for done in range(101):
        view.update(run, _progress(_needless, done=done))


def test_live_view_draws_only_when_called_and_starts_no_thread(make_run, make_rows, screen) -> None:
    before = set(threading.enumerate())
    view = _live(screen, Clock())
    view.start(make_run())
    _update(view, make_run(), make_rows())
    assert set(threading.enumerate()) == before
    view.stop()


def test_live_view_gives_the_cursor_back_and_may_be_stopped_twice(make_run, screen) -> None:
    view = _live(screen, Clock())
    view.start(make_run())
    view.stop()
    view.stop()
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


def test_live_view_shows_the_series_that_grows_where_not_all_fit(make_run, make_rows, screen) -> None:
    clock = Clock()
    console = Console(file=screen, force_terminal=True, width=100, height=18, markup=False, highlight=False)
    view = terminal.LiveView(screen, console=console, clock=clock)
    run = make_run("alexnet", "vgg16")
    view.start(run)
    done, waiting = make_rows("alexnet"), make_rows("vgg16", rounds_done=0)
    _update(view, run, done + waiting)
    screen.seek(0)
    screen.truncate()
    clock.now += 10
    _update(view, run, done + make_rows("vgg16", rounds_done=1))
    view.stop()
    assert "vgg16" in screen.getvalue()
    assert "alexnet" not in screen.getvalue()


def test_plain_view_has_no_control_codes(make_run, make_rows, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    view = terminal.choose_view(stream)
    assert isinstance(view, terminal.PlainView)
    rows = make_rows(failed=(370_727,))
    view.start(make_run())
    for done in range(101):
        _update(view, make_run(), rows, done)
    view.notice(NOTICE)
    view.stop()
    view.finish(make_run(), rows, [NOTICE], [BreakEven(0, "resnet50", 2.0, 5e6, True)], [Path("/r/run/table3.csv")])
    text = stream.getvalue()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert text.isascii()
    assert text.count("round 3 of 100") == 10


def test_plain_view_says_each_failure_as_it_happens_and_in_the_end(make_run, make_rows, make_point) -> None:
    stream = io.StringIO()
    view = terminal.PlainView(stream)
    rows = make_rows(failed=(370_727,))
    run = make_run(points=[make_point(370_727, status="out-of-memory", reason="needs 3.04 GB, 2.10 GB are free")])
    view.start(run)
    for _ in range(3):
        _update(view, run, rows, done=1)
    line = "resnet50, 370,727 classes: out-of-memory: needs 3.04 GB, 2.10 GB are free"
    assert stream.getvalue().count(line) == 1
    view.finish(run, rows, [], [], [])
    assert stream.getvalue().count(line) == 2


def test_the_end_says_each_failure_once_and_then_what_to_do(make_run, make_rows) -> None:
    stream = io.StringIO()
    notice = Notice(
        kind=terminal.FAILED_POINTS,
        happened="resnet50: no numbers for 370,727 classes: needs 3.04 GB",
        matters="the table ends",
        remedy="a smaller batch",
    )
    rows = make_rows(failed=(262_144, 370_727))
    terminal.QuietView(stream).finish(make_run(), rows, [notice], [], [])
    text = stream.getvalue()
    assert text.count("needs 3.04 GB") == 2
    assert text.count("370,727 classes") - text.count("up to 370,727 classes") == 1
    assert text.count("why it matters: the table ends") == text.count("what to do: a smaller batch") == 1


def test_the_end_says_nothing_of_what_was_not_measured(make_run, make_rows) -> None:
    stream = io.StringIO()
    single, other = make_rows(classes=(1, 1024), failed=(1, 1024))
    control = single.model_copy(update={"kind": "control"})
    terminal.QuietView(stream).finish(make_run(), [single, control, other], [], [], [])
    assert stream.getvalue().count("needs 3.04 GB") == 2
    assert "control," not in stream.getvalue()
    assert "not measured" not in stream.getvalue()


@pytest.mark.parametrize("quiet", [True, False])
def test_the_end_has_table_control_break_even_warnings_and_files(make_run, make_rows, quiet: bool) -> None:
    stream = io.StringIO()
    view = terminal.choose_view(stream, quiet=quiet)
    view.start(make_run())
    paths = [Path("/r/run/table3.csv"), Path("/r/run/fig1.png")]
    found = [BreakEven(0, "resnet50", 2.0, 5e6, True)]
    view.finish(make_run(status="interrupted"), make_rows(), [NOTICE], found, paths)
    text = stream.getvalue()
    for part in (
        "torch 2.15.0",
        "|     370,727 |",
        "must be 1",
        "2x as fast from about 5 million classes (extrapolated)",
        "a core is [busy]",
        "why it matters: times grow",
        "what to do: stop it",
        "interrupted: this is the table so far",
        "written to /r/run: table3.csv, fig1.png",
    ):
        assert text.count(part) == 1, part


def test_quiet_view_shows_no_progress_but_warnings(make_run, make_rows) -> None:
    stream = io.StringIO()
    view = terminal.choose_view(stream, quiet=True)
    run = make_run()
    run = type(run)(run.manifest.model_copy(update={"notices": (NOTICE,)}), ())
    view.start(run)
    for done in range(100):
        _update(view, run, make_rows(failed=(370_727,)), done)
    assert stream.getvalue().splitlines()[0] == "warning: a core is [busy]"
    assert len(stream.getvalue().splitlines()) == 3


def test_a_view_leaves_standard_output_alone_if_it_was_given_another_stream(make_run, make_rows, capsys) -> None:
    view = terminal.choose_view(sys.stderr)
    view.start(make_run())
    _update(view, make_run(), make_rows())
    view.finish(make_run(), make_rows(), [NOTICE], [], [])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "370,727" in captured.err


def test_a_terminal_gets_the_live_view_unless_it_is_dumb(screen, monkeypatch) -> None:
    assert isinstance(terminal.choose_view(screen), terminal.LiveView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(terminal.choose_view(screen), terminal.PlainView)


@given(st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=8), st.integers(0, 80), st.data())
def test_visible_holds_the_active_series_and_fits(lines: list[int], height: int, data) -> None:
    active = data.draw(st.integers(0, len(lines) - 1))
    shown = terminal.visible(lines, active, height)
    assert active in shown
    assert len(shown) == 1 or sum(lines[index] + 4 for index in shown) <= height


def test_listing_is_one_name_a_line_where_a_program_reads_it() -> None:
    stream = io.StringIO()
    terminal.print_listing({"paper": ["alexnet", "vgg16"], "timm": []}, stream)
    assert stream.getvalue().splitlines() == ["paper (2):", "  alexnet", "  vgg16"]


@given(st.lists(st.text("abc", min_size=1, max_size=9), max_size=30), st.integers(0, 60))
def test_columns_hold_every_name_within_the_width(names: list[str], width: int) -> None:
    lines = terminal.columns_of(names, width)
    assert sorted(" ".join(lines).split()) == sorted(names)
    assert all(len(line) <= max(width, *map(len, names)) for line in lines if names)


class Unread(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_a_reader_who_left_does_not_end_the_process(make_run) -> None:
    with pytest.raises(BrokenPipeError):
        terminal.PlainView(Unread()).start(make_run())


def test_nothing_is_read_as_markup(make_run, make_rows) -> None:
    stream = io.StringIO()
    rows = [row.model_copy(update={"reason": "[red]shape [1, 2][/]"}) for row in make_rows(failed=(370_727,))]
    terminal.PlainView(stream).finish(make_run(), rows, [], [], [])
    assert "[red]shape [1, 2][/]" in stream.getvalue()
