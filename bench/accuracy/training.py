"""One training, or one stack of trainings, from its first step to its last.

    step 0 ......... curve point ......... curve point ......... steps
           |window|window|   | validation                        | weights, record
                  | checkpoint, when one is due

Steps run in windows of a fraction of a second. The losses of a window are read at its end, all at once: nothing is
waited for within it. What is decided (curve, divergence, weights) does not depend on where windows end, so a training
that was killed and goes on from a checkpoint ends as if it had not been.

Several ranks (bench.accuracy.ranks) run the same windows: what the clock decides is decided by rank 0's.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from bench.accuracy import optimisers
from bench.accuracy.batches import stream_seed
from bench.accuracy.checkpoints import Checkpoint, CheckpointFolder, State, write_weights
from bench.accuracy.data import Dataset
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.losses import Configured, configured, draws_noise, of_rival
from bench.accuracy.models import names_of_top_layer, network_of, sharded_folder, top_layer_of, top_path
from bench.accuracy.ranks import (
    ALONE,
    Ranks,
    ShardedCheckpoint,
    ShardedCheckpoints,
    on_each,
    on_first,
    refuse_drift,
    shares,
    write_network,
)
from bench.accuracy.records import CurvePoint, DatasetFacts, Training
from bench.accuracy.refusals import (
    refuse_lone_example,
    refuse_more_ranks_than_classes,
    refuse_unfit_members,
    refuse_unfit_step,
)
from bench.accuracy.settings import LossSetting, Member, Recipe, starts_at_prior
from bench.accuracy.steps import EagerSteps, GraphedSteps, Learner, Minibatches, can_be_captured, parted
from bench.accuracy.validation import validate
from bench.errors import UsageError
from bench.machine.threads import intra_op_threads

#: Whoever watches is told no more often than this.
PROGRESS_EVERY_S = 0.5

#: A window of steps: short beside the times above and below, long beside reading its losses.
WINDOW_S = 0.2
LONGEST_WINDOW = 1000
FIRST_WINDOW = 4

#: Fields of a recipe that came later, and what was done before: with these values they are left out of the digest of a
#: work, so that checkpoints from then are still those of the same trainings.
_LATER_FIELDS = {"top_layer_step": "dense", "accumulation": 1, "ranks": 1, "shard_top_layer": False}


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
    ranks: Ranks = ALONE,
) -> None:
    """Train the members of a work to the end, and emit Ended for each.

    With a folder of `checkpoints` it goes on from where a kill left it, and leaves `<member.name>.safetensors` there
    for each training that reached its end (see `model_of`), or `<member.name>.sharded`, a folder, where the top layer
    is split over ranks; a training that diverged leaves its record alone. If it is cut off between two Ended, all are
    emitted again when it is done again, and are equal but for their times. `emit` may raise; the folder stays usable.
    Torch's thread count and random state are the caller's again afterwards.

    ranks: all of them call this with the same work and data, and emit the same events in the same order; the folder
    must be one that all see.

    Raises UsageError for what cannot be trained so and for a checkpoint that was altered or is another's, OSError if
    the disk refuses, RankLost if another rank is gone.
    """
    refuse_unfit_members(work.members, work.recipe)
    refuse_unfit_step(work.recipe, ranks.size)
    refuse_more_ranks_than_classes(work.recipe, dataset.facts.classes)
    device = torch.device(work.recipe.device)
    digest = ranks.broadcast(_digest(work, dataset.facts))  # the number of a rank's GPU is its own
    folder = None if checkpoints is None else CheckpointFolder(checkpoints / work.name, digest)
    with intra_op_threads(work.recipe.threads), _current(device), _own_random_state(device, _dropout_seed(work, ranks)):
        trainer = _Trainer(work, dataset, emit, ranks)
        if folder is not None:
            trainer.go_on(folder)
        trainer.run(folder, checkpoint_every_s)
        ended = trainer.ended()
        if checkpoints is not None:
            trainer.write_networks(ended, checkpoints)
    for training in ended:
        emit(Ended(training=training))
    if folder is not None:
        on_first(ranks, folder.discard)


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

    def __init__(self, work: Work, dataset: Dataset, emit: Callable[[Stepped | Ended], None], ranks: Ranks) -> None:
        recipe = work.recipe
        self._ranks = ranks
        self._facts = dataset.facts
        device = torch.device(recipe.device)
        self._work = work
        self._emit = emit
        self._train, self._validation = dataset.train.on(device), dataset.validation.on(device)
        self._noise = [_noise_of(member, device) for member in work.members]
        frequencies = dataset.class_frequencies()
        settings = {setting.key: setting for setting in work.losses}
        own_rows = shares(dataset.facts.classes, ranks.size)[ranks.rank] if recipe.shard_top_layer else None
        made = [
            network_of(
                member,
                recipe,
                dataset.facts,
                frequencies,
                prior_bias=starts_at_prior(recipe, settings[member.loss]),
                rows=own_rows,
            )
            for member in work.members
        ]
        refuse_lone_example(recipe, made[0])
        stepped = _step_of(work.members[0], recipe)
        self.learner = Learner(
            made,
            _losses(work, dataset, self._noise),
            [member.learning_rate for member in work.members],
            stepped,
            capture=can_be_captured(stepped, self._train),
            top=top_path(recipe, dataset.facts) if parted(stepped) else None,
            ranks=ranks,
            classes=dataset.facts.classes,
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
        saved = self._now()
        self._tell()
        while self._step < self._work.recipe.steps and not self._all_diverged:
            self._run_window(steps)
            if self._step in self._curve_steps and not self._all_diverged:
                self._validate()
            self._tell()
            unfinished = self._step < self._work.recipe.steps and not self._all_diverged
            if folder is not None and unfinished and self._now() - saved >= every_s:
                self._save(folder)
                saved = self._now()
        self._refuse_weights_not_finite()

    def ended(self) -> list[Training]:
        """The record of each training."""
        return [self._record(account) for account in self._accounts]

    def go_on(self, folder: CheckpointFolder) -> None:
        """From the newest checkpoint of the same work, if there is one."""
        if self.learner.sharded is None:
            found = _newest(folder, self._ranks)
            if found is not None:
                self._restore(found.weights, found.state)
            return
        sharded = self._sharded_checkpoints(folder).newest(self._facts.classes)
        if sharded is not None:
            self._restore(sharded.weights, sharded.state)
            on_each(self._ranks, lambda: self._restore_rows(sharded))

    def write_networks(self, ended: Sequence[Training], checkpoints: Path) -> None:
        """The weights of each training that reached its end."""
        for training, weights in zip(ended, self.learner.state_dicts(), strict=True):
            if training.status != "ok":
                continue
            name = training.member.name
            if self.learner.sharded is not None:
                names = names_of_top_layer(self._work.recipe, self._facts)
                path = sharded_folder(checkpoints, training.member)
                write_network(path, weights, self.learner.sharded, name, self._ranks, names)
            else:
                on_first(self._ranks, partial(write_weights, checkpoints / f"{name}.safetensors", weights, name))

    def _save(self, folder: CheckpointFolder) -> None:
        """A checkpoint, by all ranks together."""
        state, weights, step = self._state(), self.learner.module.state_dict(), self._step
        if self.learner.sharded is None:
            on_first(self._ranks, lambda: folder.save(step, weights, state))
            return
        optimiser = self.learner.own_optimiser
        own = None if optimiser is None else {"step": step, "optimiser": optimiser.state_dict()}
        self._sharded_checkpoints(folder).save(step, weights, state, self.learner.sharded, own)

    def _sharded_checkpoints(self, folder: CheckpointFolder) -> ShardedCheckpoints:
        return ShardedCheckpoints(folder, self._ranks, names_of_top_layer(self._work.recipe, self._facts))

    def _restore(self, weights: Mapping[str, Tensor], state: State) -> None:
        """What every rank has, and this rank's random state."""
        self._step = state["step"]
        self.learner.module.load_state_dict(weights)
        optimisers.restore(self.learner.optimiser, state["optimiser"], capture=self.learner.capture)
        if self.learner.scaler:
            self.learner.scaler.load_state_dict(state["scaler"])
        for account, own in zip(self._accounts, state["accounts"], strict=True):
            account.restore(own)
        for generator, own in zip(self._noise, state["noise"], strict=True):
            generator.set_state(own)
        random = state["random"]
        _set_random_state(self.learner.device, random if self._ranks.size == 1 else random[self._ranks.rank])
        self._stepping_s, self._validating_s = state["stepping_s"], state["validating_s"]

    def _restore_rows(self, checkpoint: ShardedCheckpoint) -> None:
        """This rank's rows of a split layer, and what their optimiser keeps of them."""
        held, optimiser = self.learner.sharded, self.learner.own_optimiser
        assert held is not None
        with torch.no_grad():
            held.weight.copy_(checkpoint.weight)
            if held.bias is not None and checkpoint.bias is not None:
                held.bias.copy_(checkpoint.bias)
        if optimiser is None:
            return
        if checkpoint.own is None:
            raise UsageError(
                f"the checkpoint of step {checkpoint.step} has no state of the optimiser for {self._ranks.size} ranks: "
                "start as many as wrote it"
            )
        optimisers.restore(optimiser, checkpoint.own["optimiser"])

    def _state(self) -> State:
        """The same on all ranks, whose random states it holds."""
        random = self._ranks.gather_objects(_random_state(self.learner.device))
        return {
            "step": self._step,
            "optimiser": self.learner.optimiser.state_dict(),
            "scaler": self.learner.scaler.state_dict() if self.learner.scaler else None,
            "accounts": [account.state() for account in self._accounts],
            "noise": [generator.get_state() for generator in self._noise],
            "random": random[0] if self._ranks.size == 1 else random,
            "stepping_s": self._stepping_s,
            "validating_s": self._validating_s,
        }

    @property
    def _all_diverged(self) -> bool:
        return all(account.diverged_at is not None for account in self._accounts)

    def _steps(self) -> EagerSteps | GraphedSteps:
        seeds = [member.seed for member in self._work.members]
        minibatches = Minibatches(self._train, self._work.recipe, seeds, self._ranks)
        if not self.learner.capture:
            return EagerSteps(self.learner, minibatches, self._step)
        return GraphedSteps(self.learner, minibatches, self._step, LONGEST_WINDOW, self._noise)

    def _run_window(self, steps: EagerSteps | GraphedSteps) -> None:
        ahead = next(step for step in self._curve_steps if step > self._step) - self._step
        count = window(self._window_s, ahead)
        start = self._now()
        losses = steps.run(count).t().tolist()  # reading them waits for the device
        took = self._now() - start
        for account, own in zip(self._accounts, losses, strict=True):
            account.add(self._step, own)
        self._step += count
        self._stepping_s += took
        self._window_s = took / count

    def _validate(self) -> None:
        refuse_drift(self._ranks, self.learner.module.state_dict(), self._step)
        start = self._now()
        with self._noise_of_validation():
            found = validate(self.learner, self._validation, len(self._accounts), self._facts.classes)
        self._validating_s += self._now() - start
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
        held = self.learner.sharded
        rows = [] if held is None else [each for each in (held.weight, held.bias) if each is not None]
        for account, weights in zip(self._accounts, self.learner.state_dicts(), strict=True):
            lost = not all(_is_finite(tensor) for tensor in (*weights.values(), *rows))
            if any(self._ranks.gather_objects(lost)) and account.diverged_at is None:
                account.diverged_at = self._step

    def _now(self) -> float:
        """Seconds of rank 0's clock: one clock decides for all, so that all decide alike."""
        return float(self._ranks.broadcast(time.monotonic()))

    def _tell(self) -> None:
        """Progress, if the last was long enough ago."""
        told_at, told_step, told_s = self._told
        if self._now() - told_at < PROGRESS_EVERY_S:
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
        self._told = (self._now(), self._step, self._stepping_s)

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


def _step_of(member: Member, recipe: Recipe) -> Recipe:
    """The recipe as a member steps by it: the chunks are those of a full layer, and rivals have none."""
    if top_layer_of(member) == "full":
        return recipe
    return recipe.model_copy(update={"top_layer_step": "dense"})


def _losses(work: Work, dataset: Dataset, noise: Sequence[torch.Generator]) -> list[Configured]:
    """Each member's loss; members share one unless it draws noise, which is each one's own."""
    settings = {setting.key: setting for setting in work.losses}
    frequencies = dataset.class_frequencies()
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


def _dropout_seed(work: Work, ranks: Ranks) -> int:
    """Of torch's global generators: one process has the member's own, each of several ranks one of its own."""
    seed = work.members[0].seed
    return seed if ranks.size == 1 else stream_seed("dropout", seed, ranks.rank)


def _noise_of(member: Member, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(stream_seed("noise", member.seed))


def _newest(folder: CheckpointFolder, ranks: Ranks) -> Checkpoint | None:
    """The newest checkpoint of a network that every rank holds, read by each of them."""
    step = on_first(ranks, folder.newest_step)
    return None if step is None else on_each(ranks, lambda: folder.at(step))


def _digest(work: Work, facts: DatasetFacts) -> str:
    """Of all that decides the result; how many threads and workers do it is left out."""
    recipe = work.recipe
    later = {name for name, value in _LATER_FIELDS.items() if getattr(recipe, name) == value}
    excluded: dict[str, Any] = {"recipe": {"threads", "workers", *later}}
    if isinstance(recipe.prior_bias, bool):
        excluded["losses"] = {"__all__": {"prior_bias"}}
    decides = work.model_dump_json(exclude=excluded)
    return hashlib.sha256(f"{decides}\n{facts.model_dump_json()}".encode()).hexdigest()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


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
