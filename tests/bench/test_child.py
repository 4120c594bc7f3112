import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

import bench


def script(text: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(bench.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_is_printed_goes_to_standard_error_and_events_to_the_pipe() -> None:
    with script(
        """
        import os
        from bench.child import private_standard_output
        events = private_standard_output()
        print("a stray print", flush=True)
        os.system("echo a stray program")
        events.write("an event\\n")
        events.close()
        """
    ) as process:
        out, err = process.communicate(timeout=60)
    assert out == "an event\n"
    assert err.splitlines() == ["a stray print", "a stray program"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part in it is Linux's")
def test_a_child_dies_with_its_parent() -> None:
    """The parent starts the child, which says who it is and then waits for ever; the parent is killed."""
    parent = script(
        """
        import subprocess, sys
        child = '''
        import os, signal, sys
        from bench.child import die_with
        die_with(int(sys.argv[1]))
        print(os.getpid(), flush=True)
        signal.pause()
        '''
        import os, textwrap
        subprocess.run([sys.executable, "-c", textwrap.dedent(child), str(os.getpid())])
        """
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.kill()
    parent.communicate(timeout=60)  # ends once the last holder of its pipes is gone: the child
    assert parent.returncode == -signal.SIGKILL
    child.wait(timeout=60)  # its pipes close a moment before it is gone


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part in it is Linux's")
def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    with script("from bench.child import die_with; die_with(1 << 22); print('still there')") as orphan:
        out, err = orphan.communicate(timeout=60)
    assert (orphan.returncode, out, err) == (0, "", "")
