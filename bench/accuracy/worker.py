"""The work of a grid, order by order: in this process, or in one that is told by its parent (bench.accuracy.pool)."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bench.accuracy import evaluation, models, training
from bench.accuracy.data import Dataset, load
from bench.accuracy.orders import ORDER, Done, Evaluated, Event, Failed, Order, Start, ToTrain
from bench.accuracy.ranks import ALONE, Ranks
from bench.accuracy.ranks.evaluation import OwnLayer, evaluate_over_ranks, features_fit
from bench.accuracy.records import Evaluation
from bench.accuracy.run import Influence, write_influence
from bench.accuracy.settings import LossSetting, Member, Recipe
from bench.child import die_with, private_standard_output
from bench.errors import UsageError
from bench.speed.failures import first_line

#: What a full or failing disk says.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}

CHECKPOINTS = "checkpoints"

#: Seconds between two checkpoints of a training: what a kill costs at most.
CHECKPOINT_EVERY_S = 30.0


class Workplace:
    """What every order of a run needs: the data on the device, the recipe, the losses, the run's folder.

    Of several ranks each has one, and they carry out each order together (bench.accuracy.ranks.orders).
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        losses: tuple[LossSetting, ...],
        folder: Path,
        ranks: Ranks = ALONE,
    ) -> None:
        self._ranks = ranks
        self._dataset = dataset
        self._recipe = recipe
        self._losses = {loss.key: loss for loss in losses}
        self._folder = folder

    def carry_out(self, order: Order, emit: Callable[[Event], None]) -> None:
        """Carry out one order; its events, the last of which is Done or Failed, go to `emit`.

        What `emit` raises is its caller's: it is passed on as it is.
        """
        thrown: list[BaseException] = []

        def passed_on(event: Event) -> None:
            try:
                emit(event)
            except BaseException as error:
                thrown.append(error)
                raise

        try:
            if isinstance(order, ToTrain):
                self._train(order.members, passed_on)
            else:
                self._test(order.member, passed_on)
        except Exception as error:
            if thrown or (failed := failure(error, self._folder)) is None:
                raise
            emit(failed)
        else:
            emit(Done())

    def _train(self, members: tuple[Member, ...], emit: Callable[[Event], None]) -> None:
        losses = tuple(self._losses[key] for key in dict.fromkeys(member.loss for member in members))
        work = training.Work(members=members, recipe=self._recipe, losses=losses)
        training.train(
            work,
            self._dataset,
            emit,
            checkpoints=self._folder / CHECKPOINTS,
            checkpoint_every_s=CHECKPOINT_EVERY_S,
            ranks=self._ranks,
        )

    def _test(self, member: Member, emit: Callable[[Event], None]) -> None:
        layer = self._own_layer(member) if self._ranks.size > 1 else None
        if layer is not None:
            device = torch.device(self._recipe.device)
            found, influence = evaluate_over_ranks(member, layer, self._dataset, device, self._ranks)
        elif self._ranks.rank == 0:
            found, influence = self._tested_alone(member)
        if self._ranks.rank == 0:
            write_influence(self._folder, member, influence)
            emit(Evaluated(evaluation=found))
        if layer is None:
            self._ranks.wait_for_first()

    def _tested_alone(self, member: Member) -> tuple[Evaluation, Influence]:
        device = torch.device(self._recipe.device)
        full = models.top_layer_of(member) == "full"
        return evaluation.evaluate(
            member,
            self._model_of(member).to(device),
            self._dataset,
            device,
            lambda: models.top_path(self._recipe, self._dataset.facts) if full else None,
        )

    def _model_of(self, member: Member) -> nn.Module:
        return models.model_of(
            member,
            self._recipe,
            self._dataset.facts,
            self._folder / CHECKPOINTS,
            self._dataset.class_frequencies(),
        )

    def _own_layer(self, member: Member) -> OwnLayer | None:
        """This rank's classes of a trained network; none where rank 0 is to test it alone.

        That is a rival of the full layer, and a network of whose examples not every rank can hold the features.
        Raises MemoryError for these if the layer is split, since no rank holds all of it.
        """
        device, facts = torch.device(self._recipe.device), self._dataset.facts
        if models.top_layer_of(member) != "full":
            return None
        checkpoints, frequencies = self._folder / CHECKPOINTS, self._dataset.class_frequencies()
        layer = OwnLayer(*models.sharded_model_of(member, self._recipe, facts, checkpoints, self._ranks, frequencies))
        width = layer.weight.shape[1]
        if features_fit(self._dataset, width, device, self._ranks):
            return layer
        if not self._recipe.shard_top_layer:
            return None
        examples = max(len(self._dataset.train), len(self._dataset.test))
        raise MemoryError(
            f"{width:,} features of {examples:,} examples are {4 * width * examples / 1e9:.2f} GB on every rank, more "
            "than half of the free memory; a layer that is split is tested from them: take machines with more memory"
        )


def failure(error: Exception, folder: Path) -> Failed | None:
    """What an exception means for an order; None for one that nothing but a mistake in this program raises."""
    if isinstance(error, UsageError):
        return Failed(reason=str(error), cause="usage")
    if isinstance(error, OSError) and error.errno in _DISK:
        return Failed(reason=f"cannot write {error.filename or folder}: {_refusal(error)}", cause="disk")
    if isinstance(error, (OSError, RuntimeError, ValueError, ArithmeticError, MemoryError)):
        return Failed(reason=first_line(error), cause="work")
    return None


def _refusal(error: OSError) -> str:
    """What the disk says, with the rank it says it to where that is said."""
    return error.strerror or os.strerror(error.errno or 0)


def main() -> None:
    """Do the orders on standard input, one a line; one event a line on standard output."""
    events = private_standard_output()
    start = Start.model_validate_json(sys.stdin.readline())
    die_with(start.parent)
    torch.set_num_threads(start.recipe.threads)

    def emit(event: Event) -> None:
        try:
            events.write(event.model_dump_json() + "\n")
            events.flush()
        except BrokenPipeError:
            os._exit(0)  # nobody is left to write down what would be found; an orderly exit would write once more

    try:
        source = start.source
        dataset = load(
            source.name, data_dir=source.data_dir, split_seed=source.split_seed, input_size=source.input_size
        )
    except UsageError as error:  # the parent read them a moment ago
        emit(Failed(reason=str(error), cause="usage"))
        return
    workplace = Workplace(dataset, start.recipe, start.losses, start.folder)
    for line in sys.stdin:
        workplace.carry_out(ORDER.validate_json(line), emit)


if __name__ == "__main__":
    main()
