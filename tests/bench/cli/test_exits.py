"""How a command ends that did not get to its end."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench.cli.exits import FAULT, USAGE, exits
from bench.errors import UsageError


def ended(body: Callable[[], int]) -> tuple[int, str, str]:
    app = typer.Typer()
    app.command()(exits(body))
    result = CliRunner().invoke(app)
    return result.exit_code, result.stdout, result.stderr


def raising(error: Exception) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


@pytest.fixture(autouse=True)
def _no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLC_BENCH_TRACEBACK", raising=False)


def test_a_fault_is_one_line_and_never_looks_like_worse() -> None:
    code, out, err = ended(raising(OverflowError("math range\nerror")))
    assert (code, out) == (FAULT, "")
    assert FAULT not in range(4)
    assert err.startswith("error: OverflowError: math range error: this is a fault of slc-bench")
    assert err.count("\n") == 1


def test_a_traceback_is_there_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLC_BENCH_TRACEBACK", "1")
    code, _, err = ended(raising(OverflowError("math range error")))
    assert code == FAULT
    assert err.startswith("Traceback (most recent call last):")
    assert err.splitlines()[-1].startswith("error: OverflowError")
    assert "Traceback" not in ended(raising(UsageError("a wrong option")))[2]


def test_what_an_error_quotes_stays_on_its_line() -> None:
    code, _, err = ended(raising(UsageError("no 'x\n::error::evil\x1b[31m'")))
    assert (code, err) == (USAGE, "error: no 'x ::error::evil\ufffd[31m'\n")


def test_what_the_system_refuses_is_no_fault() -> None:
    code, _, err = ended(raising(PermissionError(13, "Permission denied", "a-file")))
    assert code == USAGE
    assert err.startswith("error: [Errno 13] Permission denied: 'a-file'")


SCRIPT = """
import typer
from bench.cli.exits import exits

app = typer.Typer()

@app.command()
@exits
def tell() -> int:
    print("so long " * 10)
    return 1

app()
"""


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="needs /dev/full, a disk that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_standard_output_is_told(unbuffered: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command, environment = [sys.executable, script], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
        assert done.returncode == USAGE
        assert done.stderr.startswith("error: cannot write to standard output: No space left on device; make room")
        assert done.stderr.count("\n") == 1
        silent = subprocess.run(command, stdout=full, stderr=full, check=False, env=environment)
        assert silent.returncode == USAGE
