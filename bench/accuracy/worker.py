"""The work of a grid, order by order: in this process, or in one that is told by its parent (bench.accuracy.pool)."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench.accuracy import evaluation, training
from bench.accuracy.data import Dataset, load
from bench.accuracy.orders import ORDER, Done, Evaluated, Event, Failed, Order, Start, ToTrain
from bench.accuracy.run import write_influence
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
    """What every order of a run needs: the data on the device, the recipe, the losses, the run's folder."""

    def __init__(self, dataset: Dataset, recipe: Recipe, losses: tuple[LossSetting, ...], folder: Path) -> None:
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
        )

    def _test(self, member: Member, emit: Callable[[Event], None]) -> None:
        device = torch.device(self._recipe.device)
        model = training.model_of(
            member,
            self._recipe,
            self._dataset.facts,
            self._folder / CHECKPOINTS,
            training.class_frequencies(self._dataset),
        )
        found, influence = evaluation.evaluate(member, model.to(device), self._dataset, device)
        write_influence(self._folder, member, influence)
        emit(Evaluated(evaluation=found))


def failure(error: Exception, folder: Path) -> Failed | None:
    """What an exception means for an order; None for one that nothing but a mistake in this program raises."""
    if isinstance(error, UsageError):
        return Failed(reason=str(error), cause="usage")
    if isinstance(error, OSError) and error.errno in _DISK:
        return Failed(reason=f"cannot write {error.filename or folder}: {os.strerror(error.errno)}", cause="disk")
    if isinstance(error, (OSError, RuntimeError, ValueError, ArithmeticError, MemoryError)):
        return Failed(reason=first_line(error), cause="work")
    return None


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
