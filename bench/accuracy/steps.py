"""One training step: gather a minibatch, forward, loss, backward, optimiser.

Axes: S distinct seeds, G members (each with the minibatch of its seed), m examples, k classes. Members step together as
one stack; a single training is G = S = 1. The losses of the steps stay on the device until a window of them is read.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from bench.accuracy import optimisers
from bench.accuracy.batches import BatchOrder, stream_seed
from bench.accuracy.data import Split
from bench.accuracy.data.splits import MemorySplit
from bench.accuracy.settings import Recipe
from bench.accuracy.stacking import Loss, MemberLosses, MemberParameters, Stack, stack, state_dicts

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: Steps whose indices are drawn, and sent to the device, together.
_INDICES_AHEAD = 64

#: Eager steps before a step is captured: libraries make their workspaces, the optimiser its state.
_WARMUP_STEPS = 3


class Learner:
    """Networks with their losses and their optimiser: what one step changes."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        losses: Sequence[Loss],
        rates: Sequence[float],
        recipe: Recipe,
        *,
        capture: bool = False,
    ) -> None:
        """`networks`, `losses` and `rates`: one for each member; several networks are stacked.

        The networks move to the recipe's device. With `capture` a step can be captured in a CUDA graph.
        """
        self.recipe = recipe
        self.device = torch.device(recipe.device)
        self.capture = capture
        whole = networks[0] if len(networks) == 1 else stack(networks)
        self.module = _placed(whole, self.device)
        self._members = MemberParameters(self.module) if isinstance(self.module, Stack) else None
        own = list(self._members) if self._members else [_trained(self.module)]
        self.optimiser = optimisers.make(recipe, own, rates, capture=capture)
        self.scaler = torch.amp.GradScaler(self.device.type) if recipe.dtype == "float16" else None
        self._losses = MemberLosses(losses, self.device)
        self._forward = _compiled(self.module, recipe)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on minibatches (G, m, ...), labels (G, m); returns each member's loss before it, (G,)."""
        losses = self._objective(images, labels)
        total = losses.sum()
        (self.scaler.scale(total) if self.scaler else total).backward()  # type: ignore[no-untyped-call]
        if self._members:
            self._members.take_gradients()
        if self.scaler:
            self.scaler.step(self.optimiser)
            self.scaler.update()
        else:
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return losses.detach()

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Each member's own loss of logits (G, m, k) and labels (G, m): (G,)."""
        return self._losses(logits, labels)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of minibatches (G, m, ...) in the mode that the networks are in: (G, m, k) float32."""
        return self._outputs(self.module, images)[0]

    def state_dicts(self) -> list[dict[str, Tensor]]:
        """Each member's weights and buffers, by the names of a plain network; the learner's own memory."""
        return state_dicts(self.module) if isinstance(self.module, Stack) else [self.module.state_dict()]

    def _objective(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss of the logits, plus that of the auxiliary logits by its weight, where there are any."""
        logits, auxiliary = self._outputs(self._forward, images)
        losses = self._losses(logits, labels)
        if auxiliary is None or not self.recipe.auxiliary_weight:
            return losses
        return losses + self.recipe.auxiliary_weight * self._losses(auxiliary, labels)

    def _outputs(self, forward: Callable[[Tensor], object], images: Tensor) -> tuple[Tensor, Tensor | None]:
        with self._precision():
            outputs = forward(images if self._members else images.squeeze(0))
        if isinstance(outputs, tuple):
            return outputs[0].float().unsqueeze(0), outputs[1].float().unsqueeze(0)
        assert isinstance(outputs, Tensor)
        return (outputs if self._members else outputs.unsqueeze(0)).float(), None

    def _precision(self) -> AbstractContextManager[object]:
        dtype = _DTYPES[self.recipe.dtype]
        if dtype is torch.float32:
            return nullcontext()
        # Each weight is used once in a forward: a cache of cast weights saves nothing and must not outlive a graph.
        return torch.autocast(self.device.type, dtype, cache_enabled=False)


def _placed(module: nn.Module, device: torch.device) -> nn.Module:
    """On the device; convolutions on a GPU with channels last, the layout its tensor cores read."""
    if device.type == "cuda" and any(isinstance(part, nn.Conv2d) for part in module.modules()):
        return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return module.to(device)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _compiled(module: nn.Module, recipe: Recipe) -> Callable[[Tensor], object]:
    if recipe.compile == "none":
        return module
    compiled: Callable[[Tensor], object] = torch.compile(module, mode=recipe.compile, dynamic=False)
    return compiled


class Minibatches:
    """The minibatches of several members, step by step: a member's are decided by its seed alone."""

    def __init__(self, split: Split, recipe: Recipe, seeds: Sequence[int]) -> None:
        """`seeds`: one for each member; members of one seed share what is gathered.

        Raises ValueError for several seeds on data that are not in memory: one augmentation cannot serve them all.
        """
        distinct = tuple(dict.fromkeys(seeds))
        if len(distinct) > 1 and not isinstance(split, MemorySplit):
            raise ValueError("trainings of several seeds can step together only on data that are held in memory")
        device = torch.device(recipe.device)
        self.split = split
        self.steps = recipe.steps
        self.size = (len(distinct), recipe.batch_size)
        self._labels = split.labels.to(device)
        self._orders = [BatchOrder(len(split), recipe.batch_size, seed) for seed in distinct]
        self._augmentation = stream_seed("augmentation", distinct[0])
        one_each = list(seeds) == list(distinct)
        self._owners = None if one_each else torch.tensor([distinct.index(seed) for seed in seeds], device=device)
        self._device = device

    def indices(self, first: int, steps: int) -> Tensor:
        """Indices of the examples of `steps` steps from step `first` (from 0): int64 on the CPU, (steps, S, m)."""
        return torch.stack([order.window(first, steps) for order in self._orders], dim=1)

    def gathered(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (G, m, ...) and labels (G, m) of indices (S, m) on the device; can be captured in a CUDA graph."""
        return self._of_members(self.split.images(indices), indices)

    def from_step(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (G, m, ...) and labels (G, m) of every step from step `first` to the last."""
        indices = self._indices_from(first)
        ahead: list[Tensor] = []

        def asked() -> Iterator[tuple[Tensor, int | None]]:
            for step, one in enumerate(indices, start=first):
                ahead.append(one)
                yield one, self._augmentation + step

        for images in self.split.prefetch(asked()):
            yield self._of_members(images.to(self._device), ahead.pop(0))

    def _indices_from(self, first: int) -> Iterator[Tensor]:
        for start in range(first, self.steps, _INDICES_AHEAD):
            window = self.indices(start, min(_INDICES_AHEAD, self.steps - start))
            # Images are gathered where they are: on the device, or from disk by numbers the CPU knows.
            yield from (window.to(self._device) if isinstance(self.split, MemorySplit) else window).unbind(0)

    def _of_members(self, images: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        labels = self._labels.index_select(0, indices.reshape(-1).to(self._device)).view(self.size)
        if self._owners is None:
            return images, labels
        return images.index_select(0, self._owners), labels.index_select(0, self._owners)


class EagerSteps:
    """Steps one after the other, each launched from Python."""

    def __init__(self, learner: Learner, minibatches: Minibatches, first: int) -> None:
        """`first`: the step to begin with, counted from 0."""
        self._learner = learner
        self._batches = minibatches.from_step(first)
        self._step = first

    def run(self, count: int) -> Tensor:
        """The next `count` steps; the losses before each, (count, G), on the device."""
        return torch.stack([self._one() for _ in range(count)])

    def _one(self) -> Tensor:
        images, labels = next(self._batches)
        recipe = self._learner.recipe
        if recipe.schedule != "constant":
            optimisers.set_rates(self._learner.optimiser, optimisers.rate_factor(recipe, self._step))
        self._step += 1
        return self._learner.step(images, labels)


class GraphedSteps:
    """A step captured once as a CUDA graph and replayed: nothing of it is launched, or waited for, from Python.

    Indices and rates of a window of steps are sent ahead; the graph keeps its own place among them:

        indices[place], factors[place] -> gather, forward, loss, backward, optimiser -> losses[place]; place + 1
    """

    def __init__(
        self,
        learner: Learner,
        minibatches: Minibatches,
        first: int,
        longest: int,
        noise: Sequence[torch.Generator] = (),
    ) -> None:
        """`longest`: the most steps of one `run`. `noise`: the generators that the losses draw from."""
        device = learner.device
        self._learner = learner
        self._minibatches = minibatches
        self._step = first
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._indices = torch.zeros((longest, *minibatches.size), dtype=torch.int64, device=device)
        self._factors = torch.zeros(longest, device=device)
        self._losses: Tensor | None = None
        self._noise = noise

    def run(self, count: int) -> Tensor:
        """The next `count` steps; the losses before each, (count, G), on the device."""
        self._send(count)
        eager = min(count, _WARMUP_STEPS - self._warm)
        for _ in range(eager):
            self._on_stream(self._one)
        self._warm += eager
        if self._graph is None and count > eager:
            self._graph = self._captured()
        for _ in range(count - eager):
            assert self._graph is not None
            self._graph.replay()
        assert self._losses is not None
        return self._losses[:count].clone()

    def _send(self, count: int) -> None:
        recipe = self._learner.recipe
        factors = [optimisers.rate_factor(recipe, self._step + ahead) for ahead in range(count)]
        self._indices[:count].copy_(self._minibatches.indices(self._step, count))
        self._factors[:count].copy_(torch.tensor(factors))
        self._place.zero_()
        self._step += count

    def _one(self) -> None:
        indices = self._indices.index_select(0, self._place).squeeze(0)
        factor = self._factors.index_select(0, self._place).squeeze(0)
        for group in self._learner.optimiser.param_groups:
            group["lr"].copy_(factor * group["initial_lr"])
        losses = self._learner.step(*self._minibatches.gathered(indices))
        if self._losses is None:
            self._losses = losses.new_zeros((len(self._indices), len(losses)))
        self._losses.index_copy_(0, self._place, losses.unsqueeze(0))
        self._place.add_(1)

    def _on_stream(self, work: Callable[[], None]) -> None:
        """Warm-up belongs on a side stream, as capture does."""
        self._stream.wait_stream(torch.cuda.current_stream(self._learner.device))
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream(self._learner.device).wait_stream(self._stream)

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        for generator in self._noise:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._one()
        except RuntimeError as error:
            network = self._learner.recipe.network
            raise RuntimeError(
                f"a step of {network} cannot be captured in a CUDA graph ({error}); compile it instead"
            ) from error
        return graph


def can_be_captured(recipe: Recipe, split: Split) -> bool:
    """Whether steps of this recipe are captured as a CUDA graph.

    On a GPU, unless torch.compile takes the graph's place, gradients are scaled (float16: the scale is decided from the
    host), the optimiser cannot be captured, or images come from disk.
    """
    on_gpu = torch.device(recipe.device).type == "cuda"
    plain = recipe.compile == "none" and recipe.dtype != "float16"
    return on_gpu and plain and optimisers.capturable(recipe) and isinstance(split, MemorySplit)
