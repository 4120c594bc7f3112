"""Top layers of very many classes trained by any of the losses, without all their logits or a second weight.

    from bench.accuracy import losses
    from bench.accuracy.chunked import ChunkedLoss, form_of, in_place_step

    form = form_of(losses.configured("batch-ce", classes=370_727), 370_727)
    loss = ChunkedLoss(form)(features, layer.weight, layer.bias, labels)               # for any optimiser
    loss, gradient = in_place_step(features, weight, bias, labels, form, lr=0.1)       # plain SGD, in place

What it holds, how exact it is, and the statistics of each loss: docs/chunked.md.
"""

from bench.accuracy.chunked.forms import Form, form_of
from bench.accuracy.chunked.layer import ChunkedLoss, Step, in_place_step
from bench.accuracy.chunked.passes import (
    Coefficients,
    Gradients,
    PlainSGD,
    RowStatistics,
    backward,
    coefficients,
    row_statistics,
)
from bench.accuracy.chunked.sampled import (
    SampledForm,
    SampledLoss,
    in_place_sampled_step,
    row_gradients,
    sampled_form_of,
)
from bench.accuracy.chunked.statistics import Statistic

__all__ = [
    "ChunkedLoss",
    "Coefficients",
    "Form",
    "Gradients",
    "PlainSGD",
    "RowStatistics",
    "SampledForm",
    "SampledLoss",
    "Statistic",
    "Step",
    "backward",
    "coefficients",
    "form_of",
    "in_place_sampled_step",
    "in_place_step",
    "row_gradients",
    "row_statistics",
    "sampled_form_of",
]
