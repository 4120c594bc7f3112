"""Batch-norm statistics of a randomly initialised network.

With the statistics of a new batch-norm layer (mean 0, variance 1) nothing is normalised in evaluation mode: in a deep
residual network the activations then grow from block to block, fine in float32, infinite in float16.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def calibrate(module: nn.Module, inputs: torch.Tensor) -> None:
    """Set the running statistics of every batch-norm layer to those of one minibatch.

    One forward of `inputs`, of shape (examples, ...), in which only the batch-norm layers are in training mode:
    each normalises by its minibatch and keeps that minibatch's mean and (unbiased) variance. Afterwards the whole
    module is in evaluation mode, and nothing but the statistics has changed. To be called in float32, before a cast
    to a smaller dtype.

    Raises ValueError for fewer than 2 examples, which have no variance.
    """
    if len(inputs) < 2:
        raise ValueError(f"batch-norm statistics need at least 2 examples, not {len(inputs)}")
    module.eval()
    # Layers without running statistics normalise by the minibatch in any mode: there is nothing to set.
    layers = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    if not layers:
        return
    before = [(layer.momentum, _copied(layer.num_batches_tracked)) for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 1.0
            layer.training = True  # not train(): children of a layer, such as its activation, stay as they are
        with torch.no_grad():
            module(inputs)
    finally:
        for layer, (momentum, tracked) in zip(layers, before, strict=True):
            layer.training = False
            layer.momentum = momentum
            if layer.num_batches_tracked is not None and tracked is not None:
                layer.num_batches_tracked.copy_(tracked)


def _copied(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.clone()
