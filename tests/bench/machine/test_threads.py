import pytest
import torch

from bench.machine.threads import intra_op_threads


def test_threads_are_those_asked_for_and_then_those_of_before() -> None:
    before = torch.get_num_threads()
    with intra_op_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_an_error_leaves_them_as_before_too() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), intra_op_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before
