"""Speedups in your own tests: the fixture `slc_speedup`, compared with a baseline by the rule of `bench compare`.

    def test_one_logit_is_worth_it(slc_speedup):
        assert slc_speedup("resnet50", classes=[1, 2**14]).speedup(2**14) > 1.1

docs/ci.md tells the whole of it. This is an entrance, as bench/cli is: it may ask `reports` for words. It is loaded
by every pytest of an environment that slc-bench is installed in, so nothing heavy is imported before a test needs it.
"""

import contextlib
import io
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from bench.text import on_one_line

if TYPE_CHECKING:
    from torch import nn

    from bench.history.compare import Comparison, Gate
    from bench.history.snapshot import Estimate, Point, Snapshot
    from bench.history.store import Store
    from bench.run import Run
    from bench.speed.sweep import Sweep

MARKER = "slc_baseline"

#: bench.history.store.DEFAULT and bench.history.compare's Gate and MARGIN, not imported before they are needed.
STORE = ".slc-bench"
GATES = ("speedup", "single", "both")
MARGIN = 0.03


class SpeedupWarning(pytest.PytestWarning):
    """A speedup was measured, but not compared, or not so that anything could be decided."""


@dataclass(frozen=True)
class Speedups:
    """What `slc_speedup` measured.

    snapshot: the run in brief. comparison: with the baseline, if there is one; the second, if the first looked worse.
    """

    run: "Run"
    snapshot: "Snapshot"
    comparison: "Comparison | None" = None

    def speedup(self, classes: int | str) -> float:
        """Time of all logits / time of the single one, at a class count (2**14 or "2**14").

        Raises UsageError for a count that was not measured, with the reason if it was tried.
        """
        return self._estimate(classes).value

    def interval(self, classes: int | str, confidence: float = 0.95) -> tuple[float, float] | None:
        """The ends of the interval that holds the speedup with this probability; None for too few rounds.

        Raises UsageError as `speedup` does.
        """
        return self._estimate(classes).interval(confidence)

    def _estimate(self, classes: int | str) -> "Estimate":
        from bench.counts import label, parse_count
        from bench.errors import UsageError

        count = parse_count(str(classes))
        points = [point for point in self.snapshot.points if point.work.classes == count]
        if len(points) != 1:
            has = ", ".join(sorted({label(point.work.classes or 0) for point in self.snapshot.points}))
            reason = "more than one setting was" if points else f"only {has} were"
            raise UsageError(f"no single speedup at {label(count)} classes: {reason} measured; see .snapshot.points")
        if points[0].speedup is None:
            raise UsageError(f"{_name(points[0])} was not measured: {_failure(points[0])}")
        return points[0].speedup


@dataclass(frozen=True)
class Baseline:
    """What a test is compared with: a baseline's name and the rule's options."""

    name: str
    gate: "Gate" = "both"
    margin: float = MARGIN


@dataclass
class Session:
    """What one pytest session measured: points by the name of the baseline they shall become, and by their work."""

    store: Path
    update: bool
    measured: dict[str, list["Snapshot"]] = field(default_factory=dict)
    names: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)


_SESSION = pytest.StashKey[Session]()


# -- options and marker -------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, in a group of their own."""
    group = parser.getgroup("slc-bench", "speedups of one logit (slc-bench)")
    group.addoption(
        "--slc-baseline",
        metavar="NAME",
        help="compare what slc_speedup measures with this baseline, in tests that name none by @pytest.mark."
        + MARKER
        + "; a test fails if something got worse",
    )
    group.addoption("--slc-store", metavar="DIR", help=f"folder of the baselines (default: {STORE} in the root folder)")
    group.addoption(
        "--slc-update-baseline",
        action="store_true",
        help="compare nothing: what is measured becomes the baseline that it would be compared with",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and a place for what is measured."""
    config.addinivalue_line(
        "markers",
        f'{MARKER}(name, *, gate="both", margin={MARGIN}): compare what slc_speedup measures with this baseline; '
        f"gate: what counts as worse, one of {', '.join(GATES)}; margin: the change that does not matter",
    )
    given = config.getoption("--slc-store")
    store = config.rootpath / STORE if given is None else config.invocation_params.dir / given
    config.stash[_SESSION] = Session(store, update=bool(config.getoption("--slc-update-baseline")))


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Refuse markers that say nothing, before anything is measured."""
    for item in items:
        _baseline_of(item, config)


def _baseline_of(item: pytest.Item, config: pytest.Config) -> Baseline | None:
    """The baseline of a test: its marker's, or the command line's. Raises pytest.UsageError for a wrong marker."""
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        name = config.getoption("--slc-baseline")
        return Baseline(name) if name else None
    try:
        baseline = Baseline(*marker.args, **marker.kwargs)
    except TypeError as error:
        raise pytest.UsageError(f"{item.nodeid}: {MARKER} takes a name, gate= and margin= ({error})") from None
    if not isinstance(baseline.name, str) or not baseline.name or baseline.gate not in GATES:
        raise pytest.UsageError(f"{item.nodeid}: {MARKER} takes a name, and as gate= one of {', '.join(GATES)}")
    if not isinstance(baseline.margin, float) or not 0 < baseline.margin < 1:
        raise pytest.UsageError(f"{item.nodeid}: {MARKER} takes as margin= a share such as 0.03 for 3 %")
    return baseline


# -- the fixture --------------------------------------------------------------------------------------------------


@pytest.fixture
def slc_speedup(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., Speedups]:
    """Measure how much faster one logit is than all, record it, and compare it with a baseline if there is one."""
    if not benchmark.enabled:
        because = "pytest-xdist runs tests beside it" if "PYTEST_XDIST_WORKER" in os.environ else "--benchmark-disable"
        pytest.skip(f"slc_speedup measures alone or not at all, and benchmarks are disabled ({because})")
    # The fixture times whole calls in its own way. Its name is what --benchmark-only and -skip look for; disabled, it
    # makes one call, times nothing, and the samples of this project's protocol are what is recorded.
    benchmark.disabled = True
    return _Measuring(request, benchmark)


@dataclass
class _Measuring:
    """What `slc_speedup` is in a test: called, it measures."""

    request: pytest.FixtureRequest
    benchmark: Any

    def __post_init__(self) -> None:
        self._session = self.request.config.stash[_SESSION]
        self._serves = True

    def __call__(
        self,
        network: "str | nn.Module",
        classes: "Sequence[int | str] | str | None" = None,
        *,
        input_shape: tuple[int, ...] | None = None,
        minibatches: int = 100,
        processes: int = 1,
        **options: Any,
    ) -> Speedups:
        """Measure as `bench.sweep` does, which also says what the options mean.

        network: a name (resnet50, timm/..., package.module:factory) or a module in hand with its `input_shape`. One
        of a name can be measured in several fresh `processes`, which says more than one.

        Raises UsageError for what cannot be measured as asked. Fails the test if it is worse than its baseline, or
        if there is no such baseline or point in it, or if its baseline cannot be read.
        """
        baseline = _baseline_of(self.request.node, self.request.config)
        then = None if baseline is None else self._then(baseline)
        given = {"classes": classes, "input_shape": input_shape, "minibatches": minibatches, "processes": processes}

        def once() -> tuple["Run", "Snapshot"]:
            return _measure(network, {**given, **options})

        run, brief = self._recorded(once)
        if baseline is None or then is None:
            return Speedups(run, brief)
        return Speedups(run, brief, _judge(baseline, then, brief, lambda: once()[1]))

    def _then(self, baseline: Baseline) -> "Snapshot | None":
        """What to compare with, looked for before minutes are spent on measuring; None if it is to be set anew."""
        if not self._session.update:
            return _kept(self._session.store, baseline.name)
        _refuse_unreadable(self._session.store, baseline.name)
        return None

    def _recorded(self, once: Callable[[], tuple["Run", "Snapshot"]]) -> tuple["Run", "Snapshot"]:
        """Measure, through pytest-benchmark the first time: it serves one call a test."""
        serves, self._serves = self._serves, False
        run, brief = self.benchmark.pedantic(once) if serves else once()
        _record(self.request, self._session, run, brief)
        if self._session.update:
            _keep(self.request, self._session, brief)
        return run, brief


def _measure(network: "str | nn.Module", options: dict[str, Any]) -> tuple["Run", "Snapshot"]:
    from bench.history.snapshot import snapshot
    from bench.speed.sweep import sweep

    with _unobserved():
        found: Sweep = sweep(network, **options)
    if found.run.manifest.status == "interrupted":
        raise KeyboardInterrupt  # a sweep gives back what it has; pytest shall stop
    return found.run, snapshot(found.run)


@contextlib.contextmanager
def _unobserved() -> Iterator[None]:
    """Without coverage and debuggers: they cost time at every line of a network's forward."""
    trace, profile = sys.gettrace(), sys.getprofile()
    sys.settrace(None)
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.settrace(trace)
        sys.setprofile(profile)


# -- recording ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Benchmark:
    """What pytest-benchmark wants to know of a benchmark beside its times; stands where its own fixture would."""

    name: str
    fullname: str
    group: str
    param: str
    params: dict[str, Any]
    extra_info: dict[str, Any]
    cprofile_stats: None = None
    has_error: bool = False


def _record(request: pytest.FixtureRequest, session: Session, run: "Run", brief: "Snapshot") -> None:
    """Hand every sample to pytest-benchmark: its table, --benchmark-json, --benchmark-save and -compare have them.

    As benchmarks of its session, and not through its hook `pytest_benchmark_update_json`: that one is not called in
    a session without other benchmarks, and what it adds is in no table.
    """
    from pytest_benchmark import stats

    from bench.errors import UsageError
    from bench.history.pytest_benchmark import to_pytest_benchmark

    try:
        found = to_pytest_benchmark(run, brief)["benchmarks"]
    except UsageError as error:
        _warn(request, f"nothing is recorded: {on_one_line(str(error))}")
        return
    recorded: Any = request.config.pluginmanager.get_plugin("pytest-benchmark")
    metadata: Any = stats.Metadata  # neither has types
    for each in found:
        names = ("name", "fullname", "group", "param", "params", "extra_info")
        record = metadata(_Benchmark(**{name: each[name] for name in names}), iterations=1, options=each["options"])
        for seconds in each["stats"]["data"]:
            record.update(seconds)
        recorded.benchmarks.append(record)
        session.names[each["fullname"]] += 1
    if twice := [each["fullname"] for each in found if session.names[each["fullname"]] == 2]:
        _warn(
            request,
            f"measured before in this session: {on_one_line('; '.join(twice))}; `python -m bench compare` refuses a "
            "file of pytest-benchmark with both in it: measure it once, or save each test to a file of its own",
        )


def _keep(request: pytest.FixtureRequest, session: Session, brief: "Snapshot") -> None:
    """Remember what shall become a baseline. Fails the test if a point failed: it would never be compared."""
    baseline = _baseline_of(request.node, request.config)
    if baseline is None:
        return
    failed = [f"{_name(point)}: {_failure(point)}" for point in brief.points if point.speedup is None]
    if failed or not brief.points:
        pytest.fail(f"no baseline {baseline.name!r}: {'; '.join(failed) or 'one class alone'}", pytrace=False)
    session.measured.setdefault(baseline.name, []).append(brief)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep the new baselines."""
    from bench.errors import UsageError

    ours = session.config.stash[_SESSION]
    if not ours.measured:
        if ours.update:
            ours.lines.append("no baseline was set: no test measured anything for a baseline that it names")
        return
    from bench.history.store import Store

    for name, measured in ours.measured.items():
        try:
            ours.lines += _set_baseline(Store(ours.store), name, measured)
        except UsageError as error:
            ours.lines.append(f"baseline {name} is not kept: {on_one_line(str(error))}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _set_baseline(store: "Store", name: str, measured: Sequence["Snapshot"]) -> list[str]:
    """Make a baseline of this session's points; what it did not measure stays if it still belongs to them.

    What to say of it. Raises UsageError if the old one cannot be read, or the new one not written.
    """
    points = {_key(point): point for brief in measured for point in brief.points}
    kept, reason = _still_valid(store, name, measured[-1])
    left = [point for point in kept if _key(point) not in points]
    lines = []
    if reason and left:
        names = ", ".join(map(_name, left))
        lines.append(f"baseline {name}: dropped, measured with other {on_one_line(reason)}: {names}")
        left = []
    notices = dict.fromkeys(kind for brief in measured for kind in brief.notices)
    whole = measured[-1].model_copy(
        update={"name": name, "points": (*left, *points.values()), "notices": tuple(notices)}
    )
    return [*lines, f"baseline {name}: {len(points)} measured, {len(left)} kept: {store.set_baseline(name, whole)}"]


def _still_valid(store: "Store", name: str, new: "Snapshot") -> tuple[tuple["Point", ...], str]:
    """The points of a baseline as it was, and what differs so that they cannot stay beside new ones; "" if nothing.

    Raises UsageError if it cannot be read: then nobody knows which points of other tests it holds.
    """
    if not store.has_baseline(name):
        return (), ""
    from bench.history.compare import compare

    old = store.baseline(name)
    same = compare(old, old.model_copy(update={"machine": new.machine, "versions": new.versions, "commit": new.commit}))
    return old.points, ", ".join((*same.hardware, *same.versions))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what became a baseline."""
    lines = config.stash[_SESSION].lines
    if lines:
        terminalreporter.section("slc-bench")
        for line in lines:
            terminalreporter.line(line)


# -- comparing ----------------------------------------------------------------------------------------------------


def _kept(store: Path, name: str) -> "Snapshot":
    """The baseline, looked for before minutes are spent on measuring. Fails the test if there is none."""
    from bench.errors import UsageError
    from bench.history.store import Store

    try:
        return Store(store).baseline(name)
    except UsageError as error:
        pytest.fail(f"{on_one_line(str(error))}; or run this test with --slc-update-baseline", pytrace=False)


def _refuse_unreadable(store: Path, name: str) -> None:
    """Fail the test if the baseline that is to be set anew cannot be read: points of other tests would be lost."""
    from bench.errors import UsageError
    from bench.history.store import Store

    kept = Store(store)
    try:
        if kept.has_baseline(name):
            kept.baseline(name)
    except UsageError as error:
        pytest.fail(f"baseline {name!r} is not replaced: {on_one_line(str(error))}", pytrace=False)


def _judge(
    baseline: Baseline, then: "Snapshot", now: "Snapshot", measure_again: Callable[[], "Snapshot"]
) -> "Comparison":
    """Compare, and fail the test if something is worse, or cannot be measured any more; anything else is a warning.

    What looks worse is measured a second time, and the second comparison counts: noise that lasts has a second chance
    to show itself as noise, and a test does not turn red by the bad luck of one run.
    """
    comparison = _compare(baseline, then, now)
    if comparison.worse:
        comparison = _compare(baseline, then, measure_again())
    text = f"baseline {baseline.name!r}:\n{_text(comparison)}"
    if comparison.worse:
        pytest.fail(f"worse than {text}", pytrace=False)
    if comparison.failed:
        pytest.fail(f"not worse, but what was measured for it failed now; {text}", pytrace=False)
    if comparison.hardware:
        differing = ", ".join(comparison.hardware)
        _say(f"not compared with baseline {baseline.name!r}: it was measured on another machine ({differing} differ)")
    elif comparison.outcome == "undecided" or comparison.undecided:
        _say(f"undecided against {text}")
    return comparison


def _compare(baseline: Baseline, then: "Snapshot", now: "Snapshot") -> "Comparison":
    """Against the points of the baseline that this test measured: others belong to other tests."""
    from bench.errors import UsageError
    from bench.history.compare import compare

    works = {point.work for point in now.points}
    own = tuple(point for point in then.points if point.work in works)
    missing = [_name(point) for point in now.points if point.work not in {each.work for each in own}]
    try:
        comparison = compare(
            then.model_copy(update={"points": own or then.points}), now, margin=baseline.margin, gate=baseline.gate
        )
    except UsageError as error:
        pytest.fail(
            f"baseline {baseline.name!r}: {on_one_line(str(error))}; or set it anew with --slc-update-baseline",
            pytrace=False,
        )
    if missing:
        pytest.fail(
            f"baseline {baseline.name!r} has nothing of {', '.join(missing)}; set it anew with --slc-update-baseline",
            pytrace=False,
        )
    return comparison


def _text(comparison: "Comparison") -> str:
    """What `python -m bench compare` prints."""
    from bench.history.confirm import Confirmed
    from reports.comparison import print_comparison

    stream = io.StringIO()
    print_comparison(Confirmed(comparison), stream)
    return stream.getvalue().rstrip()


def _say(message: str) -> None:
    warnings.warn(SpeedupWarning(message), stacklevel=4)


def _warn(request: pytest.FixtureRequest, message: str) -> None:
    cast(pytest.Item, request.node).warn(SpeedupWarning(message))


def _key(point: "Point") -> tuple[object, int | None]:
    return point.work, point.threads


def _name(point: "Point") -> str:
    from bench.history.labels import point_label

    return on_one_line(point_label(point.work, point.threads))


def _failure(point: "Point") -> str:
    if point.status == "ok":
        return "no complete round"
    return f"{point.status}: {on_one_line(point.reason)}" if point.reason else point.status
