"""One training, or one stack of trainings, from its first step to its last.

    step 0 ......... curve point ......... curve point ......... steps
           |window|window|   | validation                        | weights, record
                  | checkpoint, when one is due

Steps run in windows of a fraction of a second. The losses of a window are read at its end, all at once: nothing is
waited for within it. What is decided (curve, divergence, weights) does not depend on where windows end, so a training
that was killed and goes on from a checkpoint ends as if it had not been.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from archs.top_layer_kinds import RIVALS, TopLayerKind
from bench.accuracy import networks, optimisers
from bench.accuracy.batches import stream_seed
from bench.accuracy.checkpoints import Checkpoint, CheckpointFolder, State, read_weights, write_weights
from bench.accuracy.data import Dataset
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.losses import Configured, configured, draws_noise, of_rival
from bench.accuracy.records import CurvePoint, DatasetFacts, Training
from bench.accuracy.settings import LossSetting, Member, Recipe
from bench.accuracy.stacking import stackable
from bench.accuracy.steps import EagerSteps, GraphedSteps, Learner, Minibatches, can_be_captured
from bench.accuracy.validation import validate
from bench.errors import UsageError

#: Whoever watches is told no more often than this.
PROGRESS_EVERY_S = 0.5

#: A window of steps: short beside the times above and below, long beside reading its losses.
WINDOW_S = 0.2
LONGEST_WINDOW = 1000
FIRST_WINDOW = 4


class Work(BaseModel):
    """Trainings that step together: one, or a stack of several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: tuple[Member, ...] = Field(min_length=1)
    recipe: Recipe
    losses: tuple[LossSetting, ...] = Field(description="of the members, each once")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.members)) < len(self.members):
            raise ValueError("a training stands twice in one work")
        known = {loss.key for loss in self.losses}
        missing = [member.loss for member in self.members if member.loss not in known]
        if missing:
            raise ValueError(f"the loss {missing[0]!r} of a training has no setting")
        return self

    @property
    def name(self) -> str:
        """Name of its checkpoints' folder: the training's, or a short digest of all that are stacked."""
        if len(self.members) == 1:
            return self.members[0].name
        digest = hashlib.sha256("\n".join(member.name for member in self.members).encode()).hexdigest()
        return f"stack-{digest[:16]}"


def train(
    work: Work,
    dataset: Dataset,
    emit: Callable[[Stepped | Ended], None],
    *,
    checkpoints: Path | None,
    checkpoint_every_s: float = 30.0,
) -> None:
    """Train the members of a work to the end, and emit Ended for each.

    With a folder of `checkpoints` it goes on from where a kill left it, and leaves `<member.name>.safetensors` there
    for each training that reached its end (see `model_of`); a training that diverged leaves its record alone. If it is
    cut off between two Ended, all are emitted again when it is done again, and are equal but for their times. `emit`
    may raise; the folder stays usable. Torch's thread count and random state are the caller's again afterwards.

    Raises UsageError for what cannot be trained so and for a checkpoint that was altered or is another's, OSError if
    the disk refuses.
    """
    _refuse_unstackable(work)
    device = torch.device(work.recipe.device)
    folder = None if checkpoints is None else CheckpointFolder(checkpoints / work.name, _digest(work, dataset.facts))
    with _threads(work.recipe.threads), _current(device), _own_random_state(device, work.members[0].seed):
        trainer = _Trainer(work, dataset, emit)
        if folder is not None and (found := folder.newest()) is not None:
            trainer.restore(found)
        trainer.run(folder, checkpoint_every_s)
        ended = trainer.ended()
        if checkpoints is not None:
            for training, weights in zip(ended, trainer.learner.state_dicts(), strict=True):
                if training.status == "ok":
                    name = training.member.name
                    write_weights(checkpoints / f"{name}.safetensors", weights, name)
    for training in ended:
        emit(Ended(training=training))
    if folder is not None:
        folder.discard()


def model_of(
    member: Member, recipe: Recipe, facts: DatasetFacts, checkpoints: Path, frequencies: Tensor | None = None
) -> nn.Module:
    """The network a training ended with, in evaluation mode on the CPU.

    `frequencies` of the classes in the training split, (classes,): they decide the shape of a rival of the full top
    layer, and a member without one needs none.

    Raises UsageError if its weights are missing, damaged, or those of another network.
    """
    file = checkpoints / f"{member.name}.safetensors"
    weights = read_weights(file, member.name)
    network = _network(member, recipe, facts, frequencies)
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise UsageError(f"{file}: these are the weights of another network than {recipe.network}") from None
    return network.eval()


def curve_steps(steps: int, points: int) -> tuple[int, ...]:
    """The steps after which a training is validated: evenly spaced, the last at the end; each step once at most."""
    return tuple(dict.fromkeys(step for point in range(1, points + 1) if (step := point * steps // points)))


def window(step_s: float | None, longest: int) -> int:
    """Steps of the next window: about WINDOW_S of them by the time that one took, 1 to `longest`."""
    wanted = FIRST_WINDOW if step_s is None else int(min(WINDOW_S / max(step_s, 1e-9), LONGEST_WINDOW))
    return max(1, min(wanted, longest))


def first_not_finite(losses: Sequence[float]) -> int | None:
    """Position of the first loss that is not finite; None if all are."""
    return next((position for position, loss in enumerate(losses) if not math.isfinite(loss)), None)


class _Account:
    """What is known of one training on its way."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.diverged_at: int | None = None
        self.curve: list[CurvePoint] = []
        self.loss_sum = 0.0
        self.loss_steps = 0
        self.recent: float | None = None

    def add(self, step: int, losses: Sequence[float]) -> None:
        """The losses of the steps after step `step`, up to the first that is not finite."""
        if self.diverged_at is not None:
            return
        bad = first_not_finite(losses)
        if bad is not None:
            self.diverged_at = step + bad + 1
            self.recent = None
            return
        for loss in losses:  # one by one: the sum must not depend on where windows end
            self.loss_sum += loss
        self.loss_steps += len(losses)
        self.recent = math.fsum(losses) / len(losses)

    def validated(self, step: int, loss: float, accuracy: float, seconds: float) -> None:
        """Add a curve point, unless the training diverged before it."""
        if self.diverged_at is not None:
            return
        point = CurvePoint(
            step=step,
            training_loss=_finite(self.loss_sum / self.loss_steps),
            validation_loss=_finite(loss),
            validation_accuracy=accuracy,
            seconds=seconds,
        )
        self.curve.append(point)
        self.loss_sum, self.loss_steps = 0.0, 0

    def state(self) -> State:
        curve = [point.model_dump() for point in self.curve]
        return {
            "diverged_at": self.diverged_at,
            "curve": curve,
            "loss_sum": self.loss_sum,
            "loss_steps": self.loss_steps,
        }

    def restore(self, state: State) -> None:
        self.diverged_at = state["diverged_at"]
        self.curve = [CurvePoint(**point) for point in state["curve"]]
        self.loss_sum, self.loss_steps = state["loss_sum"], state["loss_steps"]


class _Trainer:
    """Runs the windows of a work, and keeps account."""

    def __init__(self, work: Work, dataset: Dataset, emit: Callable[[Stepped | Ended], None]) -> None:
        recipe = work.recipe
        device = torch.device(recipe.device)
        self._work = work
        self._emit = emit
        self._train, self._validation = dataset.train.on(device), dataset.validation.on(device)
        self._noise = [_noise_of(member, device) for member in work.members]
        frequencies = class_frequencies(dataset)
        made = [_network(member, recipe, dataset.facts, frequencies) for member in work.members]
        _refuse_lone_example(recipe, made[0])
        self.learner = Learner(
            made,
            _losses(work, dataset, self._noise),
            [member.learning_rate for member in work.members],
            recipe,
            capture=can_be_captured(recipe, self._train),
        )
        self._accounts = [_Account(member) for member in work.members]
        self._curve_steps = curve_steps(recipe.steps, recipe.curve_points)
        self._step = 0
        self._stepping_s = 0.0
        self._validating_s = 0.0
        self._window_s: float | None = None
        self._told = (-math.inf, 0, 0.0)

    def run(self, folder: CheckpointFolder | None, every_s: float) -> None:
        """To the last step, or until all have diverged."""
        steps = self._steps()
        saved = time.monotonic()
        self._tell()
        while self._step < self._work.recipe.steps and not self._all_diverged:
            self._run_window(steps)
            if self._step in self._curve_steps and not self._all_diverged:
                self._validate()
            self._tell()
            unfinished = self._step < self._work.recipe.steps and not self._all_diverged
            if folder is not None and unfinished and time.monotonic() - saved >= every_s:
                folder.save(self._step, self.learner.module.state_dict(), self._state())
                saved = time.monotonic()
        self._refuse_weights_not_finite()

    def ended(self) -> list[Training]:
        """The record of each training."""
        return [self._record(account) for account in self._accounts]

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same work."""
        state = checkpoint.state
        self._step = checkpoint.step
        self.learner.module.load_state_dict(checkpoint.weights)
        optimisers.restore(self.learner.optimiser, state["optimiser"], capture=self.learner.capture)
        if self.learner.scaler:
            self.learner.scaler.load_state_dict(state["scaler"])
        for account, own in zip(self._accounts, state["accounts"], strict=True):
            account.restore(own)
        for generator, own in zip(self._noise, state["noise"], strict=True):
            generator.set_state(own)
        _set_random_state(self.learner.device, state["random"])
        self._stepping_s, self._validating_s = state["stepping_s"], state["validating_s"]

    def _state(self) -> State:
        return {
            "step": self._step,
            "optimiser": self.learner.optimiser.state_dict(),
            "scaler": self.learner.scaler.state_dict() if self.learner.scaler else None,
            "accounts": [account.state() for account in self._accounts],
            "noise": [generator.get_state() for generator in self._noise],
            "random": _random_state(self.learner.device),
            "stepping_s": self._stepping_s,
            "validating_s": self._validating_s,
        }

    @property
    def _all_diverged(self) -> bool:
        return all(account.diverged_at is not None for account in self._accounts)

    def _steps(self) -> EagerSteps | GraphedSteps:
        minibatches = Minibatches(self._train, self._work.recipe, [member.seed for member in self._work.members])
        if not self.learner.capture:
            return EagerSteps(self.learner, minibatches, self._step)
        return GraphedSteps(self.learner, minibatches, self._step, LONGEST_WINDOW, self._noise)

    def _run_window(self, steps: EagerSteps | GraphedSteps) -> None:
        ahead = next(step for step in self._curve_steps if step > self._step) - self._step
        count = window(self._window_s, ahead)
        start = time.monotonic()
        losses = steps.run(count).t().tolist()  # reading them waits for the device
        took = time.monotonic() - start
        for account, own in zip(self._accounts, losses, strict=True):
            account.add(self._step, own)
        self._step += count
        self._stepping_s += took
        self._window_s = took / count

    def _validate(self) -> None:
        start = time.monotonic()
        with self._noise_of_validation():
            found = validate(self.learner, self._validation, len(self._accounts))
        self._validating_s += time.monotonic() - start
        for account, (loss, accuracy) in zip(self._accounts, found, strict=True):
            account.validated(self._step, loss, accuracy, self._stepping_s + self._validating_s)

    @contextmanager
    def _noise_of_validation(self) -> Iterator[None]:
        """The same noise at each validation, so that they compare; the training's own goes on where it was."""
        before = [generator.get_state() for generator in self._noise]
        for generator, account in zip(self._noise, self._accounts, strict=True):
            generator.manual_seed(stream_seed("validation noise", account.member.seed))
        try:
            yield
        finally:
            for generator, state in zip(self._noise, before, strict=True):
                generator.set_state(state)

    def _refuse_weights_not_finite(self) -> None:
        """The last step's update is seen by no later loss: a training it left without numbers has diverged there."""
        for account, weights in zip(self._accounts, self.learner.state_dicts(), strict=True):
            if account.diverged_at is None and not all(_is_finite(tensor) for tensor in weights.values()):
                account.diverged_at = self._step

    def _tell(self) -> None:
        """Progress, if the last was long enough ago."""
        told_at, told_step, told_s = self._told
        if time.monotonic() - told_at < PROGRESS_EVERY_S:
            return
        steps, seconds = self._step - told_step, self._stepping_s - told_s
        first = told_at == -math.inf
        self._emit(
            Stepped(
                members=self._work.members,
                step=self._step,
                steps=self._work.recipe.steps,
                training_losses=tuple(account.recent for account in self._accounts),
                validation_accuracies=tuple(
                    account.curve[-1].validation_accuracy if account.curve else None for account in self._accounts
                ),
                steps_per_s=None if first or not steps or not seconds else steps / seconds,
            )
        )
        self._told = (time.monotonic(), self._step, self._stepping_s)

    def _record(self, account: _Account) -> Training:
        diverged = account.diverged_at is not None
        done = self._step * self._work.recipe.batch_size
        return Training(
            member=account.member,
            status="diverged" if diverged else "ok",
            reason=self._reason(account) if diverged else "",
            steps=account.diverged_at if account.diverged_at is not None else self._step,
            diverged_at=account.diverged_at,
            curve=tuple(account.curve),
            seconds=self._stepping_s + self._validating_s,
            examples_per_s=done / self._stepping_s if self._stepping_s else None,
        )

    def _reason(self, account: _Account) -> str:
        return (
            f"the loss, or a weight, was no longer finite at step {account.diverged_at} "
            f"of {self._work.recipe.steps} with learning rate {account.member.learning_rate:g}"
        )


def class_frequencies(dataset: Dataset) -> Tensor:
    """Examples of each class in the training split: int64, (classes,)."""
    return torch.bincount(dataset.train.labels, minlength=dataset.facts.classes)


def top_layer_of(member: Member) -> TopLayerKind:
    """The kind of its top layer: a rival stands in the place of a loss's key, all losses are those of a full layer."""
    return next((kind for kind in RIVALS if kind == member.loss), "full")


def _network(member: Member, recipe: Recipe, facts: DatasetFacts, frequencies: Tensor | None) -> nn.Module:
    return networks.build(
        recipe.network,
        facts.input_shape,
        facts.classes,
        seed=member.seed,
        prior_bias=recipe.prior_bias,
        auxiliary=recipe.auxiliary_weight > 0,
        top_layer=top_layer_of(member),
        frequencies=frequencies,
    )


def _losses(work: Work, dataset: Dataset, noise: Sequence[torch.Generator]) -> list[Configured]:
    """Each member's loss; members share one unless it draws noise, which is each one's own."""
    settings = {setting.key: setting for setting in work.losses}
    frequencies = class_frequencies(dataset)
    shared: dict[str, Configured] = {}
    losses = []
    for member, generator in zip(work.members, noise, strict=True):
        setting = settings[member.loss]
        if top_layer_of(member) != "full":
            losses.append(of_rival(setting, label_smoothing=work.recipe.label_smoothing))
            continue
        if member.loss not in shared or draws_noise(setting):
            shared[member.loss] = configured(
                member.loss,
                classes=dataset.facts.classes,
                class_frequencies=frequencies,
                label_smoothing=work.recipe.label_smoothing,
                generator=generator,
                **setting.hyperparameters,
            )
        losses.append(shared[member.loss])
    return losses


def _noise_of(member: Member, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(stream_seed("noise", member.seed))


def _refuse_unstackable(work: Work) -> None:
    rival = next((kind for kind in map(top_layer_of, work.members) if kind != "full"), None)
    if len(work.members) > 1 and rival is not None:
        raise UsageError(f"trainings with a top layer of {rival} cannot be stacked; use stacks of 1")
    if len(work.members) > 1 and not stackable(work.recipe.network, work.recipe.dtype):
        raise UsageError(
            f"trainings of {work.recipe.network} in {work.recipe.dtype} cannot be stacked: only the MLP can, "
            "in float32 or bfloat16; use stacks of 1"
        )


def _refuse_lone_example(recipe: Recipe, network: nn.Module) -> None:
    if recipe.batch_size == 1 and any(isinstance(part, _BatchNorm) for part in network.modules()):
        raise UsageError(
            f"{recipe.network} normalises by its minibatch, and one example has no variance; give 2 or more"
        )


def _digest(work: Work, facts: DatasetFacts) -> str:
    """Of all that decides the result; how many threads and workers do it is left out."""
    decides = work.model_dump_json(exclude={"recipe": {"threads", "workers"}})
    return hashlib.sha256(f"{decides}\n{facts.model_dump_json()}".encode()).hexdigest()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Streams and graphs belong to the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _own_random_state(device: torch.device, seed: int) -> Iterator[None]:
    """Torch's global generators, of which dropout draws, start at the seed; afterwards they are as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_state(device: torch.device, states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
