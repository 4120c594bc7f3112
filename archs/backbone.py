"""A backbone, all of a network but its top layer: its tensors by name, reading them, and what tells it from others.

    read(file, network, top, dtype)    a network with a checkpoint's backbone, and the rows of its top layer
    layout(module, top)                digest of names and shapes: another architecture has another one
    values_sha256(module, top)         digest of names, dtypes, shapes and values: other weights have another one

A backbone may be shared with somebody who trains it: `evaluating` has it in evaluation mode for as long as a block.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from archs.registry import Network
from archs.rows_on_disk import Rows, TensorFile, UnusableFile
from archs.top_layer import TopLayer

#: Counts minibatches in training and has no part in an inference; checkpoints from before torch 0.4.1 lack it.
_UNUSED_IN_INFERENCE = "num_batches_tracked"


def parameter_name(top: TopLayer, parameter: str) -> str:
    """The name of the top layer's `weight` or `bias` in the network's state dict."""
    return f"{top.path}.{parameter}" if top.path else parameter


def tensors_of(module: nn.Module, top: TopLayer) -> dict[str, Tensor]:
    """The state dict without the top layer: name -> tensor, which shares the module's memory."""
    head = {parameter_name(top, "weight"), parameter_name(top, "bias")}
    return {
        name: tensor
        for name, tensor in module.state_dict().items()
        if name not in head and isinstance(tensor, Tensor)  # a module may keep other things there
    }


def layout(module: nn.Module, top: TopLayer) -> str:
    """SHA-256 of the names and shapes of a backbone's tensors, in hexadecimal."""
    tensors = sorted((name, tuple(tensor.shape)) for name, tensor in tensors_of(module, top).items())
    return hashlib.sha256(repr(tensors).encode()).hexdigest()


def values_sha256(module: nn.Module, top: TopLayer) -> str:
    """SHA-256 over a backbone's tensors in order of their names, in hexadecimal: name, dtype, shape, and values.

    The same on every device and in every memory format. What an inference does not use is left out. Every
    byte is read once.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(module, top).items(), key=lambda each: each[0]):
        if not name.endswith(_UNUSED_IN_INFERENCE):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Checkpoint(NamedTuple):
    """A network as a file has it."""

    module: nn.Module
    """with the file's backbone, on the CPU"""
    rows: Rows
    """the file's top layer"""
    unused: tuple[str, ...]
    """names of tensors in the file that the network has no place for"""


def read(file: TensorFile, network: Network, top: TopLayer, dtype: torch.dtype | None = None) -> Checkpoint:
    """The network with the backbone of a checkpoint, and the rows of its top layer, which stay in the file.

    dtype: the one to compute in; None for the file's own. Raises UnusableFile for a file that is no checkpoint of this
    network, or of several dtypes while none is given.
    """
    module = _built(network)
    unused = _check(file, module, top, network.name)
    rows = Rows(file, parameter_name(top, "weight"), parameter_name(top, "bias") if top.bias else None)
    module = module.to(_own_dtype(file, module, top, rows) if dtype is None else dtype)
    there = set(file.names)
    with torch.no_grad():
        for name, tensor in tensors_of(module, top).items():
            if name in there:
                tensor.copy_(file.read(name))
    return Checkpoint(module, rows, unused)


def _built(network: Network) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # random weights, which are all replaced
        return network.build().eval().requires_grad_(False)


def _check(file: TensorFile, module: nn.Module, top: TopLayer, name: str) -> tuple[str, ...]:
    """See that the file holds this backbone; names of tensors that the network has no place for."""
    own = tensors_of(module, top)
    needed_of(file, own, name)
    there = set(file.names)
    head_bias = parameter_name(top, "bias")
    if not top.bias and head_bias in there:
        raise UnusableFile(f"{file.path} is no checkpoint of {name}: its top layer has a bias, the network's has none")
    return tuple(sorted(there - set(own) - {parameter_name(top, "weight"), head_bias}))


def needed_of(file: TensorFile, own: Mapping[str, Tensor], name: str) -> tuple[str, ...]:
    """Names of the tensors that an inference needs of a backbone, `own`, each of which the file has in its shape.

    name: what the network is called. Raises UnusableFile for one that is not there, or of another shape.
    """
    needed = tuple(each for each in own if not each.endswith(_UNUSED_IN_INFERENCE))
    there = set(file.names)
    if missing := [each for each in needed if each not in there]:
        raise UnusableFile(
            f"{file.path} is no checkpoint of {name}: it has no {missing[0]!r} ({len(missing)} of {len(needed)} "
            "tensors of the backbone are missing); name the network it was saved from"
        )
    for each in needed:
        if file.shape(each) != tuple(own[each].shape):
            raise UnusableFile(
                f"{file.path} is no checkpoint of {name}: {each!r} has the shape {file.shape(each)}, where the network "
                f"has {tuple(own[each].shape)}; name the network it was saved from"
            )
    return needed


def _own_dtype(file: TensorFile, module: nn.Module, top: TopLayer, rows: Rows) -> torch.dtype:
    """The one floating-point dtype that a checkpoint is of."""
    for name, tensor in tensors_of(module, top).items():
        if tensor.is_floating_point() and name in file.names and file.dtype(name) != rows.dtype:
            found = file.dtype(name)
            other = "no floating-point number" if found is None else dtype_name(found)
            raise UnusableFile(
                f"{file.path}: the top layer is of {dtype_name(rows.dtype)}, but {name!r} of {other}: say which dtype "
                "to compute in with dtype=, such as torch.float32"
            )
    return rows.dtype


def dtype_name(dtype: torch.dtype) -> str:
    """float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")


def parts_of(module: nn.Module, network: nn.Module) -> tuple[nn.Module, ...]:
    """The parts of `network`, made of `module`, that are `module`'s own; the others go into evaluation mode."""
    theirs = set(module.modules())
    shared = []
    for part in network.modules():
        if part in theirs:
            shared.append(part)
        else:
            part.training = False
    return tuple(shared)


@contextmanager
def evaluating(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Have these in evaluation mode inside the block, and as they were after it."""
    training = [part for part in parts if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
