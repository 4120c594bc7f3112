"""The table of a run, worked by hand; the interval of a median by simulation."""

from collections.abc import Callable
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.deploy.records import Deployment, DeploymentManifest, DeploymentSetting, Memory, Sample, What
from bench.deploy.rows import complete, ended_complete, median_interval, notices, rows
from bench.machine.fingerprint import Machine

MakeRun = Callable[..., Deployment]


def test_the_ranks_of_known_numbers() -> None:
    """Six samples: 1 - 2/64 = 96.9 %. Nine: the second ones, 1 - 2 (1 + 9)/512 = 96.1 %. Five have none."""
    assert median_interval([5, 1, 4, 2, 3]) == (3, None, None)
    assert median_interval([6, 5, 1, 4, 2, 3]) == (3.5, 1, 6)
    assert median_interval([9, 8, 7, 6, 5, 1, 4, 2, 3]) == (5, 2, 8)
    with pytest.raises(ValueError, match="no median"):
        median_interval([])


@given(st.integers(6, 200))
def test_the_ranks_are_the_narrowest_that_cover(size: int) -> None:
    _, low, high = median_interval(list(range(1, size + 1)))
    assert low is not None
    assert high == size + 1 - low

    def outside(rank: int) -> float:
        return 2 * sum(comb(size, k) for k in range(rank)) / 2**size

    assert outside(int(low)) <= 0.05 < outside(int(low) + 1)


def test_the_interval_covers_as_often_as_promised() -> None:
    generator = np.random.default_rng(0)
    draws = generator.lognormal(0, 1, (4000, 20))  # its median is 1
    covered = [low <= 1 <= high for _, low, high in map(median_interval, draws.tolist())]  # type: ignore[operator]
    assert np.mean(covered) == pytest.approx(0.9586, abs=0.012)  # 6th lowest to 6th highest of 20


@pytest.fixture
def make_run() -> MakeRun:
    def make(
        samples: list[Sample],
        memory: tuple[Memory, ...] = (),
        device: str = "cpu",
        status: str = "complete",
        **fields: object,
    ) -> Deployment:
        manifest = DeploymentManifest(
            name="single-a",
            created="2026-01-02T03:04:05+00:00",
            setting=DeploymentSetting(
                arch="a",
                input_shape=(3, 8, 8),
                device=device,
                batch_size=4,
                threads=1,
                classes=1000,
                switches=2,
                minibatches=2,
            ),
            features=8,
            row_bytes=36,
            layer_bytes=36_000,
            backbone_bytes=500,
            machine=Machine(os="Linux", cpu="a", cores_physical=1, cores_logical=1, cores_usable=1, memory_bytes=2**30),
            versions={"torch": "2.11.0"},
            memory=memory,
            status=status,  # type: ignore[arg-type]
            **fields,  # type: ignore[arg-type]
        )
        return Deployment(manifest, tuple(samples))

    return make


def samples_of(what: What, *times: float, **fields: object) -> list[Sample]:
    return [Sample(what=what, number=number, wall_s=each, **fields) for number, each in enumerate(times)]  # type: ignore[arg-type]


def everything(cached: int | None = 0) -> list[Sample]:
    return [
        *samples_of("cold", 0.010, 0.030, cached_pages=cached, pages=1),
        *samples_of("warm", 0.001, 0.003),
        *samples_of("kept", 0.0001, 0.0001),
        *samples_of("one", 9.0, phase="warmup"),
        *samples_of("one", 0.4, 0.8),
        *samples_of("all", 4.0, 8.0),
    ]


MEMORY = (
    Memory(state="backbone", resident_bytes=10_000, mapped_bytes=1000),
    Memory(state="one", resident_bytes=10_040, mapped_bytes=1000),
    Memory(state="all", resident_bytes=46_100, mapped_bytes=1000),
)


def test_the_table_by_hand(make_run: MakeRun) -> None:
    table = {row.quantity: row for row in rows(make_run(everything(), MEMORY))}
    assert [row.unit for row in table.values()] == ["bytes"] * 3 + ["s"] * 5
    one_class, layer = table["memory that one class adds"], table["memory that the whole top layer adds"]
    assert (one_class.computed, one_class.measured) == (36, 40)
    assert (layer.computed, layer.measured) == (36_000, 36_060)
    assert table["memory of the backbone"].measured == 10_000
    assert table["switch to a class on disk"].measured == pytest.approx(0.020)
    assert table["switch to a class on disk"].remark == "2 of 2 rows were out of the page cache"
    assert table["switch to a class in the page cache"].measured == pytest.approx(0.002)
    assert table["one image, one logit"].measured == pytest.approx(0.15), "without the warm-up, for one of 4 images"
    assert table["one image, all logits"].measured == pytest.approx(1.5)
    assert table["one image, all logits"].low is None, "two samples have no interval"


def test_on_a_gpu_memory_is_the_devices(make_run: MakeRun) -> None:
    memory = tuple(each.model_copy(update={"device_bytes": each.resident_bytes * 2}) for each in MEMORY)
    table = rows(make_run(everything(), memory, device="cuda:0"))
    assert [row.measured for row in table[:3]] == [20_000, 80, 72_120]
    assert table[1].remark == "on the device"


def test_a_whole_run_is_complete_and_warns_of_nothing(make_run: MakeRun) -> None:
    run = make_run(everything(), MEMORY)
    assert complete(run)
    assert ended_complete(run)
    assert notices(run) == []


@pytest.mark.parametrize("cached", [1, None])
def test_what_was_not_cold_is_said(make_run: MakeRun, cached: int | None) -> None:
    run = make_run(everything(cached), MEMORY, status="incomplete")
    assert not complete(run)
    (notice,) = notices(run)
    assert notice.happened.startswith("2 of 2 cold switches found their row")
    assert rows(run)[3].remark == "0 of 2 rows were out of the page cache"


def test_all_logits_that_did_not_fit_are_said(make_run: MakeRun) -> None:
    run = make_run(
        [each for each in everything() if each.what != "all"], MEMORY[:2], "cpu", "incomplete", all_refused="needs 6 GB"
    )
    assert not complete(run)
    assert [each.kind for each in notices(run)] == ["all-not-measured"]
    table = rows(run)
    assert (table[2].measured, table[2].remark) == (None, "needs 6 GB")
    assert (table[-1].measured, table[-1].samples, table[-1].remark) == (None, 0, "needs 6 GB")


@pytest.mark.parametrize(
    ("status", "happened"),
    [
        ("running", "the run has not ended: it is being measured now, or its process was killed"),
        ("interrupted", "the run was interrupted"),
        ("incomplete", "the run stopped early"),
        ("complete", "the run says that it is complete, and it is not"),
    ],
)
def test_a_run_cut_off_says_what_is_missing_and_to_run_it_again(make_run: MakeRun, status: str, happened: str) -> None:
    run = make_run([each for each in everything()[:-1] if each.what != "kept"], MEMORY, status=status)
    assert not complete(run)
    assert not ended_complete(run)
    (notice,) = notices(run)
    assert (notice.kind, notice.happened.startswith(happened)) == ("incomplete", True)
    assert notice.happened.endswith(
        "there are 0 of 2 samples of 'switch to a class kept on the device', 1 of 2 samples of 'one image, all logits'"
    )
    assert "run the command again" in notice.remedy
    assert ("leaves its top layer, 0.00 GB" in notice.remedy) == (status == "running")


def test_a_killed_run_that_had_taken_its_last_sample_is_not_complete(make_run: MakeRun) -> None:
    run = make_run(everything(), MEMORY, status="running")
    assert complete(run)
    assert not ended_complete(run)
    assert [each.kind for each in notices(run)] == ["incomplete"]


def test_a_run_without_samples_has_its_table(make_run: MakeRun) -> None:
    assert len(rows(make_run([]))) == 8
