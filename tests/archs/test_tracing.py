import gc

import pytest
import torch
from torch import nn

from archs.tracing import Call, trace


class Residual(nn.Module):
    """Two blocks on a residual stream, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 3)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x))
        return logits


def test_the_last_calls_on_every_way_to_the_output() -> None:
    module = Residual().eval()
    with torch.no_grad():
        output, calls, ending = trace(module, torch.randn(2, 4))
    assert isinstance(output, torch.Tensor)
    assert [call.path for call in calls] == ["blocks.0", "blocks.1", "head"]
    assert [call.path for call in ending.calls] == ["head"]
    encoder = nn.Sequential(module.blocks[0], nn.ReLU())
    assert [call.path for call in trace(encoder, torch.randn(2, 4))[2].calls] == ["0"]
    module.head = nn.Identity()  # type: ignore[assignment]
    assert [call.path for call in trace(module, torch.randn(2, 4))[2].calls] == ["blocks.0", "blocks.1"]


def test_an_output_made_of_no_call() -> None:
    assert trace(nn.ReLU(), torch.randn(2, 4))[2].calls == ()
    output, calls, ending = trace(nn.LSTM(4, 3), torch.randn(2, 4))
    assert isinstance(output, tuple)
    assert calls == []
    assert ending.calls == ()


class Ends(nn.Module):
    """What follows the last layers: views, a constant, operations in place, several outputs, a list of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.fc = nn.Linear(8, 3)
        self.register_buffer("scale", torch.tensor([2.0, 3.0, 4.0]))

    def end(self, conv: torch.Tensor, fc: torch.Tensor) -> torch.Tensor:
        largest, _ = conv.flatten(2).max(2)
        both = torch.stack([largest, fc]).mean(0)
        return both.mul_(self.scale).relu_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.conv(x), self.fc(x.flatten(1)))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_follows_the_last_calls_runs_again_on_other_values(device: str) -> None:
    module = Ends().to(device)
    with torch.no_grad():
        _, _, ending = trace(module, torch.randn(2, 2, 2, 2, device=device))
    conv, fc = ending.calls
    assert (conv.path, conv.shape, conv.class_axis, conv.rows, conv.classes) == ("conv", (2, 3, 2, 2), -3, 8, 3)
    assert (fc.path, fc.shape, fc.class_axis, fc.rows, fc.classes) == ("fc", (2, 3), -1, 2, 3)
    values = {conv: torch.randn(2, 3, 2, 2), fc: torch.randn(2, 3)}
    kept = {call: value.clone() for call, value in values.items()}
    result = ending.given(values)
    assert all(torch.equal(value, kept[call]) for call, value in values.items())
    if device == "cpu":
        torch.testing.assert_close(result, module.end(values[conv], values[fc]))
    else:  # the buffer has no values there: it got positive ones
        assert torch.equal(result > 0, Ends().end(values[conv], values[fc]) > 0)


def test_operations_in_place_do_not_reach_back() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.fc(x)
            before = y + 1
            return before + y.mul_(2)

    with torch.no_grad():
        _, _, ending = trace(InPlace(), torch.randn(2, 4))
    value = torch.randn(2, 3)
    torch.testing.assert_close(ending.given({ending.calls[0]: value}), 3 * value + 1)


def test_no_activation_is_held() -> None:
    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gc.collect()
            sizes.append(sum(type(thing) is torch.Tensor and thing.shape == (2, 77) for thing in gc.get_objects()))
            return x

    sizes: list[int] = []
    layers = [part for _ in range(6) for part in (nn.Linear(77, 77), nn.ReLU(), Counting())]
    with torch.no_grad():
        trace(nn.Sequential(*layers), torch.randn(2, 77))
    assert sizes[-1] <= sizes[0]


def test_a_very_deep_stream_is_followed() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.fc(x)
            for _ in range(5000):
                y = y + 1
            return y

    with torch.no_grad():
        _, _, ending = trace(Deep(), torch.randn(2, 4))
    value = torch.zeros(2, 3)
    assert ending.given({ending.calls[0]: value}).unique().tolist() == [5000.0]


def test_hooks_are_gone_after_a_forward_that_fails() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 3))
    with pytest.raises(RuntimeError):
        trace(module, torch.randn(2, 4))
    assert not any(part._forward_hooks for part in module.modules())


def test_a_call_knows_its_layer() -> None:
    call = Call("0", nn.Conv1d(4, 3, 1), (2, 3, 7), torch.float32)
    assert (call.classes, call.class_axis, call.rows) == (3, -2, 14)
