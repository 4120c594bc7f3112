import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from archs import registry
from archs.registry import PAPER, UnknownNetwork, expand, find, from_module, listing

MakeModule = Callable[[str, str], None]


@pytest.fixture
def make_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeModule:
    """Writes a module into the current folder, which is not on sys.path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def make(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return make


def refusal(name: str, input_size: int | None = None) -> str:
    with pytest.raises(UnknownNetwork) as caught:
        find(name, input_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_expand_splits_at_commas_and_knows_paper() -> None:
    assert expand(["resnet50, alexnet", "timm/resnet18"]) == ("resnet50", "alexnet", "timm/resnet18")
    assert expand(["paper"]) == PAPER
    assert expand(["vgg16,paper", "vgg16"]) == ("vgg16", "alexnet", "inception_v3", "resnet50", "resnet101")


@pytest.mark.parametrize("names", [[], [""], [" , ", ","]])
def test_expand_refuses_nothing(names: list[str]) -> None:
    with pytest.raises(UnknownNetwork, match="no network named"):
        expand(names)


@given(st.lists(st.sampled_from(["paper", *PAPER, "timm/x", "a.b:c"]), min_size=1))
def test_expand_is_the_same_for_lists_and_commas_and_keeps_no_duplicates(names: list[str]) -> None:
    expanded = expand(names)
    assert expanded == expand([",".join(names)]) == expand(expanded)
    assert len(set(expanded)) == len(expanded)
    assert "paper" not in expanded


def test_names_are_read_without_torch() -> None:
    code = "import sys; from archs.registry import expand; expand(['paper']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(registry.__file__).parents[1]).returncode == 0


@pytest.mark.parametrize("name", PAPER)
def test_papers_networks_have_the_papers_input(name: str) -> None:
    network = find(name)
    assert network.name == name
    assert network.input_shape == ((3, 299, 299) if name == "inception_v3" else (3, 224, 224))
    with torch.device("meta"):
        module = network.build()
        assert not any(part.training for part in module.modules())
        assert module(torch.empty(2, *network.input_shape)).shape == (2, 1000)


def test_every_image_classifier_of_torchvision_is_found() -> None:
    names = torchvision.models.list_models(module=torchvision.models)
    shapes = {name: find(f"torchvision/{name}").input_shape for name in names}
    assert len(shapes) >= 80
    assert all(shape[0] == 3 and shape[1] == shape[2] >= 128 for shape in shapes.values())
    assert shapes["inception_v3"] == (3, 299, 299)
    assert shapes["vit_h_14"] == (3, 518, 518)


@pytest.mark.parametrize("name", ["torchvision/vit_h_14", "torchvision/maxvit_t", "torchvision/googlenet"])
def test_torchvision_networks_take_their_own_size(name: str) -> None:
    network = find(name)
    with torch.device("meta"):
        assert network.build()(torch.empty(2, *network.input_shape)).shape == (2, 1000)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet50", 64), ("torchvision/vit_b_32", 64), ("timm/vit_tiny_patch16_224", 96)]
)
def test_input_size_replaces_height_and_width(name: str, size: int) -> None:
    network = find(name, size)
    assert network.input_shape == (3, size, size)
    with torch.device("meta"):
        assert network.build()(torch.empty(2, 3, size, size)).shape == (2, 1000)


def test_input_size_must_be_a_size() -> None:
    with pytest.raises(ValueError, match="input size 0"):
        find("resnet50", 0)


def test_timm_network_has_its_own_size() -> None:
    assert find("timm/resnet18").input_shape == (3, 224, 224)
    assert find("timm/efficientnet_b3.ra2_in1k").input_shape == (3, 288, 288)


def test_unknown_names_get_close_matches() -> None:
    assert "did you mean resnet50" in refusal("resnet5O")
    assert "did you mean torchvision/resnet18, timm/resnet18?" in refusal("resnet18")
    assert "timm/vit_tiny_patch16_224" in refusal("vit_tiny_patch16_224")
    assert "torchvision/resnet50" in refusal("torchvision/resnet5")
    assert "timm/resnet50" in refusal("timm/resnet_50")
    assert "package.module:factory" in refusal("qqqqqqqqqqqq")


def test_names_that_lead_elsewhere_are_refused() -> None:
    assert "no image classifier 'fcn_resnet50'" in refusal("torchvision/fcn_resnet50")
    assert "no network 'hf-hub:timm/resnet18'" in refusal("timm/hf-hub:timm/resnet18")
    assert "no_such_tag" in refusal("timm/resnet18.no_such_tag")
    assert "timm/" in refusal("timm/vit_tiny_patch16_224_in21k")  # a name that timm has given up


def test_factory_returns_a_module(make_module: MakeModule) -> None:
    make_module("plain_net", "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))")
    assert find("plain_net:make").input_shape == (3, 224, 224)
    network = find("plain_net:make", 2)
    assert network.input_shape == (3, 2, 2)
    module = network.build()
    assert not module.training
    assert module(torch.ones(2, 3, 2, 2)).shape == (2, 5)
    assert str(Path.cwd()) not in sys.path


def test_factory_returns_a_module_and_an_example(make_module: MakeModule) -> None:
    make_module("pair_net", "import torch\ndef make(): return torch.nn.Linear(9, 5), torch.zeros(4, 9)")
    network = find("pair_net:make")
    assert network.input_shape == (9,)
    assert isinstance(network.build(), nn.Linear)
    assert "no height and width" in refusal("pair_net:make", 32)


def test_factory_that_needs_real_tensors(make_module: MakeModule) -> None:
    make_module(
        "real_net", "import torch\ndef make(): return torch.nn.Linear(9, int(torch.tensor(5))), torch.zeros(4, 9)"
    )
    assert find("real_net:make").input_shape == (9,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "def make():\n    raise ValueError('first\\nsecond')",
            "factory 'bad_net:make' raised ValueError: first second",
        ),
        ("def make(): assert False", "factory 'bad_net:make' raised AssertionError"),
        ("def make(): return 3", "returned a int"),
        ("import torch\ndef make(): return torch.nn.Linear(2, 2), 3", "example input of factory 'bad_net:make' is int"),
        ("import torch\ndef make(): return torch.nn.Linear(2, 2), torch.ones(2)", r"of shape (2,)"),
        ("def made(): pass", "'make' in module 'bad_net' does not exist; did you mean made?"),
        ("make = 3", "'make' in module 'bad_net' cannot be called"),
        ("def make(:", "importing 'bad_net' raised SyntaxError"),
        ("import no_such_module_at_all", "importing 'bad_net' raised ModuleNotFoundError"),
    ],
)
def test_factory_that_fails_is_one_line(make_module: MakeModule, text: str, reason: str) -> None:
    make_module("bad_net", text)
    assert reason in refusal("bad_net:make")


def test_factory_that_is_not_there() -> None:
    assert "no module 'no_such_module'" in refusal("no_such_module.net:make")
    assert "package.module:factory" in refusal(":make")
    assert "package.module:factory" in refusal("module:")


def test_module_in_hand_is_copied_with_what_it_learnt() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    module(torch.randn(8, 4))
    network = from_module(module, [4])
    assert (network.name, network.input_shape, network.in_hand) == ("Sequential", (4,), True)
    with torch.device("meta"):
        built = network.build()
    assert module.training
    assert not built.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(built.state_dict()[name], tensor)
        assert built.state_dict()[name].data_ptr() != tensor.data_ptr()
    assert from_module(module, (4,), "mine").name == "mine"
    assert not find("resnet50").in_hand


@pytest.mark.parametrize("shape", [(), (3, 0)])
def test_module_in_hand_needs_a_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="without the batch axis"):
        from_module(nn.Linear(1, 1), shape)


def test_listing_holds_names_that_are_found() -> None:
    groups = listing()
    assert list(groups) == ["paper", "torchvision", "timm"]
    assert groups["paper"] == PAPER
    assert len(groups["timm"]) > 1000
    for name in (groups["torchvision"][0], groups["timm"][0], groups["timm"][-1]):
        assert find(name).name == name
