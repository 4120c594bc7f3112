"""On a network small enough to look into: convolution, batch norm, a linear top layer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs.registry import Network, from_module
from archs.rivals import RIVALS, make
from bench.speed.assembly import POOL, Assembly, build_backbone, input_pool, one_example, pool_size
from bench.speed.failures import status_of
from bench.speed.forwards import Eager
from bench.speed.settings import Dtype, Setting

SHAPE = (3, 8, 8)
SETTING = Setting(arch="small", input_shape=SHAPE, device="cpu", batch_size=4, threads=1)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(6, 10)

    def forward(self, minibatch: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(minibatch).flatten(1))
        return logits


NAMED = Network("small", SHAPE, lambda: Small().eval())


def change(**fields: object) -> Setting:
    return SETTING.model_copy(update=fields)


def assemble(setting: Setting = SETTING, classes: int = 50, network: Network = NAMED) -> Assembly:
    backbone, top = build_backbone(network, setting)
    return Assembly(backbone, top, setting, classes)


def logits(setting: Setting, classes: int = 50) -> Tensor:
    with torch.inference_mode():
        made: Tensor = assemble(setting).network(classes)(input_pool(setting, 1)[0])
    return made


@pytest.mark.parametrize(("minibatches", "expected"), [(1, 1), (POOL, POOL), (POOL + 1, POOL), (100, POOL)])
def test_the_pool_holds_no_more_than_the_run_needs(minibatches: int, expected: int) -> None:
    assert pool_size(minibatches) == expected


def test_inputs_are_noise_of_the_settings_shape_and_all_different() -> None:
    pool = input_pool(SETTING, 8)
    assert {tuple(minibatch.shape) for minibatch in pool} == {(4, *SHAPE)}
    together = torch.stack(pool)
    assert int((together == 0).sum()) == 0
    assert together.std().item() == pytest.approx(1, abs=0.05)
    assert len({minibatch.sum().item() for minibatch in pool}) == 8


@pytest.mark.parametrize("make", [lambda setting: input_pool(setting, 2)[1], logits])
def test_a_seed_decides_inputs_and_network(make: Callable[[Setting], Tensor]) -> None:
    torch.manual_seed(1)
    first = make(SETTING)
    torch.manual_seed(2)  # what the caller's generator does is of no effect
    assert torch.equal(make(SETTING), first)
    assert not torch.equal(make(change(seed=1)), first)


def test_building_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assemble()
    input_pool(SETTING, 1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_network_and_inputs_have_the_settings_dtype(dtype: Dtype) -> None:
    setting = change(dtype=dtype)
    network = assemble(setting).network(7)
    kinds = {tensor.dtype for tensor in [*network.parameters(), *input_pool(setting, 1)]}
    assert kinds == {getattr(torch, dtype)}
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_channels_last_reaches_weights_and_inputs() -> None:
    setting = change(channels_last=True)
    backbone, _ = build_backbone(NAMED, setting)
    for tensor in (backbone.get_parameter("body.0.weight"), input_pool(setting, 1)[0]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()
    assert torch.equal(input_pool(setting, 1)[0], input_pool(SETTING, 1)[0])


def test_every_class_count_shares_backbone_and_bank() -> None:
    assembly = assemble(classes=50)
    small, large = assembly.network(3), assembly.network(50)
    assert small.get_parameter("head.weight").shape == (3, 6)
    for name in ("head.weight", "head.bias", "body.0.weight", "body.1.bias"):
        assert small.get_parameter(name).data_ptr() == large.get_parameter(name).data_ptr()
    assert large.get_parameter("head.weight").data_ptr() == assembly.bank.weight.data_ptr()
    minibatch = input_pool(SETTING, 1)[0]
    torch.testing.assert_close(small(minibatch), large(minibatch)[:, :3])


@pytest.mark.parametrize("kind", RIVALS)
def test_a_rival_takes_the_top_layers_place_above_the_reference(kind: Any) -> None:
    """Its score is, by another way, that column of all its log-probabilities; the reference stays the full layer's."""
    assembly = assemble(change(top_layer=kind, subset=2), classes=50)
    minibatch = input_pool(SETTING, 1)[0]
    with torch.inference_mode():
        network, body = assembly.network(40), assembly.logits(1).get_submodule("body")
        rival = make(kind, 6, 40)
        expected = rival.log_prob(body(minibatch).flatten(1))[:, list(rival.typical(2))]
        torch.testing.assert_close(network(minibatch), expected)
        torch.testing.assert_close(assembly.network(2)(minibatch), assemble().network(2)(minibatch))
    assert network.get_submodule("body") is assembly.network(2).get_submodule("body"), "the backbone is one"
    assert assembly.unused_bytes(40) == assembly.bank.nbytes
    assert assembly.unused_bytes(2) == assembly.bank.nbytes - 2 * 7 * 4 + rival.parameter_bytes


def test_a_rival_in_the_place_of_what_is_no_linear_layer_is_unsupported() -> None:
    setting = change(top_layer="adaptive")
    backbone, top = build_backbone(NAMED, setting)
    assembly = Assembly(backbone, replace(top, plain=False), setting, 50)
    with pytest.raises(ValueError, match="no plain linear layer") as caught:
        assembly.network(40)
    assert status_of(caught.value) == "unsupported"


def test_normalised_scores_are_log_probabilities_of_the_classes_asked_for() -> None:
    assembly, minibatch = assemble(change(work="normalised", subset=3)), input_pool(SETTING, 1)[0]
    with torch.inference_mode():
        logits = assembly.logits(40)(minibatch)
        expected = logits.double().log_softmax(1)[:, :3]
        torch.testing.assert_close(assembly.network(40)(minibatch).double(), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(assembly.network(3)(minibatch), logits[:, :3])  # one logit needs no normaliser


@pytest.mark.parametrize("fields", [{"work": "normalised"}, {"top_layer": "hierarchical-huffman"}, {"subset": 5}])
def test_what_scores_must_be_finds_those_that_are_not(fields: dict[str, Any]) -> None:
    setting = change(**fields)
    assembly, minibatch = assemble(setting), input_pool(SETTING, 1)[0]

    class Off(Eager):
        def __call__(self) -> Tensor:
            return super().__call__() + 0.3

    with torch.inference_mode():
        reference = assembly.reference(40, minibatch)
        assert reference.disagreement(Eager(assembly.network(40)), setting) is None
        assert "differs from" in str(reference.disagreement(Off(assembly.network(40)), setting))


def test_end_to_end_inputs_stay_in_the_hosts_memory() -> None:
    setting = change(work="end-to-end", channels_last=True)
    assert {minibatch.device.type for minibatch in input_pool(setting, 2)} == {"cpu"}
    assert torch.equal(input_pool(setting, 1)[0], input_pool(SETTING, 1)[0])
    assert input_pool(setting, 1)[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
def test_end_to_end_inputs_are_pinned_for_a_gpu() -> None:
    setting = change(work="end-to-end", device="cuda:0")
    assert all(minibatch.is_pinned() for minibatch in input_pool(setting, 2))
    assert one_example(setting).is_cuda, "a look at the network is none of the passes"


def test_unused_bytes_are_the_rows_a_smaller_deployment_lacks() -> None:
    assembly = assemble(classes=50)
    assert assembly.unused_bytes(50) == 0
    assert assembly.unused_bytes(3) == 47 * (6 + 1) * 4  # six features and a bias, four bytes each
    assert assemble(change(dtype="bfloat16"), classes=50).unused_bytes(3) == 47 * (6 + 1) * 2


def test_batch_norm_of_a_named_network_normalises_its_own_activations() -> None:
    setting = change(batch_size=8)  # as many examples as are calibrated with: the pool's first minibatch is the same
    backbone, _ = build_backbone(NAMED, setting)
    with torch.inference_mode():
        normalised = backbone.get_submodule("body")[:2](input_pool(setting, 1)[0])  # type: ignore[index]
    torch.testing.assert_close(normalised.mean(dim=(0, 2, 3)), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std(dim=(0, 2, 3)), torch.ones(6), atol=1e-3, rtol=0)


def test_a_single_example_is_no_obstacle() -> None:
    assert torch.isfinite(logits(change(batch_size=1))).all()


def test_a_module_in_hand_keeps_its_statistics_and_stays_as_it_is() -> None:
    module = Small().train()
    norm = module.body[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean.fill_(0.25)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    backbone, _ = build_backbone(from_module(module, SHAPE), change(dtype="bfloat16", channels_last=True))
    assert backbone.get_buffer("body.1.running_mean").tolist() == [0.25] * 6
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(
        torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype
        for name, tensor in module.state_dict().items()
    )
