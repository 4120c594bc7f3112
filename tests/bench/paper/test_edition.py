"""The run of the whole paper: what is done when, with parts that are tiny or pretended."""

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.accuracy.run import AccuracyRun
from bench.errors import UsageError
from bench.folder import RunNotWritten, RunStatus
from bench.paper import edition
from bench.paper.budget import Demand
from bench.paper.edition import Edition, candidates, manifest_of, reopen, rests, runs_of, settled, slower, start
from bench.paper.parts import AccuracyPart, Options, Size, SpeedPart
from bench.paper.record import PaperManifest, PartRecord, load
from bench.run import Run

Part = SpeedPart | AccuracyPart

CPU = Options(device="cpu", threads=1)
SHORT, LONG = SpeedPart(arch="short"), SpeedPart(arch="long")
GRID = AccuracyPart(dataset="mnist")


class Silent:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.shares: list[float] = []

    def expects(self, record: PartRecord) -> None:
        self.told.append(("expects", record.part.key))

    def begins(self, record: PartRecord) -> None:
        self.told.append(("begins", record.part.key))

    def advances(self, record: PartRecord, share: float) -> None:
        self.shares.append(share)

    def ends(self, record: PartRecord, run: Run | AccuracyRun | None) -> None:
        self.told.append((record.state, record.part.key))


def _demands(**unit_s: float) -> Callable[[Part, Options], Demand]:
    return lambda part, options: Demand(fixed_s=0, unit_s=unit_s[part.key.partition("-")[2]])


def _pretended(
    parts: Sequence[Part], budget_s: float | None, expect: Callable[[Part, Options], Demand], clock: Any = None
) -> Edition:
    manifest = manifest_of(parts, CPU, budget_s)
    return Edition(manifest, None, Silent(), expect, *([clock] if clock else []))


def _standing(clock: float = 0.0) -> Callable[[], float]:
    return lambda: clock


def test_without_a_limit_every_part_has_the_papers_size() -> None:
    look = _pretended([SHORT, GRID], None, _demands(short=1, mnist=1))
    look.look_ahead()
    assert [record.size for record in look.manifest.parts] == [
        Size(amount=100),
        Size(amount=100_000, learning_rates=(1.0, 0.1, 0.01, 0.001)),
    ]


def test_the_short_part_comes_first_and_what_does_not_fit_is_named() -> None:
    look = _pretended([LONG, SHORT, GRID], 2_000, _demands(long=50, short=1, mnist=1), _standing())
    look.look_ahead()
    first = look.next_part()
    assert first is not None
    assert first.part.key == "speed-short"
    left_out = look.record("accuracy-mnist")
    assert (left_out.state, left_out.size) == ("left-out", None)
    assert left_out.reason == "1,000 steps at 2 learning rates would take 33 min, more than is left for it"
    # 2,000 s less 100 for the short one: the grid cannot use its half, so the long part gets 38 minibatches
    assert look.record("speed-long").size == Size(amount=38)


def test_finding_out_is_paid_from_the_budget(clock: Callable[[], float]) -> None:
    look = _pretended([SHORT, GRID], 2_000, _demands(short=1, mnist=0.001), clock)
    look.look_ahead()
    assert look.manifest.preparing_s == 2
    left = rests(look.manifest)
    assert left is not None
    assert (left.speed_s, left.accuracy_s) == (999, 999)


def test_a_part_that_cannot_be_done_is_named_with_the_reason_and_the_others_go_on() -> None:
    def expect(part: Part, options: Options) -> Demand:
        if part is GRID:
            raise UsageError(f"mnist is not here; put it into {Path.home() / 'data'}")
        if part is LONG:
            raise RuntimeError("no kernel\nmore of it")
        return Demand(fixed_s=0, unit_s=1)

    look = _pretended([GRID, LONG, SHORT], None, expect)
    look.look_ahead()
    states = {record.part.key: (record.state, record.reason) for record in look.manifest.parts}
    assert states == {
        "accuracy-mnist": ("unavailable", "mnist is not here; put it into ~/data"),
        "speed-long": ("failed", "RuntimeError: no kernel"),
        "speed-short": ("waiting", ""),
    }
    found = look.next_part()
    assert found is not None
    assert found.part is SHORT


def _ended(record: PartRecord, seconds: float) -> PartRecord:
    return record.model_copy(update={"state": "done", "seconds": seconds})


def test_what_the_parts_took_corrects_what_is_expected_of_the_rest() -> None:
    look = _pretended([SHORT, LONG, GRID], 4_000, _demands(short=1, long=10, mnist=0.1), _standing())
    look.look_ahead()
    assert look.record("speed-long").size == Size(amount=100)  # 1,000 s of the 1,900 left for speed
    # the short part took four times as long as expected: 400 s
    parts = (_ended(look.manifest.parts[0], 400), *look.manifest.parts[1:])
    manifest = look.manifest.model_copy(update={"parts": parts})
    assert slower(parts, "speed") == 4
    assert slower(parts, "accuracy") == 1
    assert [each.demand.unit_s for each in candidates(parts)] == [40, 0.1]
    assert settled(manifest)[1].size == Size(amount=40)  # 1,600 s are left of the half: 40 s each


def test_time_that_is_left_over_brings_back_what_was_left_out() -> None:
    look = _pretended([SHORT, LONG], 1_200, _demands(short=5, long=120), _standing())
    look.look_ahead()
    assert (look.record("speed-short").state, look.record("speed-long").state) == ("waiting", "left-out")
    done = _ended(look.record("speed-short"), 100)  # a fifth of what was expected
    manifest = look.manifest.model_copy(update={"parts": (done, look.record("speed-long"))})
    record = settled(manifest)[1]
    assert (record.state, record.reason, record.size) == ("waiting", "", Size(amount=45))  # 1,100 s of 24 s each


# -- with tiny parts that are really done -----------------------------------------------------------------------


def _quick(part: Part, options: Options) -> Demand:
    return Demand(fixed_s=0, unit_s=0.001)


@pytest.mark.usefixtures("in_factories")
def test_a_speed_and_an_accuracy_part_to_their_end(
    tmp_path: Path, tiny_speed: SpeedPart, tiny_accuracy: AccuracyPart
) -> None:
    watch = Silent()
    begun = start(manifest_of([tiny_speed, tiny_accuracy], CPU, None), tmp_path, watch, _quick)
    assert edition.execute(begun) == "complete"
    manifest = load(begun.path)
    assert manifest == begun.manifest
    assert (manifest.status, [record.state for record in manifest.parts]) == ("complete", ["done", "done"])
    assert all(record.seconds > 0 for record in manifest.parts)
    runs = runs_of(manifest, begun.path)
    sweep, grid = runs["speed-tiny_networks:small"], runs["accuracy-digits"]
    assert isinstance(sweep, Run)
    assert isinstance(grid, AccuracyRun)
    assert (sweep.manifest.status, grid.manifest.status) == ("complete", "complete")
    assert sweep.manifest.protocol.minibatches == 12
    assert (grid.manifest.recipe.steps, grid.manifest.learning_rates) == (30, (0.1, 0.01))
    assert len(grid.trainings) == 4
    assert len(grid.evaluations) == 2
    assert max(watch.shares) == 1.0
    assert watch.told[:2] == [("expects", tiny_speed.key), ("expects", tiny_accuracy.key)]


@pytest.mark.usefixtures("in_factories")
def test_a_part_that_fails_leaves_the_others_alone(tmp_path: Path, tiny_speed: SpeedPart) -> None:
    nothing = AccuracyPart(dataset="folder:/nowhere/at/all")
    unknown = tiny_speed.model_copy(update={"arch": "tiny_networks:raising"})
    begun = start(manifest_of([nothing, unknown, tiny_speed], CPU, None), tmp_path, Silent(), _quick)
    assert edition.execute(begun) == "incomplete"
    states = {record.part.key: (record.state, record.folder is not None) for record in load(begun.path).parts}
    assert states == {nothing.key: ("failed", False), unknown.key: ("failed", False), tiny_speed.key: ("done", True)}
    assert "/nowhere/at/all" in begun.record(nothing.key).reason


@pytest.mark.usefixtures("in_factories")
def test_a_part_with_a_point_that_failed_is_incomplete_and_says_which(tmp_path: Path) -> None:
    hungry = SpeedPart(arch="tiny_networks:hungry", classes=(1, 64), batch_size=2, full=20)
    begun = start(manifest_of([hungry], CPU, None), tmp_path, Silent(), _quick)
    assert edition.execute(begun) == "incomplete"
    (record,) = load(begun.path).parts
    assert record.state == "incomplete"
    assert record.reason.startswith("no numbers for 64 classes: ")


@pytest.mark.usefixtures("in_factories")
def test_an_interrupt_ends_it_and_resuming_does_the_rest(
    tmp_path: Path, tiny_speed: SpeedPart, tiny_accuracy: AccuracyPart
) -> None:
    class Stopping(Silent):
        def advances(self, record: PartRecord, share: float) -> None:
            super().advances(record, share)
            if share >= 0.5:
                raise KeyboardInterrupt

    begun = start(manifest_of([tiny_speed, tiny_accuracy], CPU, None), tmp_path, Stopping(), _quick)
    assert edition.execute(begun) == "interrupted"
    manifest = load(begun.path)
    assert manifest.status == "interrupted"
    cut_off, untouched = sorted(manifest.parts, key=lambda record: record.folder is None)
    assert (cut_off.state, untouched.state) == ("begun", "waiting")
    spent = cut_off.seconds

    watch = Silent()
    again = reopen(begun.path, None, watch, _refuse_to_expect)
    assert edition.execute(again) == "complete"
    assert watch.told[0] == ("begins", cut_off.part.key)
    assert [record.state for record in load(begun.path).parts] == ["done", "done"]
    assert again.record(cut_off.part.key).folder == cut_off.folder
    assert again.record(cut_off.part.key).seconds > spent


def _refuse_to_expect(part: Part, options: Options) -> Demand:
    raise AssertionError(f"what {part.key} takes was known already")


@pytest.mark.usefixtures("in_factories")
def test_a_new_budget_does_what_was_left_out(tmp_path: Path, tiny_speed: SpeedPart) -> None:
    begun = start(manifest_of([tiny_speed], CPU, 60.0), tmp_path, Silent(), lambda *_: Demand(fixed_s=0, unit_s=10))
    assert edition.execute(begun) == "incomplete"
    assert load(begun.path).parts[0].state == "left-out"
    with pytest.raises(UsageError, match="--budget 'soon'"):
        reopen(begun.path, "soon", Silent(), _refuse_to_expect)
    again = reopen(begun.path, "none", Silent(), _refuse_to_expect)
    assert edition.execute(again) == "complete"
    assert load(begun.path).budget_s is None


@pytest.mark.usefixtures("in_factories")
def test_what_seemed_too_dear_is_looked_at_once_more_after_something_was_done(
    tmp_path: Path, tiny_speed: SpeedPart
) -> None:
    spoilt = tiny_speed.model_copy(update={"arch": "tiny_networks:convolutional"})
    dear = AccuracyPart(dataset="digits")
    looks: list[str] = []

    def expect(part: Part, options: Options) -> Demand:
        looks.append(part.key)
        busy = part.key == spoilt.key and looks.count(part.key) == 1
        return Demand(fixed_s=0, unit_s=1e6 if busy or part.key == dear.key else 0.001)

    begun = start(manifest_of([tiny_speed, spoilt, dear], CPU, 3600.0), tmp_path, Silent(), expect)
    assert edition.execute(begun) == "incomplete"
    states = {record.part.key: record.state for record in begun.manifest.parts}
    assert states == {tiny_speed.key: "done", spoilt.key: "done", dear.key: "left-out"}
    assert [looks.count(key) for key in (tiny_speed.key, spoilt.key, dear.key)] == [1, 2, 3]


@pytest.mark.usefixtures("in_factories")
def test_what_is_done_is_not_done_again(tmp_path: Path, tiny_speed: SpeedPart) -> None:
    begun = start(manifest_of([tiny_speed], CPU, None), tmp_path, Silent(), _quick)
    edition.execute(begun)
    samples = next(begun.path.glob("*/samples.jsonl"))
    before = samples.read_bytes()
    watch = Silent()
    assert edition.execute(reopen(begun.path, None, watch, _refuse_to_expect)) == "complete"
    assert watch.told == []
    assert samples.read_bytes() == before


def _alter(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((path / "run.json").read_text())
    change(content)
    (path / "run.json").write_text(json.dumps(content))


@pytest.mark.usefixtures("in_factories")
def test_what_cannot_be_continued_is_refused_and_left_as_it_is(tmp_path: Path, tiny_speed: SpeedPart) -> None:
    begun = start(manifest_of([tiny_speed], CPU, None), tmp_path, Silent(), _quick)
    edition.execute(begun)
    (part,) = (path for path in begun.path.iterdir() if path.is_dir())
    with pytest.raises(UsageError, match="of kind 'speed', where one of kind 'paper'"):
        reopen(part, None, Silent(), _quick)
    with pytest.raises(UsageError, match="is not a run"):
        reopen(tmp_path / "nowhere", None, Silent(), _quick)
    changes: Mapping[str, Callable[[dict[str, Any]], None]] = {
        "no folder of this run": lambda run: run["parts"][0].update(folder="../elsewhere"),
        "is gone": lambda run: run["parts"][0].update(folder="elsewhere"),
        "schema version 2": lambda run: run.update(schema_version=2),
        "cannot be continued here": lambda run: run["machine"].update(cpu="Another CPU"),
        "parts.0.part.speed.full": lambda run: run["parts"][0]["part"].update(full=0),
    }
    whole = (begun.path / "run.json").read_text()
    for words, change in changes.items():
        (begun.path / "run.json").write_text(whole)
        _alter(begun.path, change)
        altered = (begun.path / "run.json").read_text()
        with pytest.raises(UsageError, match=words):
            reopen(begun.path, None, Silent(), _quick)
        assert (begun.path / "run.json").read_text() == altered


def test_two_processes_never_continue_the_same_run(tmp_path: Path) -> None:
    begun = start(manifest_of([SHORT], CPU, 1.0), tmp_path, Silent(), _quick)
    with pytest.raises(UsageError, match="another process is writing"):
        reopen(begun.path, None, Silent(), _quick)
    begun.end("incomplete")
    reopen(begun.path, None, Silent(), _quick).end("incomplete")


def test_a_disk_that_refuses_ends_it_with_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = start(manifest_of([SHORT], CPU, None), tmp_path, Silent(), _quick)

    def refuse(self: Any, manifest: PaperManifest) -> None:
        raise RunNotWritten("cannot write run.json: No space left on device")

    monkeypatch.setattr("bench.paper.record.PaperWriter.replace", refuse)
    assert edition.execute(begun) == "incomplete"
    assert [notice.kind for notice in begun.manifest.notices] == ["not-written"]
    assert load(begun.path).status == "running"


#: Does the parts of a paper whose second network kills the process, or goes on with the run in argv[1].
SCRIPT = """
import sys
from pathlib import Path
from bench.cli import reproducing
from bench.paper.budget import Demand
from bench.paper.parts import SpeedPart
import bench.speed.prediction as prediction

prediction.STREAMED_WEIGHT_BYTES, prediction.PROBE_REPEATS = 2**22, 3
parts = [
    SpeedPart(arch="tiny_networks:" + name, classes=(1, 16), batch_size=2, full=full)
    for name, full in (("small", 12), ("faulty", 30))
]
expect = lambda part, options: Demand(fixed_s=0, unit_s=part.full)
if sys.argv[1] == "new":
    wanted = reproducing.request("none", device="cpu", threads=1, seed=0, data_dir=None, parts=parts)
    code = reproducing.new(wanted, Path(sys.argv[2]), json=False, quiet=True, expect=expect)
else:
    code = reproducing.resume(Path(sys.argv[2]), None, json=False, quiet=True, expect=expect)
sys.exit(code)
"""


def test_killed_in_the_middle_of_a_part_and_resumed(
    tmp_path: Path, apart: Callable[..., Any], only: Callable[[Path], Path]
) -> None:
    ended = apart("new", tmp_path, script=SCRIPT, fault="SIGKILL self forward 60")
    assert ended.code == -signal.SIGKILL
    path = only(tmp_path)
    states: list[tuple[str, RunStatus]] = [(record.state, "running") for record in load(path).parts]
    assert [state for state, _ in states] == ["done", "begun"]
    kept = len((path / str(load(path).parts[1].folder) / "samples.jsonl").read_bytes().splitlines())
    assert kept > 20
    ended = apart("resume", path, script=SCRIPT)
    assert (ended.code, ended.err) == (0, "")
    manifest = load(path)
    assert (manifest.status, [record.state for record in manifest.parts]) == ("complete", ["done", "done"])
    assert "One logit is 10 times as fast" in ended.out
    assert {"table3.csv", "fig1.png", "claims.md", "claims.csv"} <= {file.name for file in path.iterdir()}
    sweep = runs_of(manifest, path)["speed-tiny_networks:faulty"]
    assert isinstance(sweep, Run)
    assert {sample.round for sample in sweep.samples if sample.phase == "timed"} == set(range(30))
