"""Several MLPs as one module: their weights stand along a leading axis, and one step trains them all.

    G plain networks -- stack --> Stack, every parameter and buffer (G, ...) -- state_dicts --> G plain state dicts

A stack of small networks keeps a GPU busy that one of them leaves idle. Nothing passes between members: matrix products
are batched, batch norm has statistics of its own for each, and the losses are only added up, so that a member whose
loss is not finite leaves its neighbours' gradients as they are.

Activations are (G, features, m) throughout: batch norm then sees G x features channels, and nothing is copied.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Loss(Protocol):
    """Logits (m, k) and labels (m,) to a scalar."""

    def __call__(self, logits: Tensor, labels: Tensor, /) -> Tensor:
        """The loss of one minibatch."""


def stackable(network: str, dtype: str) -> bool:
    """Whether trainings of this network in this floating type can share a stack.

    Only the MLP; and not in float16, where one scale of the gradients, which any member can change, serves all.
    """
    return network == "mlp" and dtype != "float16"


class StackedLinear(nn.Module):
    """G linear layers: (G, in, m) -> (G, out, m). `weight` (G, out, in), `bias` (G, out) or None."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Copy the layers' values."""
        super().__init__()
        self.weight = _stacked([layer.weight for layer in layers])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        if biases:
            self.bias = _stacked(biases)
        else:
            self.register_parameter("bias", None)

    def forward(self, inputs: Tensor) -> Tensor:
        """One batched matrix product."""
        if self.bias is None:
            return torch.bmm(self.weight, inputs)
        return torch.baddbmm(self.bias.unsqueeze(2), self.weight, inputs)


class StackedBatchNorm(nn.Module):
    """G batch-norm layers: (G, features, m) -> the same shape, each with its own statistics, (G, features)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layers: Sequence[nn.BatchNorm1d]) -> None:
        """Copy the layers' values; ValueError for layers without running statistics or with a cumulative mean."""
        super().__init__()
        first = layers[0]
        if first.momentum is None or not first.track_running_stats or not first.affine:
            raise ValueError("only batch norm with weights and an exponential mean of its statistics can be stacked")
        self.momentum = first.momentum
        self.eps = first.eps
        self.weight = _stacked([layer.weight for layer in layers])
        self.bias = _stacked([layer.bias for layer in layers])
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([layer.get_buffer(name) for layer in layers]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise each member's features over its minibatch (training), or by the running statistics."""
        if self.training:
            self.num_batches_tracked.add_(1)
        members, features, examples = inputs.shape
        normalised = F.batch_norm(
            inputs.reshape(1, members * features, examples),
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )
        return normalised.view(members, features, examples)


class Stack(nn.Sequential):
    """G networks in one: inputs (G, m, ...) to logits (G, m, k). Names of parameters are those of a plain network."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Each member's minibatch through its own weights."""
        activations = inputs.flatten(2).transpose(1, 2)
        for layer in self:
            activations = layer(activations)
        return activations.transpose(1, 2)


def stack(networks: Sequence[nn.Module]) -> Stack:
    """The networks' values as one stack, in their order; they are not changed.

    Takes sequences of flatten, linear, one-dimensional batch norm and ReLU (archs.small.mlp), all of one form.
    Raises ValueError for others.
    """
    if not all(isinstance(network, nn.Sequential) for network in networks):
        raise ValueError("only plain sequences of layers can be stacked")
    forms = [{name: tensor.shape for name, tensor in network.state_dict().items()} for network in networks]
    if any(form != forms[0] for form in forms):
        raise ValueError("only networks of one form can be stacked: their parameters differ in name or shape")
    columns = zip(*(network.children() for network in networks), strict=True)
    return Stack(*(_stacked_layer(layers) for layers in columns))


def _stacked_layer(layers: Sequence[nn.Module]) -> nn.Module:
    linear = [layer for layer in layers if type(layer) is nn.Linear]
    if len(linear) == len(layers):
        return StackedLinear(linear)
    normalising = [layer for layer in layers if type(layer) is nn.BatchNorm1d]
    if len(normalising) == len(layers):
        return StackedBatchNorm(normalising)
    if all(type(layer) is nn.ReLU for layer in layers):
        return nn.ReLU()
    if all(type(layer) is nn.Flatten for layer in layers):
        return nn.Identity()  # the stack flattens, behind the axis of members
    raise ValueError(f"layers of type {', '.join(sorted({type(layer).__name__ for layer in layers}))} are not stacked")


def _stacked(parameters: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.stack([parameter.detach() for parameter in parameters]))


def state_dicts(stacked: Stack) -> list[dict[str, Tensor]]:
    """Each member's values as a plain network's state dict, exactly: views of the stack's memory."""
    whole = stacked.state_dict()
    members = len(next(iter(whole.values())))
    return [{name: tensor[member] for name, tensor in whole.items()} for member in range(members)]


class MemberParameters:
    """A stack's parameters one member at a time, as an optimiser takes them: the same memory, nothing copied."""

    def __init__(self, stacked: Stack) -> None:
        """The stack's parameters must stay where they are from now on."""
        self._whole = list(stacked.parameters())
        self._own = [[nn.Parameter(part) for part in parameter.detach().unbind(0)] for parameter in self._whole]

    def __iter__(self) -> Iterator[list[nn.Parameter]]:
        """The parameters of each member."""
        return iter([list(own) for own in zip(*self._own, strict=True)])

    def take_gradients(self) -> None:
        """After a backward: each member's parameters get their part of the stack's gradients, which lets go of them."""
        for whole, own in zip(self._whole, self._own, strict=True):
            assert whole.grad is not None
            for parameter, gradient in zip(own, whole.grad.unbind(0), strict=True):
                parameter.grad = gradient
            whole.grad = None


class MemberLosses:
    """The loss of each member of a stack: logits (G, m, k), labels (G, m) -> (G,).

    Members whose loss is the same object are computed together by torch.vmap; a loss that draws random numbers must be
    an object of its own for each member, so that its noise is what it would be alone.
    """

    def __init__(self, losses: Sequence[Loss], device: torch.device | str = "cpu") -> None:
        """`losses`: one for each member."""
        groups: dict[int, list[int]] = {}
        for member, loss in enumerate(losses):
            groups.setdefault(id(loss), []).append(member)
        self._alone = losses[0] if len(losses) == 1 else None
        self._groups = [(losses[group[0]], torch.tensor(group, device=device)) for group in groups.values()]
        order = [member for group in groups.values() for member in group]
        # Where in the groups' line each member stands; none if they stand in their own order.
        back = sorted(range(len(order)), key=order.__getitem__)
        self._back = None if back == order == sorted(order) else torch.tensor(back, device=device)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """One loss a member."""
        if self._alone is not None:
            return self._alone(logits.squeeze(0), labels.squeeze(0)).unsqueeze(0)
        parts = [self._of_group(loss, members, logits, labels) for loss, members in self._groups]
        line = torch.cat(parts)
        return line if self._back is None else line.index_select(0, self._back)

    def _of_group(self, loss: Loss, members: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        if len(members) < len(logits):
            logits, labels = logits.index_select(0, members), labels.index_select(0, members)
        if len(members) == 1:
            return loss(logits.squeeze(0), labels.squeeze(0)).unsqueeze(0)
        together: Tensor = torch.vmap(loss)(logits, labels)
        return together
