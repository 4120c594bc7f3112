from collections.abc import Callable

import pytest
import torch
from torch import nn

from archs.heads import Head, TopLayer, UnsupportedNetwork
from archs.registry import Network, UnknownNetwork, find, from_module
from archs.top_layer import inspect, locate

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
    def __init__(
        self,
        then: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda a, b: (a + b) / 2,
        second: int = CLASSES,
    ) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)
        self.head_dist = nn.Linear(FEATURES, second)
        self.then = then

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.then(self.head(x), self.head_dist(x))


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


class Shared(nn.Module):
    """One head for two views of an example."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(x[:, 0]) + self.fc(x[:, 1])
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


def conv_head(*after: nn.Module, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution at 6 x 6 positions (after one of 3 x 3 on 8 x 8 pixels), and what is done with its output."""
    return nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.Conv2d(CLASSES, CLASSES, kernel, groups=groups), *after)


def pooled() -> tuple[nn.Module, nn.Module]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten()


SUPPORTED: list[tuple[Callable[[], nn.Module], tuple[int, ...], TopLayer]] = [
    (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), *pooled(), nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 9, 1, bias=False)
        ).append(nn.Flatten()),
        (3, 8, 8),
        TopLayer("4", 4, 9, bias=False, plain=False),
    ),
    (lambda: conv_head(*pooled()), (3, 8, 8), TopLayer("1", 5, 5, True, positions=36, plain=False)),
    (lambda: conv_head(nn.ReLU(True), *pooled()), (3, 8, 8), TopLayer("1", 5, 5, True, positions=36, plain=False)),
    (lambda: conv_head(nn.Flatten(), kernel=6), (3, 8, 8), TopLayer("1", 5 * 36, 5, True, plain=False)),
    (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 1), nn.AdaptiveMaxPool1d(1), nn.Flatten()),
        (2, 7),
        TopLayer("0", 2, 3, True, positions=7, plain=False),
    ),
    (TwoHeads, (FEATURES,), TopLayer("head", 12, 5, True, further=(Head("head_dist", 6),), plain=False)),
    (
        lambda: TwoHeads(then=lambda a, b: torch.stack([a, b]).mean(0)),
        (FEATURES,),
        TopLayer("head", 12, 5, True, further=(Head("head_dist", 6),), plain=False),
    ),
    (
        lambda: TwoHeads(then=lambda a, b: a[:, 0] + b.amax(1) / 2),
        (3, FEATURES),
        TopLayer("head", 12, 5, True, 3, further=(Head("head_dist", 6, 3),), plain=False),
    ),
    (lambda: Tokens(lambda y: y.mean(1)), (3, FEATURES), TopLayer("head", 6, 5, True, positions=3, plain=False)),
    (lambda: Tokens(lambda y: y.max(1)[0]), (3, FEATURES), TopLayer("head", 6, 5, True, positions=3, plain=False)),
    (lambda: Tokens(lambda y: y[:, 0]), (3, FEATURES), TopLayer("head", 6, 5, True, positions=3, plain=False)),
    (lambda: Then(lambda y: y * 2), (FEATURES,), TopLayer("fc", 6, 5, True, plain=False)),
    (lambda: Then(lambda y: y.mul_(2)), (FEATURES,), TopLayer("fc", 6, 5, True, plain=False)),
    (Shared, (2, FEATURES), TopLayer("fc", 6, 5, True, positions=2, plain=False)),
]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("make", "shape", "top"), SUPPORTED)
def test_heads_of_other_forms_are_found(
    make: Callable[[], nn.Module], shape: tuple[int, ...], top: TopLayer, device: str
) -> None:
    with torch.device(device):
        assert locate(make(), shape) == top


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [TwoHeads, lambda: Then(lambda y: y * 2)])
def test_heads_are_found_in_any_dtype(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    assert not locate(make().to(dtype), (FEATURES,)).plain


REFUSED: list[tuple[Callable[[], nn.Module], tuple[int, ...], str]] = [
    (lambda: nn.Sequential(nn.Flatten()), (FEATURES,), "it has no linear layer"),
    (
        lambda: nn.Sequential(
            nn.Linear(FEATURES, 4), nn.ReLU(), nn.LayerNorm(4), nn.Unflatten(1, (2, 2)), nn.Flatten(1)
        ),
        (FEATURES,),
        "the output of its linear layer '0' is changed .*: one score depends on several rows",
    ),
    (
        lambda: Tokens(lambda y: y),
        (3, FEATURES),
        r"shape \(2, 3, 5\) for 2 examples, not \(2, classes\); .* an encoder",
    ),
    (lambda: Tokens(lambda y: y.mean(2)), (5, FEATURES), "'head' is changed before .*depends on several rows"),
    (lambda: Then(lambda y: (y, y)), (FEATURES,), "it returns a tuple"),
    (lambda: Then(lambda y: {"logits": y}), (FEATURES,), "it returns a dict"),
    (lambda: Then(lambda y: y.softmax(1)), (FEATURES,), "'fc' is changed before .*depends on several rows"),
    (lambda: Then(lambda y: y - y.mean(1, True)), (FEATURES,), "'fc' is changed before .*depends on several rows"),
    (lambda: Then(lambda y: y.flip(1)), (FEATURES,), "'fc' is changed before .*depends on several rows"),
    (lambda: Then(lambda y: y * 0), (FEATURES,), "the output of its top layer 'fc' makes no difference to it"),
    (lambda: Then(torch.relu), (FEATURES,), "'fc' is changed before it is returned; it may be an encoder"),
    (lambda: Then(torch.sigmoid), (FEATURES,), "'fc' is changed before it is returned; it may be an encoder"),
    (lambda: Then(torch.abs), (FEATURES,), "'fc' is changed before it is returned; it may be an encoder"),
    (lambda: Tokens(lambda y: nn.functional.gelu(y).mean(1)), (99, FEATURES), "it may be an encoder"),
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
    # Two heads that cannot be combined: one without a row a class; one score of a row of each class.
    (
        lambda: TwoHeads(second=1),
        (FEATURES,),
        r"made by 'head' \(5 outputs\) together with 'head_dist' \(1 outputs\), which has no row for each class",
    ),
    (
        lambda: TwoHeads(then=lambda a, b: a * b.softmax(1)),
        (FEATURES,),
        r"2 layers \('head', 'head_dist'\) are combined so that one score depends on several rows of one",
    ),
    (lambda: TwoHeads(then=torch.mul), (FEATURES,), "'head' is changed before it is returned"),
    # Convolutions that are no heads.
    (lambda: conv_head(*pooled(), kernel=3), (3, 8, 8), "'1' is a convolution of 3 x 3 at 16 positions; .* an encoder"),
    (lambda: conv_head(*pooled(), groups=5), (3, 8, 8), "'1' is a convolution in 5 groups"),
    (lambda: conv_head(nn.Flatten()), (3, 8, 8), "no linear layer makes its output"),
    (lambda: conv_head(nn.Softmax(1), *pooled()), (3, 8, 8), "its convolution '1' is changed before .*several rows"),
    (
        lambda: conv_head(nn.BatchNorm2d(CLASSES), nn.ReLU(), *pooled()),
        (3, 8, 8),
        "with 1 instead of 5 classes in its top layer '1', .*; it may be an encoder without a classifier",
    ),
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
    ("name", "top"),
    [
        ("torchvision/squeezenet1_0", TopLayer("classifier.1", 512, 1000, True, positions=169, plain=False)),
        ("timm/dla34", TopLayer("fc", 512, 1000, True, plain=False)),
        (
            "timm/deit_tiny_distilled_patch16_224",
            TopLayer("head", 384, 1000, True, further=(Head("head_dist", 192),), plain=False),
        ),
        (
            "timm/crossvit_tiny_240",
            TopLayer("head.0", 288, 1000, True, further=(Head("head.1", 192),), plain=False),
        ),
        (
            "timm/volo_d1_224",
            TopLayer("head", 768, 1000, True, further=(Head("aux_head", 384, positions=196),), plain=False),
        ),
        ("torchvision/regnet_x_400mf", TopLayer("fc", 400, 1000, True)),
    ],
)
def test_inspect_finds_heads_of_other_forms(name: str, top: TopLayer) -> None:
    assert inspect(find(name)).top == top


def test_inspect_names_the_network_it_refuses() -> None:
    with pytest.raises(UnsupportedNetwork, match=r"^mine: it returns a tuple"):
        inspect(Network("mine", (FEATURES,), lambda: Then(lambda y: (y, y)).eval()))


def test_every_head_is_left_out_of_the_backbone() -> None:
    # SqueezeNet 1.0 has 1,248,424 parameters by torchvision's own count; the top layer 512 x 1,000 + 1,000 of them.
    assert inspect(find("torchvision/squeezenet1_0")).backbone_parameters == 1_248_424 - 513_000
    module = nn.Sequential(nn.Linear(2, FEATURES), TwoHeads())
    assert inspect(from_module(module, (2,))).backbone_parameters == 2 * FEATURES + FEATURES


def test_a_network_that_reads_values_while_it_is_built_allocates_no_parameters() -> None:
    places: list[str] = []

    def build() -> nn.Module:
        module = nn.Linear(FEATURES, int(torch.tensor(CLASSES)))
        module.again = nn.Linear(FEATURES, CLASSES)  # type: ignore[assignment]
        module.again.weight = module.weight
        places.append(module.weight.device.type)
        assert module.again.weight is module.weight
        return module

    assert inspect(Network("mine", (FEATURES,), build)).top.classes == CLASSES
    assert places == ["meta"]
    assert nn.Linear(1, 1).weight.device.type == "cpu"  # the hook is gone


def test_numbers_too_many_to_follow_are_one_line() -> None:
    with torch.device("meta"):
        module = conv_head(*pooled())
    with pytest.raises(UnsupportedNetwork, match=r"'1' gives 10,\d{3},.* use a smaller input$"):
        locate(module, (3, 2**15, 2**15))


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
