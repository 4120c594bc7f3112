import random
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UsageError
from bench.history.compare import Comparison, compare
from bench.history.confirm import (
    NOT_ASKED,
    Confirmed,
    Facts,
    MeasuringFailed,
    arguments,
    confirm,
    facts_of,
    groups,
    hindrance,
    in_fresh_processes,
    merged,
    not_checked,
    other_software,
)
from bench.history.programs import Program, Side
from bench.history.snapshot import OtherMachine, Snapshot, snapshot, work_of
from bench.run import Manifest, Point, Run, Sample
from bench.speed.settings import Protocol, Setting

MakeManifest = Callable[..., Manifest]
RunOf = Callable[..., Run]

ROUNDS = 40
ROOT = Path(__file__).parents[3]


@pytest.fixture
def run_of(make_manifest: MakeManifest, setting: Setting) -> RunOf:
    """A run of settings that differ in their batch size, each example taking the times given, with 0.5 % of noise."""

    def make(
        times: Mapping[int, float] | None = None,
        *,
        batch_sizes: Sequence[int] = (32,),
        failed: Sequence[int] = (),
        processes: int = 1,
        rounds: int = ROUNDS,
        seed: int = 0,
        **fields: Any,
    ) -> Run:
        times = times or {1: 1e-3, 1024: 2e-3}
        settings = [setting.model_copy(update={"batch_size": size}) for size in batch_sizes]
        draws = random.Random(seed)
        points, samples = [], []
        for process in range(processes):
            for index, each in enumerate(settings):
                for count in times:
                    status = {"status": "out-of-memory", "reason": "needs 3 GB"} if count in failed else {}
                    points.append(Point(setting=index, process=process, classes=count, operations=1, bytes=1, **status))
                whole = {count: time for count, time in times.items() if count not in failed}
                slots = [(1, False), (1, True), *((count, False) for count in whole if count > 1)]
                samples += [
                    Sample(
                        setting=index,
                        process=process,
                        phase="timed",
                        round=number,
                        round_size=len(slots),
                        position=position,
                        classes=count,
                        control=control,
                        wall_s=each.batch_size * whole[count] * draws.uniform(0.995, 1.005),
                    )
                    for number in range(rounds)
                    for position, (count, control) in enumerate(slots)
                ]
        protocol = Protocol(classes=tuple(sorted(times)), minibatches=rounds, processes=processes)
        manifest = make_manifest(
            settings=settings, points=tuple(points), protocol=protocol, status="complete", **fields
        )
        return Run(manifest, samples)

    return make


@pytest.fixture
def slower(run_of: RunOf) -> Comparison:
    """A comparison in which the single logit takes 30 % longer at 1,024 classes."""
    return compare(snapshot(run_of(processes=5)), snapshot(run_of({1: 1.3e-3, 1024: 2e-3}, processes=5, seed=1)))


class Replay:
    """Stands in for fresh processes: gives out runs that were made before, and keeps what it was asked."""

    def __init__(self, **runs: Sequence[Run | MeasuringFailed]) -> None:
        self._runs = {side: iter(each) for side, each in runs.items()}
        self.asked: list[tuple[Side, tuple[str, ...]]] = []

    def __call__(self, side: Side, given: tuple[str, ...]) -> Run:
        self.asked.append((side, given))
        found = next(self._runs[side])
        if isinstance(found, MeasuringFailed):
            raise found
        return found


def again(first: Comparison, replay: Replay, **options: Any) -> Confirmed:
    return confirm(first, replay, **{"turns": 3, "base_again": True, "input_size": lambda work: None, **options})


# -- what is asked of a fresh process -----------------------------------------------------------------------------


def test_the_case_is_what_it_says(slower: Comparison) -> None:
    assert slower.outcome == "worse"
    assert [point.work.classes for point in slower.worse] == [1024]


def test_points_of_one_setting_are_measured_together(run_of: RunOf) -> None:
    times = {1: 1e-3, 1024: 2e-3, 4096: 4e-3}
    base = snapshot(run_of(times, batch_sizes=(8, 32)))
    found = groups(compare(base, base).points)
    assert [[point.work.classes for point in group] for group in found] == [[1024, 4096], [1024, 4096]]
    assert [group[0].work.batch_size for group in found] == [8, 32]


def test_a_process_is_given_what_the_point_was_measured_with(run_of: RunOf) -> None:
    same = snapshot(run_of({1: 1e-3, 1024: 2e-3, 4096: 4e-3}, processes=2))
    (group,) = groups(compare(same, same).points)
    given = arguments(group, seed=2, input_size=160)
    expected = "--arch resnet50 --classes 1,1024,4096 --minibatches 40 --processes 1 --seed 2 --device cpu"
    expected += " --dtype float32 --batch-size 32 --compile none --order interleaved --block 1 --threads 2"
    assert " ".join(given) == f"{expected} --input-size 160"


def test_a_process_is_given_the_switches_too(make_manifest: MakeManifest, run_of: RunOf, setting: Setting) -> None:
    plain = snapshot(run_of())
    odd = setting.model_copy(
        update={"device": "cuda:1", "tf32": True, "cudnn_benchmark": False, "channels_last": True, "cuda_graph": True}
    )
    point = plain.points[0].model_copy(update={"work": work_of(odd, 1024)})
    same = plain.model_copy(update={"points": (point,)})
    (group,) = groups(compare(same, same).points)
    given = arguments(group, seed=0)
    assert given[-3:] == ("--tf32", "--no-cudnn-benchmark", "--channels-last")
    assert given[given.index("--cuda-graph") + 1] == "on"
    assert given[given.index("--device") + 1] == "cuda"
    assert "--input-size" not in given


def test_a_process_is_given_what_counts_as_the_work_where_it_is_not_the_usual(run_of: RunOf, setting: Setting) -> None:
    """The usual is left out: the other side may be a version that does not know these options."""
    plain = snapshot(run_of())
    odd = setting.model_copy(update={"work": "end-to-end", "subset": 4, "top_layer": "adaptive"})
    point = plain.points[0].model_copy(update={"work": work_of(odd, 1024)})
    same = plain.model_copy(update={"points": (point,)})
    (group,) = groups(compare(same, same).points)
    given = arguments(group, seed=0)
    pairs = dict(zip(given[::2], given[1::2], strict=True))
    assert (pairs["--work"], pairs["--subset"], pairs["--top-layer"]) == ("end-to-end", "4", "adaptive")
    assert pairs["--classes"] == "4,1024"
    (usual,) = groups(compare(plain, plain).points)
    assert not {"--work", "--subset", "--top-layer", "--cuda-graph"} & set(arguments(usual, seed=0))


def test_runs_become_processes_of_one(run_of: RunOf) -> None:
    runs = [run_of({1: single, 1024: 2e-3}, seed=seed) for seed, single in enumerate((1.0e-3, 1.1e-3, 1.2e-3))]
    (point,) = snapshot(merged(runs)).points
    assert [round(each.single_s, 4) for each in point.replicates] == [1.0e-3, 1.1e-3, 1.2e-3]
    assert point.rounds == 3 * ROUNDS
    assert point.single is not None
    assert point.single.degrees == pytest.approx(2), "the interval is over three processes, not over rounds"
    with pytest.raises(ValueError, match="no runs"):
        merged([])


# -- what becomes of a suspected point ----------------------------------------------------------------------------


def test_nothing_is_measured_when_nothing_is_suspected(run_of: RunOf) -> None:
    same = snapshot(run_of(processes=5))
    replay = Replay()
    found = again(compare(same, same), replay)
    assert replay.asked == []
    assert found.outcome == "nothing worse"
    assert found.final == found.first


def test_base_and_new_take_turns(slower: Comparison, run_of: RunOf) -> None:
    replay = Replay(base=[run_of(seed=n) for n in range(3)], new=[run_of(seed=n + 9) for n in range(3)])
    said: list[str] = []
    again(slower, replay, say=said.append)
    assert [side for side, _ in replay.asked] == ["base", "new"] * 3
    seeds = [given[given.index("--seed") + 1] for _, given in replay.asked]
    assert seeds == ["0", "0", "1", "1", "2", "2"], "a turn gives both sides the same inputs"
    assert said[0] == "measuring again: resnet50, 1,024 classes, base, 1 of 3"
    assert len(said) == 6


def test_what_was_noise_is_cleared(slower: Comparison, run_of: RunOf) -> None:
    found = again(slower, Replay(base=[run_of(seed=n) for n in range(3)], new=[run_of(seed=n + 9) for n in range(3)]))
    assert found.outcome == "nothing worse"
    assert [point.work.classes for point in found.cleared] == [1024]
    assert found.first.outcome == "worse", "the first verdict is kept beside the second"


def test_what_is_worse_twice_is_worse(slower: Comparison, run_of: RunOf) -> None:
    new = [run_of({1: 1.3e-3, 1024: 2e-3}, seed=n + 9) for n in range(3)]
    found = again(slower, Replay(base=[run_of(seed=n) for n in range(3)], new=new))
    assert found.outcome == "worse"
    assert found.cleared == ()
    assert found.again is not None
    assert len(found.again.points[0].base.replicates) == 3


def test_what_stays_ambiguous_is_not_cleared(run_of: RunOf) -> None:
    """The batch of 8 is decided, so that the comparison as a whole would be; the batch of 32 was suspected."""
    base = snapshot(run_of(batch_sizes=(8, 32), processes=5))
    calm = snapshot(run_of(batch_sizes=(8,), processes=5, seed=1)).points
    slow = snapshot(run_of({1: 1.3e-3, 1024: 2e-3}, processes=5, seed=2)).points
    first = compare(base, base.model_copy(update={"points": (*calm, *slow)}))
    assert [point.work.batch_size for point in first.worse] == [32]
    erratic = [run_of({1: single, 1024: 2e-3}, seed=9) for single in (0.9e-3, 1.1e-3, 1.3e-3)]
    found = again(first, Replay(base=[run_of(seed=n) for n in range(3)], new=erratic))
    assert found.final.outcome == "nothing worse", "which alone would turn it green"
    assert found.outcome == "undecided"
    assert found.cleared == ()
    assert [point.work.batch_size for point in found.unsettled] == [32]


def test_new_alone_is_held_against_base_as_it_was_kept(slower: Comparison, run_of: RunOf) -> None:
    replay = Replay(new=[run_of(seed=n + 9) for n in range(3)])
    found = again(slower, replay, base_again=False)
    assert [side for side, _ in replay.asked] == ["new"] * 3
    assert found.outcome == "nothing worse"
    assert found.again is not None
    assert found.again.points[0].base == slower.points[0].base


@pytest.mark.parametrize("side", ["base", "new"])
def test_a_process_that_dies_leaves_it_undecided(side: str, slower: Comparison, run_of: RunOf) -> None:
    runs: dict[str, list[Any]] = {each: [run_of({1: 1.3e-3, 1024: 2e-3})] * 3 for each in ("base", "new")}
    runs[side][1] = MeasuringFailed("the process was killed (signal 9)")
    found = again(slower, Replay(**runs))
    assert found.outcome == "undecided"
    assert found.again is None
    assert [each.reason for each in found.lost] == [f"{side}, process 2 of 3: the process was killed (signal 9)"]
    assert found.final.points == ()


@pytest.mark.parametrize("side", ["base", "new"])
def test_no_memory_leaves_it_undecided(side: str, slower: Comparison, run_of: RunOf) -> None:
    runs = {each: [run_of()] * 3 for each in ("base", "new")}
    runs[side][2] = run_of(failed=[1024])
    found = again(slower, Replay(**runs))
    assert found.outcome == "undecided"
    assert [each.reason for each in found.lost] == [f"{side}: out-of-memory: needs 3 GB"]


def test_another_network_of_the_same_name_leaves_it_undecided(slower: Comparison, run_of: RunOf) -> None:
    other = [run_of(batch_sizes=(4,))] * 3
    found = again(slower, Replay(base=other, new=other))
    assert found.outcome == "undecided"
    assert "measured something else" in found.lost[0].reason


def test_another_machine_than_that_of_the_kept_base_leaves_it_undecided(slower: Comparison, run_of: RunOf) -> None:
    machine = run_of().manifest.machine.model_copy(update={"cpu": "another"})
    found = again(slower, Replay(new=[run_of(machine=machine)] * 3), base_again=False)
    assert found.outcome == "undecided"
    assert [each.reason for each in found.lost] == ["the machines differ (cpu)"]


def test_a_point_lost_does_not_hide_one_that_is_worse(run_of: RunOf) -> None:
    worse = {1: 1.3e-3, 1024: 2e-3}
    first = compare(
        snapshot(run_of(batch_sizes=(8, 32), processes=5)), snapshot(run_of(worse, batch_sizes=(8, 32), processes=5))
    )
    base: list[Any] = [MeasuringFailed("it broke"), *(run_of(seed=n) for n in range(3))]
    found = again(first, Replay(base=base, new=[run_of(worse, seed=n) for n in range(3)]))
    assert [each.point.work.batch_size for each in found.lost] == [8]
    assert [point.work.batch_size for point in found.final.worse] == [32]
    assert found.outcome == "worse"


def test_points_that_were_not_suspected_keep_their_verdicts(run_of: RunOf) -> None:
    base, new = {1: 1e-3, 1024: 2e-3, 4096: 4e-3}, {1: 1e-3, 1024: 1.4e-3, 4096: 4e-3}
    first = compare(snapshot(run_of(base, processes=5)), snapshot(run_of(new, processes=5, seed=1)), gate="speedup")
    suspected = {point.work.classes for point in first.worse}
    assert suspected < {1024, 4096}
    found = again(first, Replay(base=[run_of(base, seed=n) for n in range(3)], new=[run_of(base)] * 3))
    kept = [point for point in found.final.points if point.work.classes not in suspected]
    assert kept == [point for point in first.points if point.work.classes not in suspected]


def test_a_hindrance_leaves_the_first_verdict(slower: Comparison) -> None:
    assert Confirmed(slower, hindrance=NOT_ASKED).outcome == "worse"


def test_a_point_that_failed_in_new_stays_undecided(run_of: RunOf) -> None:
    base = {1: 1e-3, 1024: 2e-3, 4096: 4e-3}
    first = compare(snapshot(run_of(base, processes=5)), snapshot(run_of(base, failed=[4096], processes=5)))
    assert Confirmed(first).outcome == "undecided"


# -- what may measure again ---------------------------------------------------------------------------------------


@pytest.fixture
def new(run_of: RunOf) -> Snapshot:
    return snapshot(run_of(commit="a" * 40))


@pytest.fixture
def here(new: Snapshot) -> Facts:
    return Facts.model_validate({"versions": new.versions, "commit": new.commit, "machine": new.machine})


def test_the_same_machine_and_software_may(new: Snapshot, here: Facts) -> None:
    assert hindrance(new, here) == ""
    assert other_software(new, here) == []


def test_other_software_may_not(new: Snapshot, here: Facts) -> None:
    other = here.model_copy(update={"versions": {"torch": "2.99"}, "commit": "b" * 40})
    assert other_software(new, other) == [
        "torch 2.11.0 then, 2.99 now",
        "commit aaaaaaaaaaaa then, bbbbbbbbbbbb now",
    ]
    assert "torch 2.11.0 then" in hindrance(new, other)
    unknown = here.model_copy(update={"commit": None})
    assert hindrance(new, unknown) == "", "what is not known does not differ"


def test_changes_that_are_not_committed_are_other_software(new: Snapshot, here: Facts) -> None:
    dirty = here.model_copy(update={"commit": "a" * 40 + "+dirty"})
    assert other_software(new, dirty) == ["commit aaaaaaaaaaaa then, aaaaaaaaaaaa+dirty now"]


def test_only_equal_commits_show_that_the_code_is_the_same(new: Snapshot, here: Facts) -> None:
    assert not_checked(new, here) == ""
    assert "measured at is unknown" in not_checked(new.model_copy(update={"commit": None}), here)
    assert "measured it again is unknown" in not_checked(new, here.model_copy(update={"commit": None}))
    dirty = "a" * 40 + "+dirty"
    both = new.model_copy(update={"commit": dirty}), here.model_copy(update={"commit": dirty})
    assert "not committed" in not_checked(*both), "two trees with changes may hold different ones"


def test_another_machine_may_not(new: Snapshot, here: Facts) -> None:
    machine = here.machine.model_copy(update={"cpu": "another", "cores_logical": 64})
    assert "(cpu, cores_logical differ)" in hindrance(new, here.model_copy(update={"machine": machine}))


def test_what_another_tool_measured_cannot_be_measured_here(new: Snapshot, here: Facts) -> None:
    foreign = new.model_copy(update={"tool": "pytest-benchmark", "machine": OtherMachine(cpu="a processor")})
    assert "pytest-benchmark" in hindrance(foreign, here)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Program]:
    """A program in the place of Python that does as it is told."""

    def make(text: str) -> Program:
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return Program(str(file), tmp_path)

    return make


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exit 0", "no Python with slc-bench"),
        ("echo hello", "no Python with slc-bench: it printed 'hello"),
        ("echo '{}'", "another slc-bench (versions: Field required)"),
        ("echo 'No module named bench' >&2; exit 1", "cannot measure in .*: No module named bench"),
    ],
)
def test_a_program_without_this_slc_bench_is_refused(text: str, says: str, script: Callable[[str], Program]) -> None:
    with pytest.raises(UsageError, match=says.replace("(", r"\(").replace(")", r"\)")):
        facts_of(script(text))


def test_the_commit_is_that_of_the_tree_a_program_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not slc-bench's own, which an installed copy does not have."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert facts_of(Program(sys.executable, tmp_path)).commit == head


def test_a_program_that_cannot_be_started_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot start"):
        facts_of(Program(str(tmp_path / "missing"), tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kill -9 $$", "killed (signal 9); the kernel does that when memory runs out"),
        ("kill -15 $$", "ended by signal 15"),
        ("echo first >&2; echo 'error: no network' >&2; exit 2", "ended with exit code 2: error: no network"),
        ("exit 0", "ended with exit code 0: it said nothing"),
        ("exit 3", "ended with exit code 3: it said nothing"),
    ],
)
def test_a_process_that_leaves_no_run_has_failed(text: str, says: str, script: Callable[[str], Program]) -> None:
    with pytest.raises(MeasuringFailed) as raised:
        in_fresh_processes({"new": script(text)})("new", ("--arch", "resnet50"))
    assert says in str(raised.value)


def test_a_process_whose_run_cannot_be_read_has_failed(script: Callable[[str], Program]) -> None:
    """The folder stands after --output, the last option but one."""
    torn = script('while [ "$1" != --output ]; do shift; done; mkdir "$2/run"; echo "{" > "$2/run/run.json"')
    with pytest.raises(MeasuringFailed, match=r"run\.json: not JSON"):
        in_fresh_processes({"new": torn})("new", ())


def test_a_fresh_process_measures_what_it_is_asked_for(in_factories: pytest.MonkeyPatch) -> None:
    """The real thing, with a tiny network; and its own facts let it measure its own run again."""
    in_factories.setenv("OMP_NUM_THREADS", "1")
    program = Program(sys.executable, Path.cwd())
    asked = "--arch tiny_networks:small --classes 1,16 --minibatches 6 --batch-size 2 --threads 1 --device cpu --seed 5"
    run = in_fresh_processes({"new": program})("new", tuple(asked.split()))
    (point,) = snapshot(run).points
    assert (point.work.arch, point.work.classes, point.work.batch_size) == ("tiny_networks:small", 16, 2)
    assert (point.rounds, point.threads, run.manifest.settings[0].seed) == (6, 1, 5)
    assert hindrance(snapshot(run), facts_of(program)) == ""
