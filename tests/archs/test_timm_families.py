"""Which of timm's networks are supported: one of each family, on the meta device; some of them for real."""

import re
from collections import Counter

import pytest
import timm
import torch

from archs.batch_norm import calibrate
from archs.registry import find
from archs.top_layer import ClassBank, UnsupportedNetwork, at_class_count, inspect, locate

#: What a small network has in its name, smallest first.
SMALL = (
    *("test", "atto", "femto", "pico", "nano", "xxtiny", "xx_small", "lite_tiny", "tiny", "xxs", "xs", "mini"),
    *("18_small", "18", "small", "14", "26", "b0", "_050", "_s$", "_s_", "_m$"),
)

#: Every reason there is to refuse one of timm's networks.
KNOWN_REASONS = {
    "several heads": r"\d linear layers \(.*\) are combined into the logits",
    "convolution": r"its output is made by a convolution \(.*\), not by a linear layer",
}

#: sequencer's LSTMs are run step by step on the meta device.
SMALLER_INPUT = {"sequencer": 32}

RUN_FOR_REAL = (
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_mambaout",
    "test_nfnet",
    "test_resnet",
    "test_vit",
    "test_vit_relpos",
    "convit_tiny",
    "cpubone_nano",
    "cspnext_tiny",
    "deit_tiny_patch16_224",
    "edgenext_xx_small",
    "efficientvit_b0",
    "efficientvit_m0",
    "eva02_tiny_patch14_224",
    "ghostnet_050",
    "iformer_s",
    "inception_next_atto",
    "lcnetv2_small",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "pit_ti_224",
    "pvt_v2_b0",
    "regnetx_002",
    "repghostnet_050",
    "resnest14d",
    "rexnet_100",
    "shvit_s1",
    "skresnet18",
    "starnet_s1",
    "visformer_tiny",
    "ese_vovnet19b_slim",
    "xcit_nano_12_p8_224",
)


def smallest(family: str) -> str:
    """By its name: whichever of the family looks smallest."""

    def size(name: str) -> tuple[int, int, str]:
        hint = next((place for place, pattern in enumerate(SMALL) if re.search(pattern, name)), len(SMALL))
        return hint, len(name), name

    return min(timm.list_models(module=family), key=size)


def kind_of(reason: str) -> str:
    return next((kind for kind, pattern in KNOWN_REASONS.items() if re.search(pattern, reason)), reason)


def test_one_network_of_each_family() -> None:
    families = timm.list_modules()
    refused = {}
    for family in families:
        network = find(f"timm/{smallest(family)}", SMALLER_INPUT.get(family))
        try:
            facts = inspect(network)
        except UnsupportedNetwork as error:
            refused[family] = kind_of(str(error))
        else:
            assert facts.top.features >= 1
            assert facts.backbone_parameters > 0
    print(f"{len(families) - len(refused)} of {len(families)} timm families are supported; refused: {refused}")
    assert set(refused.values()) <= set(KNOWN_REASONS)
    assert len(families) - len(refused) >= 0.85 * len(families)
    # What was true of timm 1.0.31, of the families that any version at hand has.
    several = {"crossvit", "efficientformer", "efficientformer_v2", "efficientvim", "levit", "repvit", "swiftformer"}
    convolution = {"dla", "dpn", "resnetv2"}
    expected = dict.fromkeys({*several, "volo"}, "several heads") | dict.fromkeys(convolution, "convolution")
    assert refused.items() >= {family: kind for family, kind in expected.items() if family in families}.items()


@pytest.mark.slow
def test_small_networks_for_real() -> None:
    failures = Counter[str]()
    for name in RUN_FOR_REAL:
        torch.manual_seed(0)
        network = find(f"timm/{name}")
        module = network.build()
        inputs = torch.randn(2, *network.input_shape)
        calibrate(module, inputs)
        top = locate(module, network.input_shape)
        bank = ClassBank(top.features, 1000, bias=top.bias)
        with torch.inference_mode():
            one, all_logits = (at_class_count(module, top, bank.layer(count))(inputs) for count in (1, 1000))
        failures[f"{name}: shapes"] += one.shape != (2, 1) or all_logits.shape != (2, 1000)
        failures[f"{name}: not finite"] += not all_logits.isfinite().all()
        failures[f"{name}: single logit"] += not torch.allclose(one, all_logits[:, :1], rtol=1e-4, atol=1e-4)
    assert len(RUN_FOR_REAL) >= 30
    assert not +failures
