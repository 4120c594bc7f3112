import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from archs.registry import Network, UnknownNetwork, find, from_module
from archs.top_layer import ClassBank, TopLayer, UnsupportedNetwork, at_class_count, inspect, locate

FEATURES = 6
CLASSES = 5


class Then(nn.Module):
    """A linear layer, and what is done with its output."""

    def __init__(self, then: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.then = then

    def forward(self, x: torch.Tensor) -> object:
        return self.then(self.fc(x))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)
        self.head_dist = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = (self.head(x) + self.head_dist(x)) / 2
        return logits


class Tokens(nn.Module):
    """Applies its head to every token."""

    def __init__(self, pool: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.head(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(FEATURES, FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.fc(x))
        return logits


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class FixedView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(x).view(-1, CLASSES)
        return logits


class Reference(nn.Module):
    """Calls its head through a reference that is no submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.layers = [self.fc]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers[0](x)
        return logits


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Sequential(nn.Linear(4, FEATURES), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(FEATURES, CLASSES)),
    )


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_locate_finds_the_last_linear_layer(device: str) -> None:
    with torch.device(device):
        assert locate(small_cnn(), (3, 8, 8)) == TopLayer("5.3", FEATURES, CLASSES, bias=True)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("last", [nn.Identity(), nn.Dropout(0.5), nn.Flatten()])
def test_locate_looks_through_what_changes_nothing(device: str, last: nn.Module) -> None:
    with torch.device(device):
        module = nn.Sequential(nn.Linear(FEATURES, CLASSES, bias=False), last)
    assert locate(module, (FEATURES,)) == TopLayer("0", FEATURES, CLASSES, bias=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_locate_runs_in_the_modules_dtype(dtype: torch.dtype) -> None:
    assert locate(nn.Linear(FEATURES, CLASSES, dtype=dtype), (FEATURES,)) == TopLayer("", FEATURES, CLASSES, True)


def test_locate_leaves_everything_as_it_was() -> None:
    module = small_cnn()
    module[1].eval()
    modes = [part.training for part in module.modules()]
    state = {key: value.clone() for key, value in module.state_dict().items()}
    submodules = dict(module.named_modules())
    random = torch.get_rng_state()
    locate(module, (3, 8, 8))
    assert [part.training for part in module.modules()] == modes
    assert dict(module.named_modules()) == submodules
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(part._forward_hooks for part in module.modules())


REFUSED: list[tuple[Callable[[], nn.Module], tuple[int, ...], str]] = [
    (lambda: nn.Sequential(nn.Flatten()), (FEATURES,), "it has no linear layer"),
    (
        lambda: nn.Sequential(
            nn.Linear(FEATURES, 4), nn.ReLU(), nn.LayerNorm(4), nn.Unflatten(1, (2, 2)), nn.Flatten(1)
        ),
        (FEATURES,),
        "the output of its linear layer '0' is changed",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, CLASSES, 1), nn.Flatten()),
        (3, 8, 8),
        r"its output is made by a convolution \('2'\), not by a linear layer",
    ),
    (TwoHeads, (FEATURES,), r"2 linear layers \('head', 'head_dist'\) are combined"),
    (lambda: Tokens(lambda y: y.mean(1)), (3, FEATURES), "'head' is applied to every token"),
    (lambda: Tokens(lambda y: y[:, 0]), (3, FEATURES), "'head' is applied to every token"),
    (lambda: Tokens(lambda y: y), (3, FEATURES), r"shape \(2, 3, 5\) for 2 examples, not \(2, classes\)"),
    (lambda: Then(lambda y: (y, y)), (FEATURES,), "it returns a tuple"),
    (lambda: Then(lambda y: {"logits": y}), (FEATURES,), "it returns a dict"),
    (lambda: Then(lambda y: y * 2), (FEATURES,), "'fc' is changed before it is returned"),
    (lambda: Then(lambda y: y.mul_(2)), (FEATURES,), "'fc' is changed before it is returned"),
    (lambda: Then(lambda y: y.softmax(1)), (FEATURES,), "'fc' is changed before it is returned"),
    (lambda: Then(lambda y: y.squeeze()), (FEATURES,), r"with 1 instead of 5 classes .* returns \(2,\), not \(2, 1\)"),
    (lambda: Then(lambda y: y[:, :5]), (FEATURES,), r"with 12 instead of 5 .* returns \(2, 5\), not \(2, 12\)"),
    (lambda: Then(lambda y: y[0]), (FEATURES,), r"shape \(5,\)"),
    (Twice, (FEATURES,), "'fc' is applied 2 times"),
    (lambda: Scaled(FEATURES, CLASSES), (FEATURES,), "Scaled, which does more than a linear layer"),
    (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(FEATURES, CLASSES)),
        (FEATURES,),
        "does more than a linear layer",
    ),
    (FixedView, (FEATURES,), r"with 1 instead of 5 classes in its top layer 'fc', its forward .* raised RuntimeError"),
    (Reference, (FEATURES,), r"with 1 instead of 5 classes in its top layer 'fc' it returns \(2, 5\), not \(2, 1\)"),
    (
        lambda: nn.Sequential(nn.Linear(FEATURES, 4), nn.Softmax(0), nn.LayerNorm(4, bias=False)),
        (3,),
        "raised RuntimeError",
    ),
    (lambda: nn.GRU(FEATURES, CLASSES), (FEATURES,), "it returns a tuple"),
]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("make", "shape", "reason"), REFUSED)
def test_refusals_say_why(make: Callable[[], nn.Module], shape: tuple[int, ...], reason: str, device: str) -> None:
    with torch.device(device), pytest.raises(UnsupportedNetwork, match=reason) as caught:
        locate(make(), shape)
    assert "\n" not in str(caught.value)


def test_an_encoder_is_called_one() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(FEATURES, FEATURES)
            self.second = nn.Linear(FEATURES, FEATURES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.second(self.first(x))).mean(1)

    with pytest.raises(UnsupportedNetwork, match="may be an encoder without a classifier"):
        locate(Encoder(), (3, FEATURES))


def test_inspect_allocates_nothing_and_counts_the_backbone() -> None:
    facts = inspect(find("resnet50"))
    assert facts.top == TopLayer("fc", 2048, 1000, bias=True)
    # 25,557,032 parameters is torchvision's own count; the top layer has 2,048 x 1,000 + 1,000.
    assert facts.backbone_parameters == 25_557_032 - 2_049_000


@pytest.mark.parametrize(
    ("name", "path", "features"),
    [("alexnet", "classifier.6", 4096), ("vgg16", "classifier.6", 4096), ("inception_v3", "fc", 2048)],
)
def test_inspect_finds_the_papers_top_layers(name: str, path: str, features: int) -> None:
    assert inspect(find(name)).top == TopLayer(path, features, 1000, bias=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("torchvision/squeezenet1_0", "torchvision/squeezenet1_0: its output is made by a convolution"),
        ("timm/dla34", r"convolution \('fc'\)"),
        ("timm/deit_tiny_distilled_patch16_224", r"2 linear layers \('head', 'head_dist'\)"),
        ("timm/volo_d1_224", "are combined into the logits"),
        ("timm/resnet50_clip", "applied to every token"),
    ],
)
def test_inspect_names_the_network_it_refuses(name: str, reason: str) -> None:
    with pytest.raises(UnsupportedNetwork, match=f"^{re.escape(name)}: ") as caught:
        inspect(find(name))
    assert re.search(reason, str(caught.value))


def test_inspect_builds_for_real_what_meta_cannot() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(FEATURES, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.fc(x if float(x.sum()) != 0 else x + 1)
            return logits

    assert inspect(Network("forward", (FEATURES,), lambda: Counts().eval())).top.path == "fc"
    build: Callable[[], nn.Module] = lambda: nn.Linear(FEATURES, int(torch.tensor(5)))  # noqa: E731
    assert inspect(Network("build", (FEATURES,), build)).top.classes == 5


def test_inspect_takes_a_module_in_hand_where_it_is() -> None:
    module = small_cnn()
    facts = inspect(from_module(module, (3, 8, 8)))
    assert facts.top.path == "5.3"
    assert facts.backbone_parameters == (4 * 27 + 4) + 8 + (4 * 6 + 6)
    assert next(module.parameters()).device.type == "cpu"


def test_inspect_says_what_cannot_be_built() -> None:
    def build() -> nn.Module:
        raise MemoryError("too\nlarge")

    with pytest.raises(UnsupportedNetwork, match=r"^mine: it cannot be built: MemoryError: too large$"):
        inspect(Network("mine", (3,), build))
    with pytest.raises(UnsupportedNetwork, match=r"timm/vit_tiny_patch16_224: its forward .* AssertionError"):
        inspect(Network("timm/vit_tiny_patch16_224", (3, 100, 100), find("timm/vit_tiny_patch16_224").build))


def test_looking_at_large_inputs_on_meta_takes_no_memory() -> None:
    with torch.device("meta"):
        module = small_cnn()
    assert locate(module, (3, 2**20, 2**20)).path == "5.3"  # on the CPU two of them would be 26 TB


def test_inputs_that_cannot_be_made_are_one_line() -> None:
    network = Network("mine", (3, 2**31, 2**31), lambda: small_cnn().eval())
    with pytest.raises(UnsupportedNetwork, match=r"^mine: inputs of shape \(2, 3, 2147483648, 2147483648\)") as caught:
        inspect(network)
    assert "\n" not in str(caught.value)


def test_inspect_passes_on_what_a_factory_raised() -> None:
    def build() -> nn.Module:
        raise UnknownNetwork("factory 'a:b' raised ValueError: no")

    with pytest.raises(UnknownNetwork, match=r"^factory 'a:b' raised"):
        inspect(Network("a:b", (3,), build))


@given(rows=st.integers(1, 5000), features=st.integers(1, 9), data=st.data())
def test_layers_are_contiguous_views_of_one_bank(rows: int, features: int, data: st.DataObject) -> None:
    bank = ClassBank(features, rows)
    count = data.draw(st.integers(1, rows))
    layer = bank.layer(count)
    assert layer.weight.shape == (count, features)
    assert layer.weight.is_contiguous()
    assert layer.weight.data_ptr() == bank.weight.data_ptr()
    assert layer.bias.data_ptr() == bank.bias.data_ptr()  # type: ignore[union-attr]
    assert not layer.weight.requires_grad
    assert not layer.training
    assert torch.equal(layer.weight, bank.weight[:count])


@given(rows=st.integers(1, 5000))
def test_every_row_is_written(rows: int) -> None:
    bank = ClassBank(3, rows)
    repeated = bank.weight[torch.arange(rows) % 1024]
    assert torch.equal(bank.weight, repeated)
    assert (bank.weight != 0).all()
    assert bank.bias is not None
    assert (bank.bias != 0).all()


def test_bank_has_the_scale_of_a_linear_layer() -> None:
    weight = ClassBank(400, 3000).weight
    assert weight.std().item() == pytest.approx(1 / 20, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=0.001)


def test_bank_depends_on_its_seed_alone() -> None:
    assert torch.equal(ClassBank(4, 10).weight, ClassBank(4, 10).weight)
    assert not torch.equal(ClassBank(4, 10).weight, ClassBank(4, 10, seed=1).weight)
    assert torch.equal(ClassBank(4, 10, dtype=torch.float16).weight, ClassBank(4, 10).weight.half())


@pytest.mark.parametrize(("bias", "row"), [(True, 202), (False, 200)])
def test_bank_knows_its_bytes(bias: bool, row: int) -> None:
    bank = ClassBank(100, 7, bias=bias, dtype=torch.bfloat16, device="meta")
    assert bank.row_bytes == row
    assert bank.nbytes == 7 * row
    held = bank.weight.nbytes + (bank.bias.nbytes if bank.bias is not None else 0)
    assert held == bank.nbytes
    assert (bank.layer(3).bias is not None) == bias


@pytest.mark.parametrize("count", [0, -1, 11])
def test_bank_refuses_counts_it_does_not_hold(count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 10 classes, not {count}"):
        ClassBank(4, 10).layer(count)


@pytest.mark.parametrize(("features", "classes"), [(0, 1), (1, 0), (-1, 3)])
def test_empty_bank_is_refused(features: int, classes: int) -> None:
    with pytest.raises(ValueError, match="empty"):
        ClassBank(features, classes)


def test_single_logit_is_its_column_of_all_logits() -> None:
    module = small_cnn().double()
    module.eval()
    top = locate(module, (3, 8, 8))
    bank = ClassBank(top.features, 3000, dtype=torch.float64)
    inputs = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        logits = {count: at_class_count(module, top, bank.layer(count))(inputs) for count in (1, 2, 100, 3000)}
        features = module[:5](inputs)
        for part in list(module[5].children())[:3]:
            features = part(features)
    for count, values in logits.items():
        assert values.shape == (4, count)
        expected = features @ bank.weight[:count].T + bank.bias[:count]  # type: ignore[index]
        torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)


def test_networks_with_several_counts_exist_side_by_side() -> None:
    module = small_cnn()
    module.eval()
    own = module.get_submodule("5.3")
    before = dict(module.named_modules())
    top = locate(module, (3, 8, 8))
    bank = ClassBank(FEATURES, 9)
    one, nine = (at_class_count(module, top, bank.layer(count)) for count in (1, 9))
    inputs = torch.randn(2, 3, 8, 8)
    assert [tuple(network(inputs).shape) for network in (one, nine, module)] == [(2, 1), (2, 9), (2, CLASSES)]
    assert dict(module.named_modules()) == before
    assert module.get_submodule("5.3") is own
    shared = {id(parameter) for name, parameter in module.named_parameters() if not name.startswith("5.3.")}
    for network in (one, nine):
        assert {id(p) for n, p in network.named_parameters() if not n.startswith("5.3.")} == shared
        assert network.get_buffer("1.running_mean") is module.get_buffer("1.running_mean")


def test_each_count_can_be_compiled() -> None:
    module = nn.Sequential(nn.Linear(3, FEATURES), nn.ReLU(), nn.Linear(FEATURES, CLASSES)).eval()
    top = TopLayer("2", FEATURES, CLASSES, bias=True)
    bank = ClassBank(FEATURES, 9)
    inputs = torch.randn(2, 3)
    with torch.no_grad():
        for count in (1, 9):
            network = at_class_count(module, top, bank.layer(count))
            compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
            assert torch.equal(compiled(inputs), network(inputs))


def test_a_linear_layer_is_its_own_top_layer() -> None:
    module = nn.Linear(FEATURES, CLASSES)
    layer = ClassBank(FEATURES, 3).layer(2)
    assert at_class_count(module, TopLayer("", FEATURES, CLASSES, True), layer) is layer


def test_a_layer_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 6 features, not 7"):
        at_class_count(small_cnn(), TopLayer("5.3", FEATURES, CLASSES, True), ClassBank(7, 1).layer(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bank_is_the_same_on_a_gpu() -> None:
    assert torch.equal(ClassBank(16, 3000, device="cuda").weight.cpu(), ClassBank(16, 3000).weight)
