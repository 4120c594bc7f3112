"""One training step: gather a minibatch, forward, loss, backward, optimiser.

Axes: S distinct seeds, G members (each with the minibatch of its seed), m examples, k classes. Members step together as
one stack; a single training is G = S = 1. The losses of the steps stay on the device until a window of them is read.

Where the top layer steps by itself (bench.accuracy.top_steps), or a step is cut into micro-batches, backbone and top
layer part; of several micro-batches the backbone runs twice:

    micro-batches -- backbone, no graph --> features (m, d) -- top layer, loss --> their gradient (m, d)
    micro-batches -- backbone again, same dropout and statistics, with a graph <-- backward

as gradients of a contrastive loss are cached (Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup, Sect. 3.2). Batch norm normalises by the micro-batch, and keeps its running statistics once.

Several ranks (bench.accuracy.ranks) each have some examples of a minibatch, and of each of its micro-batches. Loss,
batch norm and gradients are those of all examples together; of a top layer that is split each rank has its own rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from archs.swapping import without_top
from archs.top_layer_kinds import RIVALS
from bench.accuracy import optimisers
from bench.accuracy.batches import BatchOrder, stream_seed
from bench.accuracy.chunked import ChunkedLoss, SampledForm, SampledLoss
from bench.accuracy.data import Split
from bench.accuracy.data.splits import MemorySplit
from bench.accuracy.losses import Configured
from bench.accuracy.ranks import ALONE, Ranks, ShardedTopLayer, over_ranks, places_of_ranks, sum_gradients
from bench.accuracy.ranks.top_steps import (
    Division,
    GlobalChunkedStep,
    GlobalLoss,
    GlobalSampledStep,
    ShardedStep,
    form_over,
)
from bench.accuracy.settings import Recipe
from bench.accuracy.stacking import Loss, MemberLosses, MemberParameters, Stack, stack, state_dicts
from bench.accuracy.top_steps import ChunkedStep, DenseStep, InPlaceStep, TopStep, at_least_single, chunked_loss

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
        top: str | None = None,
        ranks: Ranks = ALONE,
        classes: int = 0,
    ) -> None:
        """`networks`, `losses` and `rates`: one for each member; several networks are stacked.

        The networks move to the recipe's device. With `capture` a step can be captured in a CUDA graph. `top`: path of
        the top layer, for a recipe whose `parted` is true; it trains one network, by a loss of bench.accuracy.losses
        unless its top layer steps densely. `ranks`: those of this training, of one network alone, by a loss of
        bench.accuracy.losses over `classes`; what it is given of a minibatch are then this rank's examples.

        A top layer that is split over ranks has this rank's rows alone. It leaves `module`, and is `sharded`.

        Raises ValueError for several networks or no path there, and for float16 with a top layer that steps in place:
        the optimiser passes over steps whose scaled gradients overflow, and the layer would not. UsageError for fewer
        examples than ranks, and for batch norm that cannot be put over ranks.
        """
        self.recipe = recipe
        self.device = torch.device(recipe.device)
        self.capture = capture
        self.ranks = ranks
        self._division = _division(recipe, ranks)
        self._classes = classes
        layer = self._place(networks, top)
        self.sharded: ShardedTopLayer | None = None
        self.top_step = None if layer is None else self._made_top_step(layer, losses[0], rates[0])
        self._rate = rates[0]
        own = list(self._members) if self._members else [self._optimised()]
        self.optimiser = optimisers.make(recipe, own, rates, capture=capture)
        self.own_optimiser = self._optimiser_of_own_rows(rates[0])
        self.scaler = torch.amp.GradScaler(self.device.type) if recipe.dtype == "float16" else None
        self._losses = self._trained_losses = MemberLosses(losses, self.device)
        self.noise: SampledForm | None = None  # of a loss that draws classes, over ranks
        if ranks.size > 1:
            shared = self._global(losses[0])
            self._trained_losses = MemberLosses([shared], self.device)
            self.noise = shared.form if isinstance(shared.form, SampledForm) else None
        self._forward = _compiled(self._backbone, recipe)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on minibatches (G, m, ...), labels (G, m); returns each member's loss before it, (G,).

        With ranks m is this rank's examples, and the loss is that of all ranks'.
        """
        if self.top_step is not None:
            losses = self._in_parts(self.top_step, images.squeeze(0), labels.squeeze(0)).unsqueeze(0)
        else:
            losses = self._objective(images, labels)
            self._scaled(losses.sum()).backward()  # type: ignore[no-untyped-call]
        if self._members:
            self._members.take_gradients()
        sum_gradients(self.module.parameters(), self.ranks)
        if self.scaler:
            self.scaler.step(self.optimiser)
            self.scaler.update()
        else:
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.own_optimiser is not None:
            self.own_optimiser.step()
            self.own_optimiser.zero_grad(set_to_none=True)
        return losses.detach()

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Each member's own loss of logits (G, m, k) and labels (G, m): (G,); over ranks, of these examples."""
        return self._losses(logits, labels)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of minibatches (G, m, ...) in the mode that the networks are in: (G, m, k), float32 at least."""
        return self._outputs(self.module, images)[0]

    def features(self, images: Tensor) -> Tensor:
        """What the top layer of a network in parts takes: (m, ...) -> (m, d), in the mode that the network is in."""
        with self._precision():
            features: Tensor = self._backbone(images)
        return features

    def train(self, mode: bool = True) -> None:
        """Set the networks to training mode, or to evaluation mode."""
        self.module.train(mode)
        self._backbone.train(mode)  # its containers on the way to the top layer are copies

    def set_rates(self, factor: float) -> None:
        """Learning rates of the next step: the initial ones times `factor`."""
        optimisers.set_rates(self.optimiser, factor)
        if self.own_optimiser is not None:
            optimisers.set_rates(self.own_optimiser, factor)
        if isinstance(self.top_step, InPlaceStep | ShardedStep):
            self.top_step.rate = factor * self._rate

    def state_dicts(self) -> list[dict[str, Tensor]]:
        """Each member's weights and buffers, by the names of a plain network; the learner's own memory.

        Without a top layer that is split over ranks: its own rows are `sharded.weight` and `sharded.bias`.
        """
        return state_dicts(self.module) if isinstance(self.module, Stack) else [self.module.state_dict()]

    def _place(self, networks: Sequence[nn.Module], top: str | None) -> nn.Module | None:
        """Module and backbone, on the device, batch norm over ranks; gives the top layer that steps apart, if any."""
        recipe = self.recipe
        if len(networks) > 1 and (parted(recipe) or self.ranks.size > 1):
            raise ValueError("a step in parts, or over ranks, is that of one network")
        whole = networks[0] if len(networks) == 1 else stack(networks)
        layer: nn.Module | None = None
        if parted(recipe):
            if top is None:
                raise ValueError("a step in parts is that of a network whose top layer is named")
            layer = whole.get_submodule(top)
            if recipe.shard_top_layer:  # before it is placed: a device is to have room for the own rows alone
                whole = without_top(whole, top)
        self.module = over_ranks(_placed(whole, self.device), self.ranks)
        self._members = MemberParameters(self.module) if isinstance(self.module, Stack) else None
        self._backbone = self.module
        if layer is not None and top is not None and not recipe.shard_top_layer:
            self._backbone = without_top(self.module, top)
        return layer

    def _made_top_step(self, layer: nn.Module, loss: Loss, rate: float) -> TopStep:
        if self.recipe.top_layer_step == "dense":
            return DenseStep(layer, loss if self.ranks.size == 1 else self._global(loss), self._precision)
        if not isinstance(layer, nn.Linear) or not isinstance(loss, Configured):
            raise ValueError("chunks of classes are those of a linear layer, by a loss of bench.accuracy.losses")
        over_chunks = chunked_loss(loss, self._classes if self.recipe.shard_top_layer else layer.out_features)
        in_place = self.recipe.top_layer_step == "in-place"
        if self.recipe.dtype == "float16" and (in_place or self.recipe.shard_top_layer):
            raise ValueError("a top layer that steps in place, or is split, cannot pass over steps, as float16 needs")
        if self.recipe.shard_top_layer:
            return self._sharded_step(layer, over_chunks, rate)
        if in_place:
            if self.ranks.size > 1:
                raise ValueError("a layer that every rank holds cannot step in place: its gradients are summed first")
            return InPlaceStep(layer, over_chunks, rate, self.recipe.weight_decay)
        if self.ranks.size == 1:
            return ChunkedStep(layer, over_chunks)
        if isinstance(over_chunks, SampledLoss):
            return GlobalSampledStep(layer, over_chunks, self._division)
        return GlobalChunkedStep(layer, over_chunks, self._division)

    def _sharded_step(self, layer: nn.Linear, loss: ChunkedLoss | SampledLoss, rate: float) -> ShardedStep:
        """Of this rank's rows, which are all that `layer` has."""
        in_place = self.recipe.top_layer_step == "in-place"
        placed = layer.to(self.device).requires_grad_(not in_place)
        self.sharded = ShardedTopLayer(placed.weight, placed.bias, loss.form, self.ranks)
        return ShardedStep(self.sharded, loss, self._division, in_place, rate, self.recipe.weight_decay)

    def _optimiser_of_own_rows(self, rate: float) -> torch.optim.Optimizer | None:
        """Of a split layer's rows here, apart from that of what every rank has; none where they step in place."""
        if self.sharded is None or self.recipe.top_layer_step == "in-place":
            return None
        rows = [each for each in (self.sharded.weight, self.sharded.bias) if isinstance(each, nn.Parameter)]
        return optimisers.make(self.recipe, [rows], [rate])

    def _global(self, loss: Loss) -> GlobalLoss:
        if not isinstance(loss, Configured):
            raise ValueError("ranks share a loss of bench.accuracy.losses")
        form = form_over(loss, self._classes, rival=loss.setting.key in RIVALS)
        return GlobalLoss(loss, form, self._division)

    def _optimised(self) -> list[nn.Parameter]:
        """All that learns, but a top layer that makes its own step."""
        own = self.top_step.layer.parameters() if isinstance(self.top_step, InPlaceStep) else ()
        apart = {id(parameter) for parameter in own}
        return [parameter for parameter in _trained(self.module) if id(parameter) not in apart]

    def _in_parts(self, top_step: TopStep, images: Tensor, labels: Tensor) -> Tensor:
        """Backbone, top layer, backbone: the loss of the whole minibatch, and every gradient where it belongs."""
        parts = images.tensor_split(self.recipe.accumulation)
        if len(parts) == 1:
            features = self._trained_features(images)
            step = top_step(features, labels, self._scaled)
            _backward(features, step.features)
            return step.loss
        with _rehearsed(self.module, self.device), torch.no_grad():
            features = torch.cat([self._trained_features(part) for part in parts])
        step = top_step(features, labels, self._scaled)
        for part, gradient in zip(parts, step.features.tensor_split(len(parts)), strict=True):
            _backward(self._trained_features(part), gradient)
        return step.loss

    def _trained_features(self, images: Tensor) -> Tensor:
        with self._precision():
            features = self._forward(images)
        assert isinstance(features, Tensor)
        return features

    def _scaled(self, loss: Tensor) -> Tensor:
        return self.scaler.scale(loss) if self.scaler else loss

    def _objective(self, images: Tensor, labels: Tensor) -> Tensor:
        """Loss of the logits, plus that of the auxiliary logits by its weight, where there are any."""
        logits, auxiliary = self._outputs(self._forward, images)
        losses = self._trained_losses(logits, labels)
        if auxiliary is None or not self.recipe.auxiliary_weight:
            return losses
        return losses + self.recipe.auxiliary_weight * self._trained_losses(auxiliary, labels)

    def _outputs(self, forward: Callable[[Tensor], object], images: Tensor) -> tuple[Tensor, Tensor | None]:
        with self._precision():
            outputs = forward(images if self._members else images.squeeze(0))
        if isinstance(outputs, tuple):
            return at_least_single(outputs[0]).unsqueeze(0), at_least_single(outputs[1]).unsqueeze(0)
        assert isinstance(outputs, Tensor)
        return at_least_single(outputs if self._members else outputs.unsqueeze(0)), None

    def _precision(self) -> AbstractContextManager[object]:
        dtype = _DTYPES[self.recipe.dtype]
        if dtype is torch.float32:
            return nullcontext()
        # Each weight is used once in a forward: a cache of cast weights saves nothing and must not outlive a graph.
        return torch.autocast(self.device.type, dtype, cache_enabled=False)


def parted(recipe: Recipe) -> bool:
    """Whether backbone and top layer make their parts of a step apart."""
    return recipe.top_layer_step != "dense" or recipe.accumulation > 1


def _division(recipe: Recipe, ranks: Ranks) -> Division:
    return Division(ranks, tuple(places_of_ranks(recipe.batch_size, recipe.accumulation, ranks.size)))


def _backward(features: Tensor, gradient: Tensor) -> None:
    """Through the backbone, if there is anything in it that learns."""
    if features.requires_grad:
        features.backward(gradient)  # type: ignore[no-untyped-call]


@contextmanager
def _rehearsed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Forwards that leave no trace: running statistics and random state are afterwards what they were before."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    for buffer, before in kept:
        buffer.copy_(before)


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

    def __init__(self, split: Split, recipe: Recipe, seeds: Sequence[int], ranks: Ranks = ALONE) -> None:
        """`seeds`: one for each member; members of one seed share what is gathered. Of several `ranks`, m is this
        one's share of the minibatch of all, and no other example is read.

        Raises ValueError for several seeds on data that are not in memory: one augmentation cannot serve them all.
        """
        distinct = tuple(dict.fromkeys(seeds))
        if len(distinct) > 1 and not isinstance(split, MemorySplit):
            raise ValueError("trainings of several seeds can step together only on data that are held in memory")
        device = torch.device(recipe.device)
        self.split = split
        self.steps = recipe.steps
        self._own = None if ranks.size == 1 else _division(recipe, ranks).own
        self.size = (len(distinct), recipe.batch_size if self._own is None else len(self._own))
        self._labels = split.labels.to(device)
        self._orders = [BatchOrder(len(split), recipe.batch_size, seed) for seed in distinct]
        self._augmentation = stream_seed("augmentation", distinct[0])
        one_each = list(seeds) == list(distinct)
        self._owners = None if one_each else torch.tensor([distinct.index(seed) for seed in seeds], device=device)
        self._device = device

    def indices(self, first: int, steps: int) -> Tensor:
        """Indices of the examples of `steps` steps from step `first` (from 0): int64 on the CPU, (steps, S, m)."""
        whole = torch.stack([order.window(first, steps) for order in self._orders], dim=1)
        return whole if self._own is None else whole[:, :, self._own]

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
            self._learner.set_rates(optimisers.rate_factor(recipe, self._step))
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
    host), the optimiser cannot be captured, images come from disk, several ranks talk to each other, or the step is
    made in parts: large layers are not kept waiting by launches, and a margin loss asks its device whether logits tie.
    """
    on_gpu = torch.device(recipe.device).type == "cuda"
    plain = recipe.compile == "none" and recipe.dtype != "float16" and not parted(recipe) and recipe.ranks == 1
    return on_gpu and plain and optimisers.capturable(recipe) and isinstance(split, MemorySplit)
