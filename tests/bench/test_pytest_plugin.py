"""The plugin in pytest sessions of their own, in this process: torch is imported once.

Most sessions measure nothing: `Clock` stands where the sweep would be, so that a speedup is what the test says it is.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from bench import pytest_plugin
from bench.errors import UsageError
from bench.history.formats import from_pytest_benchmark
from bench.history.snapshot import Estimate, Snapshot, snapshot
from bench.history.store import Store
from bench.machine.fingerprint import Machine
from bench.run import Manifest, Run

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
FACTORIES = ROOT / "tests" / "factories"
EXAMPLE = ROOT / "docs" / "examples" / "test_speedup.py"

#: An installed slc-bench has the plugin in already, and pytest refuses it twice.
PLUGIN = () if "slc_bench" in entry_points(group="pytest11").names else ("-p", "bench.pytest_plugin")

MAIN = '@pytest.mark.slc_baseline("main")'
REAL = 'slc_speedup("tiny_networks:small", classes=[1, 16], minibatches=6, batch_size=2, threads=1)'
MEASURE = 'slc_speedup("resnet50", classes=[1, 16])'


@dataclass
class Clock:
    """In place of the sweep: 1 ms for one logit, K ms for K, in twelve rounds alike.

    single: the one logit's time by its usual one, one number a measurement, the last for all that follow. failing:
    class counts without memory.
    """

    make: dict[str, Callable[..., Any]]
    single: list[float] = field(default_factory=lambda: [1.0])
    failing: tuple[int, ...] = ()
    versions: dict[str, str] = field(default_factory=lambda: {"torch": "2.14.0"})
    cpu: str = "a processor"
    calls: int = 0

    def __call__(self, network: object, options: dict[str, Any]) -> tuple[Run, Snapshot]:
        factor = self.single[min(self.calls, len(self.single) - 1)]
        self.calls += 1
        counts = tuple(options["classes"])
        good = tuple(count for count in counts if count not in self.failing)
        failed = {"status": "out-of-memory", "reason": "there is none"}
        manifest: Manifest = self.make["manifest"](
            classes=counts,
            minibatches=12,
            status="complete" if good == counts else "incomplete",
            points=[self.make["point"](count, **({} if count in good else failed)) for count in counts],
            versions=self.versions,
        )
        machine = Machine(**{**manifest.machine.model_dump(), "cpu": self.cpu})
        samples = [sample for number in range(12) for sample in self.make["round"](number, good)]
        run = Run(
            manifest.model_copy(update={"machine": machine}),
            [
                each.model_copy(update={"wall_s": each.wall_s * factor}) if each.classes == 1 else each
                for each in samples
            ],
        )
        return run, snapshot(run, resamples=100)


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    return pytester


@pytest.fixture
def clock(
    session: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    make_manifest: Callable[..., Any],
    make_round: Callable[..., Any],
    make_point: Callable[..., Any],
) -> Clock:
    clock = Clock({"manifest": make_manifest, "round": make_round, "point": make_point})
    monkeypatch.setattr(pytest_plugin, "_measure", clock)
    return clock


@pytest.fixture
def real(session: pytest.Pytester, in_factories: pytest.MonkeyPatch) -> pytest.Pytester:
    in_factories.chdir(session.path)
    in_factories.syspath_prepend(FACTORIES)
    return session


def run(session: pytest.Pytester, *options: str) -> pytest.RunResult:
    quiet = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # the plugin is imported here already
    return session.runpytest_inprocess(*PLUGIN, *quiet, "-p", "no:cacheprovider", *options)


def write_test(session: pytest.Pytester, body: str, marker: str = "") -> None:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    session.makepyfile(test_it=f"import pytest\n\n{marker}\ndef test_it(slc_speedup):\n{lines}")


def set_baseline(session: pytest.Pytester, body: str = MEASURE) -> None:
    write_test(session, body, MAIN)
    run(session, "--slc-update-baseline").assert_outcomes(passed=1)


def baseline_of(session: pytest.Pytester) -> Snapshot:
    return Store(session.path / ".slc-bench").baseline("main")


def counts_of(session: pytest.Pytester) -> list[int | None]:
    return [point.work.classes for point in baseline_of(session).points]


# -- measured for real --------------------------------------------------------------------------------------------


def test_measures_and_gives_the_speedup(real: pytest.Pytester) -> None:
    write_test(
        real,
        f"measured = {REAL}\n"
        "low, high = measured.interval(16)\n"
        'assert low < measured.speedup("2**4") == measured.speedup(16) < high\n'
        "assert measured.run.manifest.status == 'complete'\n"
        "assert measured.snapshot.points[0].rounds == 6\n"
        "assert measured.comparison is None\n"
        'with pytest.raises(ValueError, match="only 16 were measured"):\n'
        "    measured.speedup(4)\n"
        "open('brief.json', 'w').write(measured.snapshot.model_dump_json())",
    )
    result = run(real, "--benchmark-json=saved.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines_random(["*tiny_networks:small[[]1[]]*", "*tiny_networks:small[[]16[]]*"])
    brief = Snapshot.model_validate_json((real.path / "brief.json").read_text())
    assert from_pytest_benchmark(real.path / "saved.json") == brief
    saved = json.loads((real.path / "saved.json").read_text())["benchmarks"]
    assert [(each["name"], each["stats"]["rounds"]) for each in saved] == [
        ("tiny_networks:small[1]", 12),  # the control is the single logit too
        ("tiny_networks:small[16]", 6),
    ]


def test_an_interrupted_sweep_interrupts_pytest(real: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_FAULT", "SIGINT self forward 12")
    sys.modules.pop("tiny_networks", None)  # with its counts of calls
    write_test(real, f"{REAL.replace('small', 'faulty')}\nopen('went_on', 'w')")
    with pytest.raises(KeyboardInterrupt):  # pytester hands it on
        run(real)
    assert not (real.path / "went_on").exists()


def test_the_example_of_the_docs(real: pytest.Pytester) -> None:
    shutil.copy(EXAMPLE, real.path)
    run(real, "--slc-update-baseline").assert_outcomes(passed=1)
    brief = baseline_of(real)
    (point,) = brief.points
    assert point.single is not None
    assert point.speedup is not None
    for then, outcome in ((30.0, {"passed": 1}), (1 / 30, {"failed": 1})):  # far beyond what noise can do
        single = point.single.model_copy(update={"value": point.single.value * then})
        speedup = point.speedup.model_copy(update={"value": point.speedup.value / then})
        other = point.model_copy(update={"single": single, "speedup": speedup})
        Store(real.path / ".slc-bench").set_baseline("main", brief.model_copy(update={"points": (other,)}))
        run(real).assert_outcomes(**outcome)


# -- against a baseline -------------------------------------------------------------------------------------------


def test_the_same_as_its_baseline_passes(session: pytest.Pytester, clock: Clock) -> None:
    write_test(session, f"assert {MEASURE}.comparison is None", MAIN)
    result = run(session, "--slc-update-baseline")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["baseline main: 1 measured, 0 kept: *main.json"])
    wide = '@pytest.mark.slc_baseline("main", margin=0.05)'  # one process a side cannot tell a change of 3 %
    write_test(session, f"assert {MEASURE}.comparison.points[0].speedup.verdict == 'SAME'", wide)
    run(session).assert_outcomes(passed=1)
    clock.single = [0.7]
    write_test(session, f"assert {MEASURE}.comparison.points[0].speedup.verdict == 'HIGHER'", MAIN)
    run(session).assert_outcomes(passed=1)


@pytest.mark.parametrize("gate", ["both", "speedup", "single"])
def test_worse_than_its_baseline_fails_with_the_comparison(session: pytest.Pytester, clock: Clock, gate: str) -> None:
    set_baseline(session)
    clock.single = [1.3]
    write_test(session, MEASURE, f'@pytest.mark.slc_baseline("main", gate="{gate}")')
    result = run(session)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["worse than baseline 'main':", "Worse: resnet50* 16 classes: *", "worse: *less worth it*"],
    )
    assert clock.calls == 3  # the baseline, the first, and once more before it turns red


def test_worse_once_and_not_again_passes(session: pytest.Pytester, clock: Clock) -> None:
    set_baseline(session)
    clock.single = [1.0, 1.3, 1.0]
    run(session).assert_outcomes(passed=1)
    assert clock.calls == 3


def test_a_change_within_the_margin_of_the_marker_passes(session: pytest.Pytester, clock: Clock) -> None:
    set_baseline(session)
    clock.single = [1.3]
    write_test(session, MEASURE, '@pytest.mark.slc_baseline("main", margin=0.5)')
    run(session).assert_outcomes(passed=1)


def test_the_options_name_baseline_and_folder(session: pytest.Pytester, clock: Clock) -> None:
    write_test(session, MEASURE)
    options = ("--slc-baseline=main", "--slc-store=kept")
    run(session, *options, "--slc-update-baseline").assert_outcomes(passed=1)
    assert Store(session.path / "kept").baseline("main").points[0].work.classes == 16
    clock.single = [1.3]
    run(session, *options).assert_outcomes(failed=1)
    run(session).assert_outcomes(passed=1)  # compared with nothing


def test_no_baseline_of_that_name_fails_before_anything_is_measured(session: pytest.Pytester, clock: Clock) -> None:
    write_test(session, MEASURE, MAIN)
    result = run(session)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no baseline 'main' in *; or run this test with --slc-update-baseline"])
    assert clock.calls == 0


def test_a_point_that_the_baseline_lacks_fails(session: pytest.Pytester, clock: Clock) -> None:
    set_baseline(session)
    write_test(session, MEASURE.replace("16", "16, 32"), MAIN)
    result = run(session)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*baseline 'main' has nothing of resnet50*32 classes; *"])


def test_a_point_that_fails_now_is_not_called_worse(session: pytest.Pytester, clock: Clock) -> None:
    both = MEASURE.replace("16", "16, 64")
    set_baseline(session, both)
    clock.failing = (64,)
    result = run(session)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["not worse, but what was measured for it failed now*", "*64 classes: out-of-memory*"])
    write_test(session, f"assert {both}.speedup(16) == 16\n{both}.speedup(64)")
    run(session).stdout.fnmatch_lines(["E *64 classes was not measured: out-of-memory: there is none"])


def test_another_machine_is_warned_of_and_not_compared(session: pytest.Pytester, clock: Clock) -> None:
    set_baseline(session)
    clock.cpu, clock.single = "another processor", [1.3]
    result = run(session)
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*SpeedupWarning: not compared with baseline 'main': *another machine (cpu differ)*"])


def test_undecided_is_a_warning(session: pytest.Pytester, clock: Clock) -> None:
    set_baseline(session)
    brief = baseline_of(session)
    unknown = {name: Estimate(value=value) for name, value in (("single", 1.0), ("all", 16.0), ("speedup", 16.0))}
    points = (brief.points[0].model_copy(update=unknown),)  # without errors nothing can be told
    Store(session.path / ".slc-bench").set_baseline("main", brief.model_copy(update={"points": points}))
    result = run(session)
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*SpeedupWarning: undecided against baseline 'main':", "*Undecided: *"])


# -- setting one --------------------------------------------------------------------------------------------------


def test_an_update_keeps_what_other_tests_measured(session: pytest.Pytester, clock: Clock) -> None:
    set_baseline(session)
    write_test(session, MEASURE.replace("16", "32"), MAIN)
    run(session, "--slc-update-baseline").stdout.fnmatch_lines(["baseline main: 1 measured, 1 kept: *"])
    assert counts_of(session) == [16, 32]
    clock.versions = {"torch": "2.15.0"}
    run(session, "--slc-update-baseline").stdout.fnmatch_lines(
        ["baseline main: dropped, measured with other torch 2.14.0 -> 2.15.0: *, 16 classes", "*1 measured, 0 kept: *"]
    )
    assert counts_of(session) == [32]


def test_an_update_without_a_name_says_so(session: pytest.Pytester, clock: Clock) -> None:
    write_test(session, MEASURE)
    result = run(session, "--slc-update-baseline")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["no baseline was set: *"])
    assert not (session.path / ".slc-bench").exists()


def test_a_failed_point_becomes_no_baseline(session: pytest.Pytester, clock: Clock) -> None:
    clock.failing = (16,)
    write_test(session, MEASURE, MAIN)
    result = run(session, "--slc-update-baseline")
    result.assert_outcomes(failed=1, warnings=1)
    result.stdout.fnmatch_lines(["no baseline 'main': *16 classes: out-of-memory*"])
    result.stdout.fnmatch_lines(["*SpeedupWarning: nothing is recorded: *"])
    assert not (session.path / ".slc-bench").exists()


def test_a_baseline_that_cannot_be_written_turns_the_session_red(session: pytest.Pytester, clock: Clock) -> None:
    (session.path / ".slc-bench").write_text("a file where the folder should be")
    write_test(session, MEASURE, MAIN)
    result = run(session, "--slc-update-baseline")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["baseline main is not kept: cannot write *"])


def test_a_damaged_baseline_is_not_replaced(session: pytest.Pytester, clock: Clock) -> None:
    set_baseline(session)
    file = session.path / ".slc-bench" / "baselines" / "main.json"
    file.write_text(file.read_text()[:200])
    left, calls = file.read_text(), clock.calls
    result = run(session, "--slc-update-baseline")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["baseline 'main' is not replaced: *main.json: cut short or edited*restore it, or*"])
    assert (file.read_text(), clock.calls) == (left, calls), "nothing is measured in vain"


def test_a_baseline_damaged_meanwhile_is_not_replaced(session: pytest.Pytester, clock: Clock) -> None:
    set_baseline(session)
    file = session.path / ".slc-bench" / "baselines" / "main.json"
    write_test(session, f"{MEASURE}\nimport pathlib\npathlib.Path({str(file)!r}).write_text('cut')", MAIN)
    result = run(session, "--slc-update-baseline")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["baseline main is not kept: *main.json: cut short or edited*"])
    assert file.read_text() == "cut"


# -- in the company of others ---------------------------------------------------------------------------------------


def test_a_second_measurement_of_the_same_is_warned_of(session: pytest.Pytester, clock: Clock) -> None:
    write_test(session, f"{MEASURE}\n{MEASURE}")
    result = run(session, "--benchmark-json=saved.json")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*SpeedupWarning: measured before in this session*"])
    with pytest.raises(UsageError, match="in it twice"):
        from_pytest_benchmark(session.path / "saved.json")


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('slc_baseline("main", gate="times")', "*as gate= one of speedup, single, both"),
        ('slc_baseline("main", margin=3)', "*as margin= a share such as 0.03 for 3 %"),
        ("slc_baseline()", "*takes a name, gate= and margin= *"),
        ('slc_baseline("main", gates="both")', "*takes a name, gate= and margin= *"),
    ],
)
def test_a_wrong_marker_is_refused_before_anything_runs(session: pytest.Pytester, marker: str, message: str) -> None:
    write_test(session, "raise AssertionError('it ran')", f"@pytest.mark.{marker}")
    result = run(session)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_it_measures_alone_or_not_at_all(session: pytest.Pytester, clock: Clock) -> None:
    write_test(session, MEASURE)
    result = run(session, "--benchmark-disable", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*measures alone or not at all*--benchmark-disable*"])
    run(session, "--benchmark-skip").assert_outcomes(skipped=1)
    run(session, "--benchmark-only").assert_outcomes(passed=1)


def test_loading_it_imports_nothing_heavy() -> None:
    script = (
        "import sys\nimport bench.pytest_plugin\n"
        "print(sorted({'torch', 'pandas', 'matplotlib', 'numpy', 'scipy', 'pydantic', 'typer'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
