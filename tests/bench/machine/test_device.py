import pytest
import torch

from bench.errors import UsageError
from bench.machine.device import resolve_device


@pytest.mark.parametrize(
    ("devices", "name", "expected"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, devices: int, name: str, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert resolve_device(name) == expected


@pytest.mark.parametrize("name", ["cuda:2", "cuda:-1", "cuda:", "tpu", "CPU", ""])
def test_devices_that_are_not_here(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="device"):
        resolve_device(name)
