"""Whole trainings by several ranks: they end as one process's, they can be cut off, and what they leave can be used."""

import os
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from archs import SingleLogit
from archs.registry import from_module
from bench.accuracy.checkpoints import CheckpointFolder
from bench.accuracy.models import model_of, sharded_model_of, top_path
from bench.accuracy.ranks import ALONE, ShardedCheckpoints, shares
from bench.accuracy.training import _digest, train
from bench.errors import UsageError

PROGRAMS = Path(__file__).with_name("training_programs.py")
P = runpy.run_path(str(PROGRAMS))
FACTS = P["toy"]().facts

#: Of weights after 12 steps in float32, whose sums come in another order.
CLOSE = {"bfloat16": 2e-2}


def files_of(case: str) -> str:
    member = P["work"](case, 1).members[0]
    return str(member.name)


def network_of(case: str, size: int, path: Path) -> nn.Module:
    asked = P["work"](case, size)
    return model_of(asked.members[0], asked.recipe, FACTS, path / case)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("one")
    return path, P["all_cases"](ALONE, str(path))


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)], ids=["2 ranks", "3 ranks"])
def several(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, as_processes: Callable[..., list[Any]]
) -> tuple[int, Path, list[dict[str, Any]]]:
    path = tmp_path_factory.mktemp("several")
    found = as_processes(request.param, "all_cases", path / "said", programs=PROGRAMS, path=str(path))
    assert all(isinstance(each, dict) and "error" not in each for each in found), found
    return request.param, path, found


Several = tuple[int, Path, list[dict[str, Any]]]
One = tuple[Path, dict[str, Any]]


@pytest.mark.parametrize("case", P["CASES"])
def test_ranks_end_with_the_weights_of_one_process(case: str, one: One, several: Several) -> None:
    size, path, _ = several
    wanted, found = network_of(case, 1, one[0]).state_dict(), network_of(case, size, path).state_dict()
    assert list(found) == list(wanted)
    exact = CLOSE.get(case, 2e-5)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=exact, atol=exact)


@pytest.mark.parametrize("case", P["CASES"])
def test_the_curve_is_that_of_one_process(case: str, one: One, several: Several) -> None:
    (record, expected) = (each[case]["record"] for each in (several[2][0], one[1]))
    assert record["status"] == "ok"
    exact = CLOSE.get(case, 1e-4)
    for point, wanted in zip(record["curve"], expected["curve"], strict=True):
        assert point["step"] == wanted["step"]
        for name in ("training_loss", "validation_loss"):
            assert point[name] == pytest.approx(wanted[name], rel=exact)
        assert point["validation_accuracy"] == pytest.approx(wanted["validation_accuracy"], abs=0.04)


@pytest.mark.parametrize("case", P["CASES"])
def test_all_ranks_tell_the_same(case: str, several: Several) -> None:
    """Times too: there is one clock."""
    for each in several[2]:
        assert each[case]["told"] == several[2][0][case]["told"]


@pytest.mark.parametrize("case", ["dense", "split, in place"])
def test_what_diverges_on_one_rank_has_diverged_on_all(case: str, one: One, several: Several) -> None:
    ends = [("split, in place ends not finite", (1,))] if case.startswith("split") else []
    for name, steps in ((f"{case} diverges", range(2, 6)), *ends):
        expected = one[1][name]["record"]["diverged_at"]
        assert expected in steps
        for outcome in (one[1], *several[2]):
            record = outcome[name]["record"]
            assert (record["status"], record["diverged_at"]) == ("diverged", expected), record
    assert not (several[1] / "diverging").exists() or not os.listdir(several[1] / "diverging")


def test_ranks_whose_weights_drift_apart_are_refused(several: Several) -> None:
    line = "after step 1 1.weight is not the same on ranks 0 and {}: .* machines of one kind"
    assert all(re.match(line.format(several[0] - 1), outcome["drift"]) for outcome in several[2])


def test_what_is_left_on_disk(several: Several) -> None:
    """Weights in one file, or a folder of shards; no checkpoint."""
    size, path, _ = several
    assert os.listdir(path / "dense") == [f"{files_of('dense')}.safetensors"]
    assert os.listdir(path / "split, in place") == [f"{files_of('split, in place')}.sharded"]
    held = sorted(os.listdir(path / "split, in place" / f"{files_of('split, in place')}.sharded"))
    shards = [f"top-layer-{number:05d}-of-{size:05d}.safetensors" for number in range(1, size + 1)]
    assert held == [*shards, "top-layer.safetensors.index.json", "weights.safetensors"]


def test_single_logit_opens_what_a_training_left(several: Several) -> None:
    size, path, _ = several
    case = "split, chunked"
    network = network_of(case, size, path)
    index = path / case / f"{files_of(case)}.sharded" / "top-layer.safetensors.index.json"
    images = P["toy"]().test.images(torch.arange(5))
    with SingleLogit.from_checkpoint(index, arch=from_module(network_of(case, size, path), (1, 4, 4))) as query:
        for asked in (0, 5, 10):
            torch.testing.assert_close(query(images, asked), network(images)[:, asked].detach())


@pytest.mark.parametrize("case", ["dense", "split, chunked"])
@pytest.mark.parametrize("readers", [1, 2, 4])
def test_any_number_of_ranks_opens_the_network(
    case: str, readers: int, several: Several, as_threads: Callable[..., list[Any]]
) -> None:
    size, path, _ = several
    asked = P["work"](case, size)
    expected = network_of(case, size, path)
    top = expected.get_submodule(top_path(asked.recipe, FACTS))
    images = P["toy"]().test.images(torch.arange(5))
    work = lambda ranks: sharded_model_of(asked.members[0], asked.recipe, FACTS, path / case, ranks)  # noqa: E731
    found = as_threads(readers, work)
    assert torch.equal(torch.cat([each[1] for each in found]), top.weight)
    assert torch.equal(torch.cat([each[2] for each in found]), top.bias)
    assert [each[3] for each in found] == [own.start for own in shares(11, readers)]
    for backbone, weight, bias, first in found:
        logits = backbone(images) @ weight.t() + bias
        torch.testing.assert_close(logits, expected(images)[:, first : first + len(weight)])
        assert not backbone.training


# --- cut off


@pytest.fixture(scope="module")
def gone_on(
    tmp_path_factory: pytest.TempPathFactory, as_processes: Callable[..., list[Any]]
) -> tuple[Path, list[dict[str, Any]]]:
    """Each case cut off by the death of a rank, then carried on; and unbroken. Two ranks."""
    path = tmp_path_factory.mktemp("cut")
    for number, case in enumerate(P["CUT_OFF"]):
        who = number % 2
        arguments = {"path": str(path / "cut" / case), "case": case, "who": who, "at": 6}
        found = as_processes(2, "cut_off", path / f"said-{number}", programs=PROGRAMS, **arguments)
        assert found[who] == -9
        assert found[1 - who]["error"] == "RankLost"
        assert sorted(os.listdir(path / "cut" / case / files_of(case))) == ["step-000000004", "step-000000006"]
        keep_second_step_of(path, case)
    arguments = {"through": str(path / "through"), "cut": str(path / "cut")}
    return path, as_processes(2, "through_and_on", path / "said", programs=PROGRAMS, **arguments)


def keep_second_step_of(path: Path, case: str) -> None:
    """The names of what a checkpoint holds, for the test that asks."""
    folder = path / "cut" / case / files_of(case) / "step-000000006"
    (path / f"{case}.txt").write_text("\n".join(sorted(os.listdir(folder))))


@pytest.mark.parametrize("case", P["CUT_OFF"])
def test_a_training_goes_on_after_a_rank_was_killed_and_ends_bit_for_bit(case: str, gone_on: Any) -> None:
    """Dropout included, whose masks each rank draws for itself."""
    path, found = gone_on
    assert all("error" not in each for each in found), found
    for outcome in found:
        whole, rest = (outcome[case][name]["record"] for name in ("whole", "rest"))
        for record in (whole, rest):
            for point in (record, *record["curve"]):
                point.pop("seconds")
            record.pop("examples_per_s")
        assert rest == whole
    cut, through = (sorted((path / name / case).rglob("*.safetensors")) for name in ("cut", "through"))
    for part, other in zip(cut, through, strict=True):
        one, same = load_file(part), load_file(other)
        assert part.name == other.name
        assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert len(os.listdir(path / "cut" / case)) == 1, "no checkpoint is left"


def test_each_rank_draws_its_own_dropout(gone_on: Any) -> None:
    masks = gone_on[1][0]["dense"]["masks"]
    assert len(set(masks)) == 2


def test_what_a_checkpoint_holds(gone_on: Any) -> None:
    path, _ = gone_on
    usual = ["checkpoint.json", "state.pt", "weights.safetensors"]
    shards = [f"top-layer-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert (path / "dense.txt").read_text().split("\n") == usual
    assert (path / "split, in place.txt").read_text().split("\n") == sorted(
        [*usual, *shards, "top-layer.safetensors.index.json"]
    )
    states = [name.replace("safetensors", "pt") for name in shards]
    assert set(states) <= set((path / "split, chunked.txt").read_text().split("\n"))


# --- other numbers of ranks


def test_members_and_data_that_ranks_cannot_take_are_refused() -> None:
    class Twelve:
        rank, size = 0, 12

    asked = P["work"]("split, in place", 12)
    with pytest.raises(UsageError, match="11 classes over 12 ranks: each rank needs one"):
        train(asked, P["toy"](), lambda event: None, checkpoints=None, ranks=Twelve())  # type: ignore[arg-type]
    rival = asked.members[0].model_copy(update={"loss": "adaptive"})
    setting = asked.losses[0].model_copy(update={"key": "adaptive"})
    two = asked.model_copy(update={"members": (rival,), "losses": (setting,)})
    with pytest.raises(UsageError, match="a top layer of adaptive cannot be split"):
        train(two, P["toy"](), lambda event: None, checkpoints=None, ranks=Twelve())  # type: ignore[arg-type]
    seeds = tuple(asked.members[0].model_copy(update={"seed": seed}) for seed in (0, 1))
    stacked = P["work"]("dense", 2).model_copy(update={"members": seeds})
    with pytest.raises(UsageError, match="over several ranks cannot be stacked"):
        train(stacked, P["toy"](), lambda event: None, checkpoints=None, ranks=Twelve())  # type: ignore[arg-type]


def test_the_optimisers_state_of_a_split_layer_is_that_of_as_many_ranks(
    tmp_path: Path, as_threads: Callable[..., list[Any]]
) -> None:
    """The library gives the rows to any number of ranks, and what a rank alone had to as many as wrote it."""

    def saved(ranks: Any) -> None:
        held = layer_of(ranks)
        own = {"step": 4, "rank": torch.tensor(ranks.rank)}
        ShardedCheckpoints(CheckpointFolder(tmp_path, "it"), ranks).save(4, {}, {"step": 4}, held, own)

    def layer_of(ranks: Any) -> Any:
        from bench.accuracy.chunked import form_of
        from bench.accuracy.losses import configured
        from bench.accuracy.ranks import ShardedTopLayer

        own = shares(11, ranks.size)[ranks.rank]
        rows: Tensor = torch.arange(11 * 3.0).view(11, 3)[own].clone()
        return ShardedTopLayer(rows, None, form_of(configured("ce", classes=11), 11), ranks)

    def read(ranks: Any) -> Any:
        return ShardedCheckpoints(CheckpointFolder(tmp_path, "it"), ranks).newest(11)

    assert as_threads(2, saved) == [None, None]
    assert [int(each.own["rank"]) for each in as_threads(2, read)] == [0, 1]
    assert [each.own for each in as_threads(3, read)] == [None] * 3
    (tmp_path / "step-000000004" / "top-layer-00002-of-00002.pt").write_bytes(b"half")
    found = as_threads(2, read)
    assert [type(each) for each in found] == [UsageError] * 2
    assert "rank 1: " in str(found[0])
    assert "top-layer-00002-of-00002.pt was cut short or altered" in str(found[0])


def test_the_number_of_ranks_is_part_of_what_decides() -> None:
    """Sums in another order end otherwise in the last bit, so that a checkpoint of theirs is another work's."""
    assert len({_digest(P["work"]("dense", size), FACTS) for size in (1, 2, 3)}) == 3
