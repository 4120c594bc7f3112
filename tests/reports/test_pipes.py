import io
import os

import pytest

from reports.pipes import while_read


def test_once_the_reader_has_left_output_goes_nowhere() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        reached = False
        with while_read(stream):
            print("anything", file=stream, flush=True)
            reached = True
        assert not reached
        print("more", file=stream, flush=True)


def test_a_stream_without_a_descriptor_is_left_alone() -> None:
    with while_read(io.StringIO()):
        raise BrokenPipeError


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(FileNotFoundError), while_read(io.StringIO()):
        raise FileNotFoundError
