"""Rows of a layer that is never whole, against the layer."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from archs import linear_rows
from archs.linear_rows import linear_of_rows


@given(
    st.integers(1, 40),
    st.integers(1, 60),
    st.data(),
    st.integers(1, 5000),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_rows_are_those_of_the_whole_layer(
    features: int, classes: int, data: st.DataObject, at_once: int, bias: bool
) -> None:
    first = data.draw(st.integers(0, classes - 1))
    rows = slice(first, data.draw(st.integers(first + 1, classes)))
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(7)
        whole = nn.Linear(features, classes, bias=bias)
        after = torch.rand(3)
        patch.setattr(linear_rows, "DRAWN_BYTES", at_once)
        torch.manual_seed(7)
        own = linear_of_rows(features, classes, rows, bias=bias)
        assert torch.equal(torch.rand(3), after), "what is drawn next is the same"
    assert (own.in_features, own.out_features) == (features, rows.stop - rows.start)
    assert torch.equal(own.weight, whole.weight[rows])
    assert (own.bias is None) == (not bias)
    assert not bias or torch.equal(own.bias, whole.bias[rows])
    assert own.weight.requires_grad


@pytest.mark.parametrize("rows", [slice(3, 3), slice(-1, 2), slice(2, 8), slice(0, 4, 2)])
def test_rows_that_are_none_of_the_layers_are_refused(rows: slice) -> None:
    with pytest.raises(ValueError, match="no range of 7 classes"):
        linear_of_rows(5, 7, rows)


PEAK = """
import resource, sys, torch
from archs.linear_rows import linear_of_rows
linear_of_rows(4, 8, slice(0, 3))  # what torch loads at its first use
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
layer = linear_of_rows(512, 400_000, slice(100_000, 110_000))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, layer.weight.nbytes // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident sizes are read in KB, as Linux gives them")
def test_the_whole_layer_is_never_there() -> None:
    """819 MB of which 20 are held: a tenth, with what is drawn at a time and what else a process takes."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    peak, own = map(int, done.stdout.split())
    assert own == 20_000
    assert peak <= 82_000
