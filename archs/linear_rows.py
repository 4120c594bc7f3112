"""Some rows of a linear layer, with the weights they have in the whole of it, which is never there."""

import math
from collections.abc import Callable

import torch
from torch import nn

#: How a top layer is made, of (features, classes, bias=True): nn.Linear, or `linear_of_rows` where the rows are known.
MakeTop = Callable[..., nn.Linear]

#: Bytes of the rows that are drawn at a time: few beside any layer worth splitting.
DRAWN_BYTES = 2**22


def linear_of_rows(features: int, classes: int, rows: slice, *, bias: bool = True) -> nn.Linear:
    """The rows `rows` of a new `nn.Linear(features, classes)`, as a layer of as many classes, on the CPU in float32.

    Draws from torch's global generator what the whole layer draws, DRAWN_BYTES at a time, and leaves it where the whole
    layer would: ranks of one seed hold rows of one layer, to the last bit. rows: of step 1, within the classes.

    Raises ValueError for rows that are none of the layer's.
    """
    if not 0 <= rows.start < rows.stop <= classes or rows.step not in (None, 1):
        raise ValueError(f"rows {rows.start} to {rows.stop} are no range of {classes} classes")
    layer = nn.Linear(features, rows.stop - rows.start, bias=bias, device="meta").to_empty(device="cpu")
    at_once = max(1, DRAWN_BYTES // (4 * features))
    for first in range(0, classes, at_once):
        drawn = torch.empty(min(at_once, classes - first), features)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))  # as nn.Linear.reset_parameters: it looks at the features alone
        begin, end = max(first, rows.start), min(first + len(drawn), rows.stop)
        if begin < end:
            layer.weight.data[begin - rows.start : end - rows.start] = drawn[begin - first : end - first]
    if bias:
        bound = 1 / math.sqrt(features)
        layer.bias.data.copy_(torch.empty(classes).uniform_(-bound, bound)[rows])
    return layer
