"""`python -m bench --help` answers within 0.5 s: torch alone takes four times that to import."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.benchmark

COMMANDS = {
    "help": ["-m", "bench", "--help"],
    "import torch": ["-c", "import torch"],
    "bare interpreter": ["-c", "pass"],
}


def test_help_does_not_wait_for_torch(
    compare: Callable[..., Any], say: Callable[..., None], pytestconfig: pytest.Config
) -> None:
    def seconds_of(arguments: list[str], root: Path) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=root, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    cases = {
        name: lambda _, arguments=arguments: seconds_of(arguments, pytestconfig.rootpath)
        for name, arguments in COMMANDS.items()
    }
    times = compare(cases, 3).times
    fastest = {name: float(seconds.min()) for name, seconds in times.items()}  # noise only ever adds
    say(", ".join(f"{name} {seconds:.2f} s" for name, seconds in fastest.items()), **fastest)
    assert fastest["help"] < fastest["import torch"] / 5
