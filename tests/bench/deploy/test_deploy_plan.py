"""What a request means, and what it must not say."""

import pytest
import torch
from torch import nn

from archs.registry import from_module
from bench.deploy.plan import DeploymentRequest, plan, speed_setting
from bench.errors import UsageError

NETWORK = from_module(nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4)), (3, 2, 2), "a")


def test_defaults_are_filled_in() -> None:
    planned = plan(DeploymentRequest(arch=NETWORK, device="cpu"))
    setting = planned.setting
    assert (setting.arch, setting.classes, setting.batch_size, setting.device) == ("a", 370_727, 32, "cpu")
    assert setting.threads == torch.get_num_threads()
    assert (planned.facts.top.features, planned.facts.backbone_parameters) == (6, 12 * 6 + 6)
    assert speed_setting(setting).input_shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"classes": "1"}, "--classes 1: with one class there is none to switch to"),
        ({"classes": "many"}, "'many' is not a class count"),
        ({"batch_size": 0}, "--batch-size 0: must be 1 or more"),
        ({"switches": 0}, "--switches 0"),
        ({"minibatches": -1}, "--minibatches -1"),
        ({"threads": 0}, "--threads 0"),
        ({"threads": 10**6}, "--threads 1000000: must be 4096 or less"),
        ({"seed": -1}, "--seed -1"),
        ({"dtype": "int8"}, "--dtype 'int8': must be one of float32"),
        ({"input_size": 0}, "--input-size 0"),
        ({"arch": "alexnett"}, "'alexnett' is not a network"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"arch": from_module(nn.Flatten(), (3, 2, 2), "b")}, "b: "),
    ],
)
def test_contradictions_are_refused(asked: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        plan(DeploymentRequest(**{"arch": NETWORK, "device": "cpu", **asked}))  # type: ignore[arg-type]
