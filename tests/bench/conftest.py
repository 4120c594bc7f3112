"""Runs of tiny networks (tests/factories/tiny_networks.py): in a process of their own, or in this one."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bench
from bench.cli import app
from bench.speed import prediction

FACTORIES = Path(__file__).parents[1] / "factories"


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def tiny_options(output: Path | str, *options: object, network: str = "small", counts: str = "1,16") -> list[str]:
    """A sweep at 1 and 16 classes in six rounds, unless the options say otherwise.

    One thread: two would wait for one another at every barrier, beside whatever else this machine does.
    """
    rounds = [] if {"--minibatches", "--quick"} & set(options) else ["--minibatches", "6"]
    asked = ["--arch", f"tiny_networks:{network}", "--classes", counts, "--threads", "1", "--batch-size", "2"]
    return [*asked, "--output", str(output), *rounds, *map(str, options)]


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT interrupts this process and those it starts, though a shell's background job is told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def among_factories() -> Iterator[pytest.MonkeyPatch]:
    """This process, and those it starts, can name the factories; rates are calibrated roughly, in no time."""
    with interruptible(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(FACTORIES)
        patch.setenv("PYTHONPATH", str(Path(bench.__file__).parents[1]))
        patch.setattr(prediction, "STREAMED_WEIGHT_BYTES", 2**22)
        patch.setattr(prediction, "PROBE_REPEATS", 3)
        sys.modules.pop("tiny_networks", None)  # with its counts of calls
        yield patch


def invoke_here(*arguments: object, fault: str | None = None) -> Ended:
    """The command line in this process; `fault` as in tiny_networks. An exception that is no exit is raised."""
    with among_factories() as patch:
        if fault:
            patch.setenv("TINY_FAULT", fault)
        result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


def start_bench(*arguments: object, fault: str | None = None, script: str | None = None) -> "subprocess.Popen[str]":
    """The command line in a process of its own, from the folder of the factories; or a script, with arguments."""
    begin = ["-m", "bench"] if script is None else ["-c", script]
    environment = {**os.environ, "PYTHONPATH": str(Path(bench.__file__).parents[1])}
    with interruptible():
        return subprocess.Popen(
            [sys.executable, *begin, *map(str, arguments)],
            cwd=FACTORIES,
            env={**environment, **({"TINY_FAULT": fault} if fault else {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def run_bench(*arguments: object, fault: str | None = None, script: str | None = None) -> Ended:
    """The same, to its end: that of every process that inherited its pipes, too."""
    with start_bench(*arguments, fault=fault, script=script) as process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return Ended(process.returncode, out, err)


def only_folder(parent: Path) -> Path:
    """The one run under a parent of runs."""
    (path,) = parent.iterdir()
    return path


@pytest.fixture
def in_factories() -> Iterator[pytest.MonkeyPatch]:
    with among_factories() as patch:
        yield patch


@pytest.fixture(scope="session")
def tiny() -> Callable[..., list[str]]:
    return tiny_options


@pytest.fixture(scope="session")
def here() -> Callable[..., Ended]:
    return invoke_here


@pytest.fixture(scope="session")
def apart() -> Callable[..., Ended]:
    return run_bench


@pytest.fixture(scope="session")
def begin() -> Callable[..., "subprocess.Popen[str]"]:
    return start_bench


@pytest.fixture(scope="session")
def only() -> Callable[[Path], Path]:
    return only_folder
