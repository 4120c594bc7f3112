"""What all tests of commands share."""

from collections.abc import Callable
from typing import Any

import pytest

#: Prints the help, then the heavy modules that were imported on the way.
HELP = """
import sys
from bench.cli import main
try:
    main()
finally:
    heavy = {"torch", "torchvision", "timm", "pandas", "matplotlib", "scipy", "numpy", "sklearn"}
    print("imported:", sorted(heavy & set(sys.modules)))
"""


@pytest.fixture
def help_of(apart: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a command's help in a process of its own, 200 columns wide."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *command: apart(*command, "--help", script=HELP)
