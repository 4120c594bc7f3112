import pytest
import torch
from torch import nn

from archs.class_bank import ClassBank
from archs.heads import Head, TopLayer
from archs.swapping import at_class_count, with_heads, without_top
from archs.top_layer import locate

FEATURES = 6
CLASSES = 5


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Sequential(nn.Linear(4, FEATURES), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(FEATURES, CLASSES)),
    )


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


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(2, CLASSES), nn.Linear(3, CLASSES)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.heads
        logits: torch.Tensor = (first(x[:, :2]) + second(x[:, 2:])) / 2
        return logits


TWO_HEADS = TopLayer("heads.0", 5, CLASSES, True, further=(Head("heads.1", 3),), plain=False)


def test_a_convolutions_logits_are_those_of_its_rows() -> None:
    own = nn.Conv2d(4, CLASSES, (2, 3), dtype=torch.float64).eval()
    module = nn.Sequential(nn.Identity(), own, nn.ReLU(), nn.Flatten())
    top = locate(module, (4, 2, 3))
    bank = ClassBank(top.features, 50, dtype=torch.float64)
    inputs = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    expected = torch.relu(inputs.flatten(1) @ bank.weight.T + bank.bias)
    for count in (1, 7, 50):
        network = at_class_count(module, top, bank.layer(count))
        torch.testing.assert_close(network(inputs), expected[:, :count], rtol=1e-12, atol=1e-12)
        layer = network.get_submodule("1")
        assert isinstance(layer, nn.Conv2d)
        assert layer.out_channels == count
        assert layer.weight.data_ptr() == bank.weight.data_ptr()
    assert module[1] is own
    assert own.weight.shape == (CLASSES, 4, 2, 3)


def test_any_column_of_a_pooled_convolution_is_its_single_logit() -> None:
    module = nn.Sequential(nn.Conv2d(4, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    top = locate(module, (4, 6, 6))
    bank = ClassBank(4, 50, dtype=torch.float64)
    inputs = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    all_logits = at_class_count(module, top, bank.layer(50))(inputs)
    for column in (0, 1, 49):
        row = nn.Linear(4, 1, dtype=torch.float64)
        row.weight, row.bias = (
            nn.Parameter(values[column : column + 1])
            for values in (bank.weight, bank.bias)  # type: ignore[index]
        )
        torch.testing.assert_close(at_class_count(module, top, row)(inputs), all_logits[:, column : column + 1])


def test_each_of_two_heads_has_its_columns_of_a_row() -> None:
    module = TwoHeads().double().eval()
    assert locate(module, (5,)) == TWO_HEADS
    bank = ClassBank(5, 50, dtype=torch.float64)
    inputs = torch.randn(3, 5, dtype=torch.float64)
    expected = inputs @ bank.weight.T / 2 + bank.bias  # both heads have the bias: its mean is itself
    before = dict(module.named_modules())
    for count in (1, 50):
        network = at_class_count(module, TWO_HEADS, bank.layer(count))
        torch.testing.assert_close(network(inputs), expected[:, :count], rtol=1e-12, atol=1e-12)
        assert {parameter.untyped_storage().data_ptr() for parameter in network.parameters()} == {
            bank.weight.untyped_storage().data_ptr(),
            bank.bias.untyped_storage().data_ptr(),  # type: ignore[union-attr]
        }
    assert dict(module.named_modules()) == before
    assert module(inputs).shape == (3, CLASSES)


def test_heads_may_have_rows_and_biases_of_their_own() -> None:
    module = TwoHeads().eval()
    layers = [nn.Linear(2, 7), nn.Linear(3, 7)]
    inputs = torch.randn(3, 5)
    expected = (layers[0](inputs[:, :2]) + layers[1](inputs[:, 2:])) / 2
    torch.testing.assert_close(with_heads(module, TWO_HEADS, layers)(inputs), expected)
    own = [head for head in module.heads if isinstance(head, nn.Linear)]
    assert torch.equal(with_heads(module, TWO_HEADS, own)(inputs), module(inputs))


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="has 2 heads, not 1"):
        with_heads(TwoHeads(), TWO_HEADS, [nn.Linear(2, 7)])
    with pytest.raises(ValueError, match=r"'heads\.1' takes 3 features, not 2"):
        with_heads(TwoHeads(), TWO_HEADS, [nn.Linear(2, 7), nn.Linear(2, 7)])
    with pytest.raises(ValueError, match="takes 5 features, not 4"):
        at_class_count(TwoHeads(), TWO_HEADS, nn.Linear(4, 7))


@pytest.mark.parametrize("two", [False, True])
def test_other_forms_can_be_compiled(two: bool) -> None:
    module = TwoHeads() if two else nn.Sequential(nn.Conv2d(5, CLASSES, 1), nn.Flatten())
    shape = (5,) if two else (5, 1, 1)
    top = locate(module.eval(), shape)
    inputs = torch.randn(2, *shape)
    with torch.no_grad():
        network = at_class_count(module, top, ClassBank(5, 9).layer(9))
        compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
        assert torch.equal(compiled(inputs), network(inputs))


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


def test_without_its_top_layer_a_network_returns_that_layers_features() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))
    images = torch.randn(5, 2, 3)
    backbone = without_top(network, "1.2")
    features = backbone(images)
    assert features.shape == (5, 4)
    torch.testing.assert_close(network[1][2](features), network(images))
    assert {id(one) for one in backbone.parameters()} == {id(one) for one in network[1][0].parameters()}
    assert torch.equal(without_top(nn.Linear(6, 3), "")(images), images)
