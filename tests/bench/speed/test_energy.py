import itertools
import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.machine.energy import EnergyMeter, EnergyRefused
from bench.speed.energy import (
    CHUNK_S,
    FILE,
    LEAD_IN_S,
    POLL_S,
    CounterFacts,
    EnergyProtocol,
    Window,
    counter_facts,
    is_complete,
    load_windows,
    marks_of,
    measure_energy,
    order,
    work_of,
)
from bench.speed.energy_rows import rows

BATCH = 8
SINGLE_S, ALL_S = 0.080, 0.124
SINGLE_W, ALL_W, IDLE_W = 250.0, 310.0, 80.0


class Gpu:
    """A GPU, its energy counter, a clock and a sleep: nothing waits, everything is known exactly.

    Power is constant within a step; the counter takes over the exact energy every `period_s`, cut down to `step_mj`.
    """

    def __init__(self, period_s=0.1, step_mj=1, phase=0.3, seed=0, power_noise=0.0, time_noise=0.02, drift=0.0):
        self.now = phase * period_s
        self.updates = 0
        self.joules = 1234.5
        self.period_s, self.step_mj, self.drift = period_s, step_mj, drift
        self.draws = random.Random(seed)
        self.power_noise, self.time_noise = power_noise, time_noise
        self.factor = 1.0
        self.shown = self._cut(self.joules)
        self.truth = []
        self.processes = lambda: 0
        self.busy = lambda: 0
        self.refused = None
        self.offset_mj = 0

    def _cut(self, joules):
        return int(joules * 1000 // self.step_mj) * self.step_mj

    def advance(self, seconds, watts):
        end = self.now + seconds
        while (update := (self.updates + 1) * self.period_s) <= end:
            self.updates += 1
            self.joules += (update - self.now) * watts
            self.now = update
            self.shown = self._cut(self.joules)
        self.joules += (end - self.now) * watts
        self.now = end

    def clock(self):
        return self.now

    def rest(self, seconds):
        self.factor = 1 + self.draws.gauss(0, self.power_noise)
        self.advance(seconds, (IDLE_W + self.drift * self.now) * self.factor)

    def work(self, pass_s, watts):
        def run(passes):
            for _ in range(passes):
                power = (watts + self.drift * self.now) * self.factor
                self.advance(pass_s * (1 + self.time_noise * self.draws.uniform(-1, 1)), power)

        return run

    def read(self):
        self.truth.append((self.now, self.joules))
        return self.shown + self.offset_mj

    def others(self):
        return self.processes()

    def utilisation(self):
        return self.busy()

    def refuse_if_false(self):
        if self.refused:
            raise EnergyRefused(self.refused)


def measured(gpu, protocol=None, work=None, **options):
    windows = []
    work = work or {1: gpu.work(SINGLE_S, SINGLE_W), 1024: gpu.work(ALL_S, ALL_W)}
    options = {"batch_size": BATCH, "setting": 0, "process": 0, "emit": windows.append, **options}
    measure_energy(gpu, work, protocol=protocol, clock=gpu.clock, sleep=gpu.rest, **options)
    return windows


# -- order and protocol -----------------------------------------------------------------------------------------------


def test_the_order_of_two_counts():
    assert order([1024, 1], 2) == [(0, None), (0, 1), (0, 1024), (1, None), (1, 1024), (1, 1), (2, None)]


@given(st.sets(st.integers(1, 10**6), min_size=1, max_size=6), st.integers(1, 5))
def test_over_an_even_number_of_cycles_every_count_stands_at_the_same_mean_place(classes, half):
    planned = order(sorted(classes), 2 * half)
    assert planned[0][1] is planned[-1][1] is None
    places = {count: [at for at, (_, each) in enumerate(planned) if each == count] for count in classes}
    assert {len(each) for each in places.values()} == {2 * half}
    assert len({sum(each) for each in places.values()}) == 1
    rests = [at for at, (_, each) in enumerate(planned) if each is None]
    assert {after - before for before, after in itertools.pairwise(rests)} == {len(classes) + 1}


@pytest.mark.parametrize("options", [{"window_s": 4.9}, {"cycles": 4}])
def test_less_than_the_counter_allows_is_refused(options):
    with pytest.raises(UsageError):
        EnergyProtocol(**options)


def test_the_time_it_takes_is_known_beforehand():
    gpu = Gpu()
    began = gpu.now
    measured(gpu)
    assert gpu.now - began == pytest.approx(EnergyProtocol().seconds(2), rel=0.1)


def test_a_setting_is_complete_with_its_last_rest():
    windows = measured(Gpu(), setting=2)
    assert is_complete(windows, 2)
    assert not is_complete(windows, 0)
    assert not is_complete(windows[:-1], 2)
    assert not is_complete(windows, 2, EnergyProtocol(cycles=7))


# -- the counter ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.floats(0.02, 0.15), st.integers(1, 100), st.floats(0, 1))
def test_period_and_steps_of_the_counter_are_found(period_s, step_mj, phase):
    gpu = Gpu(period_s, step_mj, phase)
    facts = counter_facts(gpu.read, gpu.clock, gpu.rest)
    assert facts.period_s == pytest.approx(period_s, abs=POLL_S + 1e-6)
    assert facts.resolution_j * 1000 % step_mj == pytest.approx(0, abs=1e-6)


def test_a_counter_that_stands_still_is_refused():
    gpu = Gpu(period_s=1e9)
    with pytest.raises(EnergyRefused, match="moved 0 times in 5 s"):
        counter_facts(gpu.read, gpu.clock, gpu.rest)


def test_a_counter_that_goes_back_while_it_is_looked_at_is_refused():
    values = iter([5, 6, 7, 3])
    with pytest.raises(EnergyRefused, match="went back"):
        counter_facts(lambda: next(values), lambda: 0.0, lambda seconds: None)


# -- windows ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.floats(0.02, 0.15), st.integers(1, 50), st.floats(0, 1), st.floats(0.001, 0.9), st.integers(0, 10**6))
def test_no_window_is_wrong_by_more_than_a_period_of_the_counter(period_s, step_mj, phase, pass_s, seed):
    gpu = Gpu(period_s, step_mj, phase, seed)
    windows = measured(gpu, EnergyProtocol(cycles=5), {1: gpu.work(pass_s, SINGLE_W)}, seed=seed)
    readings = gpu.truth[-2 * len(windows) :]
    for window, (began, before), (ended, after) in zip(windows, readings[::2], readings[1::2], strict=True):
        assert window.seconds == pytest.approx(ended - began)
        assert 5 - 1e-9 <= window.seconds <= 5 + max(2 * CHUNK_S, pass_s) * 1.03
        power = IDLE_W if window.kind == "idle" else SINGLE_W
        assert abs(window.joules - (after - before)) <= power * period_s + step_mj / 1000 + 1e-6


def test_windows_are_records_in_their_order():
    windows = measured(Gpu(), setting=3, process=2)
    assert [(window.cycle, window.classes) for window in windows] == order([1, 1024], 6)
    assert {(window.setting, window.process) for window in windows} == {(3, 2)}
    assert windows[0].offset_s == 0
    ends = [window.offset_s + window.seconds for window in windows]
    assert all(after.offset_s - end >= LEAD_IN_S - 1e-9 for end, after in zip(ends[:-1], windows[1:], strict=True))
    for window in windows:
        assert (window.kind == "idle") == (window.classes is None) == (window.images == 0)
        assert window.images % BATCH == 0
        assert window.marks == ()


def test_windows_do_not_begin_in_step_with_the_counter():
    gpu = Gpu(period_s=0.1, time_noise=0.0)
    measured(gpu, work={1: gpu.work(0.010, SINGLE_W)})
    begun = [moment % 0.1 for moment, _ in gpu.truth[-26::2]]
    assert max(begun) - min(begun) > 0.04


def test_the_same_seed_gives_the_same_windows():
    def without_date(windows):
        return [window.model_copy(update={"started": ""}) for window in windows]

    assert without_date(measured(Gpu(), seed=5)) == without_date(measured(Gpu(), seed=5))
    assert without_date(measured(Gpu(), seed=5)) != without_date(measured(Gpu(), seed=6))


def test_what_is_refused_is_refused_before_the_first_window():
    gpu = Gpu()
    gpu.refused = "shared by MIG"
    windows = []
    with pytest.raises(EnergyRefused, match="shared by MIG"):
        measured(gpu, emit=windows.append)
    assert windows == []


def test_kernels_that_run_while_this_process_rests_are_refused():
    gpu = Gpu()
    gpu.busy = lambda: 12
    with pytest.raises(EnergyRefused, match="kernels run on this GPU while this process rests"):
        measured(gpu)


def test_a_process_that_comes_in_between_marks_its_windows_and_they_are_kept():
    gpu = Gpu()
    gpu.processes = lambda: 1 if 40 < gpu.now < 47 else 0
    windows = measured(gpu)
    marked = [window for window in windows if window.marks]
    assert len(windows) == len(order([1, 1024], 6))
    assert {window.marks for window in marked} == {("other-process",)}
    assert {window.others for window in marked} == {1}
    assert 1 <= len(marked) <= 2
    assert all(window.joules is not None for window in windows)


def test_what_runs_during_a_rest_marks_it():
    gpu = Gpu()
    gpu.busy = lambda: 30 if gpu.now > 60 else 0
    for window in measured(gpu):
        late = window.kind == "idle" and window.offset_s > 60
        assert (window.marks == ("busy-at-rest",)) == late


def test_a_counter_that_begins_again_loses_one_window_and_no_more():
    gpu = Gpu()
    before = measured(gpu, work={1: gpu.work(SINGLE_S, SINGLE_W)})
    began = gpu.truth[-2 * len(before)][0]
    middle = began + before[3].offset_s + 2
    gpu = Gpu()
    work = gpu.work(SINGLE_S, SINGLE_W)

    def reset(passes):
        if gpu.now > middle and gpu.offset_mj == 0:
            gpu.offset_mj = -gpu.shown
        work(passes)

    windows = measured(gpu, work={1: reset})
    lost = [window for window in windows if window.joules is None]
    assert before[3].kind == "work"
    assert [(window.offset_s, window.marks) for window in lost] == [(before[3].offset_s, ("counter-went-back",))]
    assert rows(windows)[0].lost_windows == 1
    assert rows(windows)[0].gross_j.value == pytest.approx(SINGLE_W * SINGLE_S / BATCH, rel=0.01)


def test_a_counter_that_stops_says_so():
    gpu = Gpu()
    gpu.read_on = gpu.read
    gpu.read = lambda: gpu.read_on() if gpu.now < 30 else 9_999_999
    windows = measured(gpu)
    assert "counter-stood-still" in windows[-1].marks
    assert windows[-1].joules is None


def test_a_gpu_that_is_lost_ends_the_measurement_and_keeps_what_there_is():
    gpu = Gpu()
    gpu.read_on = gpu.read

    def read():
        if gpu.now > 40:
            raise EnergyRefused("NVML does not tell the energy: GPU is lost")
        return gpu.read_on()

    gpu.read = read
    windows = []
    with pytest.raises(EnergyRefused, match="GPU is lost"):
        measured(gpu, emit=windows.append)
    assert 3 <= len(windows) <= 6


def test_what_a_network_raises_is_passed_on():
    def fails(passes):
        raise RuntimeError("CUDA error: out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measured(Gpu(), work={1: fails})


@pytest.mark.parametrize(
    ("kind", "millijoules", "others", "utilisation", "expected"),
    [
        ("work", 5, (0, 0), None, ()),
        ("work", 5, (None, None), None, ()),
        ("work", 5, (None, 1), None, ("other-process",)),
        ("idle", 5, (1, 0), 3, ("other-process", "busy-at-rest")),
        ("work", 5, (0, 0), 99, ()),
        ("idle", 5, (0, 0), 0, ()),
        ("idle", 0, (0, 0), None, ("counter-stood-still",)),
        ("idle", -1, (0, 0), None, ("counter-went-back",)),
    ],
)
def test_marks(kind, millijoules, others, utilisation, expected):
    assert marks_of(kind, millijoules, others, utilisation) == expected


def test_work_goes_through_the_pool_and_waits_at_the_end():
    done = []

    class Forward:
        def load(self, minibatch):
            done.append(minibatch)

        def __call__(self):
            done.append("pass")

    work_of(Forward(), ["a", "b"], lambda: done.append("done"))(3)
    assert done == ["a", "pass", "b", "pass", "a", "pass", "done"]


# -- from the counter to joules ---------------------------------------------------------------------------------------


def test_joules_are_recovered_within_the_interval_as_often_as_it_says():
    """200 measurements of a board whose power is off by 1 % in a window; all that is known exactly is looked at."""
    truths = {
        "gross": SINGLE_W * SINGLE_S / BATCH,
        "net": (ALL_W - IDLE_W) * ALL_S / BATCH,
        "ratio": ALL_W * ALL_S / (SINGLE_W * SINGLE_S),
        "net_ratio": (ALL_W - IDLE_W) * ALL_S / ((SINGLE_W - IDLE_W) * SINGLE_S),
    }
    inside = dict.fromkeys(truths, 0)
    draws = random.Random(1)
    runs = 200
    for seed in range(runs):
        gpu = Gpu(draws.uniform(0.02, 0.12), draws.choice([1, 10, 37]), draws.random(), seed, power_noise=0.01)
        single, large = rows(measured(gpu, seed=seed))
        found = {"gross": single.gross_j, "net": large.net_j, "ratio": large.ratio, "net_ratio": large.net_ratio}
        for name, interval in found.items():
            inside[name] += interval.low <= truths[name] <= interval.high
    for name, covered in inside.items():
        assert covered / runs >= 0.93, name


def test_a_steady_drift_cancels_in_ratio_and_net():
    """The board draws 0.1 W more every second, at rest and at work: 13 W over the run, which nobody asked for."""
    gpu = Gpu(period_s=0.001, drift=0.1, time_noise=0.0)
    windows = measured(gpu)
    single, large = rows(windows)
    assert single.net_j.value == pytest.approx((SINGLE_W - IDLE_W) * SINGLE_S / BATCH, rel=0.002)
    assert large.net_j.value == pytest.approx((ALL_W - IDLE_W) * ALL_S / BATCH, rel=0.002)
    drifted = 0.1 * fmean(window.offset_s for window in windows)
    truth = (ALL_W + drifted) * ALL_S / ((SINGLE_W + drifted) * SINGLE_S)
    assert large.ratio.value == pytest.approx(truth, rel=0.001)
    rising_only = [window for window in windows if window.cycle % 2 == 0]
    assert abs(rows(rising_only)[1].ratio.value - truth) > 2 * abs(large.ratio.value - truth)


# -- on disk ----------------------------------------------------------------------------------------------------------


def test_windows_are_read_as_they_were_written(tmp_path):
    windows = measured(Gpu())
    lines = [window.model_dump_json(exclude_defaults=True) + "\n" for window in windows]
    (tmp_path / FILE).write_text("".join(lines))
    assert load_windows(tmp_path) == (windows, [])
    (tmp_path / FILE).write_text("".join(lines)[:-20])
    read, noticed = load_windows(tmp_path)
    assert read == windows[:-1]
    assert [notice.kind for notice in noticed] == ["torn-line"]


def test_a_run_without_energy_has_no_windows(tmp_path):
    assert load_windows(tmp_path) == ([], [])


def test_an_altered_window_is_named(tmp_path):
    (tmp_path / FILE).write_text('{"setting": 0}\n')
    with pytest.raises(UsageError, match=r"energy.jsonl, line 1: not a window of energy"):
        load_windows(tmp_path)


@pytest.mark.gpu
@pytest.mark.slow
def test_a_real_gpu_needs_more_energy_for_more_classes():
    torch = pytest.importorskip("torch")
    device = torch.device("cuda:0")
    minibatch = torch.randn(32, 4096, device=device)
    weights = {classes: torch.randn(classes, 4096, device=device) for classes in (1, 2**18)}

    class Forward:
        def __init__(self, weight):
            self.weight = weight

        def load(self, minibatch):
            self.minibatch = minibatch

        def __call__(self):
            return self.minibatch @ self.weight.T

    work = {
        classes: work_of(Forward(weight), [minibatch], lambda: torch.cuda.synchronize(device))
        for classes, weight in weights.items()
    }
    windows: list[Window] = []
    try:
        meter = EnergyMeter.open("cuda:0")
        facts = counter_facts(meter.read)
        measure_energy(meter, work, batch_size=32, setting=0, process=0, emit=windows.append)
    except EnergyRefused as refused:
        pytest.skip(str(refused))
    assert isinstance(facts, CounterFacts)
    assert 0.001 < facts.period_s < 1
    single, large = rows(windows)
    assert 5 < single.idle_w < 500
    assert large.gross_j.low > single.gross_j.high
    assert large.verdict in ("less", "disturbed")
