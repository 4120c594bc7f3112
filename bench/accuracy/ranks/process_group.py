"""The processes of one training: `torchrun --nproc-per-node N` starts them, and here they meet.

    with joined() as ranks:                                      # Alone without torchrun
        parts = ranks.all_gather(statistics)                     # of every rank, in the order of ranks
        ranks.all_reduce(gradient)                               # in place, summed

All ranks call the same methods in the same order. A rank that is gone ends a call on the others with RankLost: one line
that says which rank it was, where that can be known. Collectives are gloo's on CPU tensors and NCCL's on CUDA tensors.
"""

import contextlib
import datetime
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor

from bench.errors import UsageError
from bench.text import on_one_line

Reduction = Literal["sum", "max"]
Result = TypeVar("Result")

#: How long a rank waits for another: longer than one rank's share of a validation or a checkpoint may take, and short
#: enough that a rank which hangs costs minutes.
TIMEOUT_S = 600.0

#: How long ranks that still live have to say so once one is gone. A rank notices when a connection closes, at once.
ROLL_CALL_S = 5.0

#: How often a rank that waits for another looks whether it has answered, in seconds.
_POLL_S = 0.1

#: Set by torchrun, for every process it starts.
_RANK, _SIZE, _LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"
_MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")


class RankLost(Exception):
    """Another rank is gone, so that this one cannot go on: one line. What was written stays and can be resumed."""


class RankFailed(Exception):
    """A piece of work has failed on another rank, which lives: one line. `meet_again`, and go on with the next."""


class Ranks(Protocol):
    """This process among those of one training; every method is called by all of them, in the same order."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def all_gather(self, tensor: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
        """Every rank's tensor, in the order of ranks, on this tensor's device.

        tensor: (n, ...) of any type; n may differ from rank to rank, the rest may not. lengths: every rank's n, where
        they are known; one message less.
        """

    def all_reduce(self, tensor: Tensor, reduction: Reduction = "sum") -> Tensor:
        """Sum or largest over the ranks, written into the tensor on each of them, to the same bits; the tensor."""

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """The value that rank `source` gave; of the others it is not looked at."""

    def gather_objects(self, own: object, /) -> list[Any]:
        """Every rank's object on every rank: a bench.accuracy.metrics.Gather."""

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def wait_for_first(self) -> None:
        """Rank 0 comes here once it is done with work of its own; the others wait for it, however long that takes."""

    def leave(self, reason: str) -> None:
        """Give up a piece of work that has failed here: on the others it ends with RankFailed. Then `meet_again`."""

    def meet_again(self) -> None:
        """After a piece of work that has failed on any rank: all come here. Raises RankLost if one does not."""


class Alone:
    """One process, without torch.distributed."""

    rank = 0
    size = 1

    def all_gather(self, tensor: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
        """The tensor itself."""
        return [tensor]

    def all_reduce(self, tensor: Tensor, reduction: Reduction = "sum") -> Tensor:
        """The tensor itself."""
        return tensor

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """The value itself."""
        return value

    def gather_objects(self, own: object, /) -> list[Any]:
        """The object itself."""
        return [own]

    def barrier(self) -> None:
        """Nobody to wait for."""

    def wait_for_first(self) -> None:
        """Nobody waits."""

    def leave(self, reason: str) -> None:
        """Nobody to tell."""

    def meet_again(self) -> None:
        """Nobody to meet."""


#: One process, where none is said.
ALONE = Alone()


@dataclass(frozen=True)
class Place:
    """Where torchrun has put a process: rank 0 .. size - 1 of all, local_rank on its machine."""

    rank: int
    size: int
    local_rank: int


def place_in(environment: Mapping[str, str]) -> Place | None:
    """What torchrun says of this process; none without torchrun. Raises UsageError for half of it."""
    if _RANK not in environment and _SIZE not in environment:
        return None
    numbers = {name: _number(environment, name) for name in (_RANK, _SIZE)}
    numbers[_LOCAL_RANK] = _number(environment, _LOCAL_RANK) if _LOCAL_RANK in environment else numbers[_RANK]
    place = Place(numbers[_RANK], numbers[_SIZE], numbers[_LOCAL_RANK])
    if not place.rank < place.size:
        raise UsageError(f"{_RANK}={place.rank} of {_SIZE}={place.size}: start the ranks with torchrun")
    for name in _MEETING_POINT:
        if place.size > 1 and not environment.get(name):
            raise UsageError(f"{_SIZE}={place.size} without {name}: start the ranks with torchrun")
    return place


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise UsageError(f"{name}={text!r} is no number of a rank: start the ranks with torchrun")
    return int(text)


@contextlib.contextmanager
def joined(environment: Mapping[str, str] | None = None, *, timeout_s: float = TIMEOUT_S) -> Iterator[Ranks]:
    """The ranks that torchrun started, or Alone, for as long as the block lasts.

    An error that leaves the block is told to the other ranks, so that they can say what ended this one. Raises
    UsageError if torchrun's variables are no such, RankLost if the ranks do not meet within `timeout_s`.
    """
    place = place_in(os.environ if environment is None else environment)
    if place is None or place.size == 1:
        yield Alone()
        return
    group = _meet(place, timeout_s)
    all_live = True
    try:
        yield group
    except RankLost:
        all_live = False
        raise
    except BaseException as error:
        group.say(on_one_line(f"{type(error).__name__}: {error}".removesuffix(": ")))
        raise
    finally:
        group.part(wait=all_live)


def _meet(place: Place, timeout_s: float) -> "ProcessGroup":
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    if not dist.is_available() or not dist.is_gloo_available():
        raise UsageError("this torch is built without torch.distributed and gloo: install one that has them")
    timeout = datetime.timedelta(seconds=timeout_s)
    try:
        store, _, _ = next(rendezvous("env://", timeout=timeout))
        store.set_timeout(timeout)
        _begin(place, store, timeout)
    except (RuntimeError, ValueError, OSError) as error:
        where = ":".join(os.environ.get(name, "") for name in _MEETING_POINT)
        raise RankLost(
            f"rank {place.rank} of {place.size} did not meet the others at {where} within {timeout_s:g} s "
            f"({on_one_line(str(error))[:160]}): see what they say, and start them again with --resume"
        ) from error
    return ProcessGroup(place, store, timeout)


def _begin(place: Place, store: Any, timeout: datetime.timedelta) -> None:
    # Imported while there is a group, as optimisers do, it keeps hold of it: closed, its connections would stay open.
    import torch._dynamo
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=timeout)


class ProcessGroup:
    """Ranks over torch.distributed's default group; made by `joined`."""

    def __init__(self, place: Place, store: Any, timeout: datetime.timedelta) -> None:
        """`store`: where the ranks met, which outlives the group. timeout: of a call, and of a meeting."""
        self.rank = place.rank
        self.size = place.size
        self._place, self._store, self._timeout = place, store, timeout
        self._meeting = 0
        self._waits = 0
        self._open = True

    def all_gather(self, tensor: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
        """See Ranks.all_gather. Sent as bytes, which every backend takes and which changes none of them."""
        import torch.distributed as dist

        if lengths is None:
            own = torch.tensor([len(tensor)], device=tensor.device)
            lengths = [int(found) for found in self.all_gather(own, [1] * self.size)]
        row_bytes = _row_numbers(tensor) * tensor.element_size()
        longest = max(lengths) * row_bytes
        sent = torch.zeros(longest, dtype=torch.uint8, device=tensor.device)
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        sent[: len(flat)] = flat
        found = [torch.empty_like(sent) for _ in lengths]
        if longest:
            self._together(lambda: dist.all_gather(found, sent))
        shape = tensor.shape[1:]
        return [
            part[: length * row_bytes].view(tensor.dtype).view(length, *shape)
            for part, length in zip(found, lengths, strict=True)
        ]

    def all_reduce(self, tensor: Tensor, reduction: Reduction = "sum") -> Tensor:
        """See Ranks.all_reduce."""
        import torch.distributed as dist

        operation = dist.ReduceOp.SUM if reduction == "sum" else dist.ReduceOp.MAX
        whole = tensor.detach().contiguous()  # the tensor's own memory, where it is in one piece
        self._together(lambda: dist.all_reduce(whole, operation))
        if whole.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(whole)
        return tensor

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """See Ranks.broadcast."""
        import torch.distributed as dist

        given = [value if self.rank == source else None]
        self._together(lambda: dist.broadcast_object_list(given, source))
        return given[0]

    def gather_objects(self, own: object, /) -> list[Any]:
        """See Ranks.gather_objects."""
        import torch.distributed as dist

        parts: list[Any] = [None] * self.size
        self._together(lambda: dist.all_gather_object(parts, own))
        return parts

    def barrier(self) -> None:
        """See Ranks.barrier."""
        self.gather_objects(None)

    def say(self, last_words: str) -> None:
        """Leave for the other ranks why this one ends."""
        with contextlib.suppress(RuntimeError):
            self._store.set(self._name("answer", self.rank), last_words[:500])

    def wait_for_first(self) -> None:
        """See Ranks.wait_for_first. By the store, since a collective would give up after a while."""
        self._waits += 1
        done = self._name(f"first-is-done-{self._waits}")
        try:
            if self.rank == 0:
                self._store.set(done, "")
            while not self._store.check([done]):
                if (reason := self._failure()) is not None:
                    raise RankFailed(reason)
                if self._store.check([self._name("answer", 0)]):  # it has ended, or has lost another
                    words = self._answer(0, time.monotonic()) or "it cannot go on either"
                    raise RankLost(lost(self.rank, self.size, {0: words}, ""))
                time.sleep(_POLL_S)
        except RuntimeError as error:
            self.close()
            raise RankLost(lost(self.rank, self.size, {0: None}, on_one_line(str(error))[:160])) from error

    def leave(self, reason: str) -> None:
        """See Ranks.leave. Ranks that wait for this one learn of it as they learn of one that is gone: at once."""
        with contextlib.suppress(RuntimeError):
            self._store.set(self._name("failure", self.rank), reason[:500])
        self.close()

    def meet_again(self) -> None:
        """See Ranks.meet_again. A new group on the same store: what the old one was amidst is forgotten."""
        from torch.distributed.distributed_c10d import PrefixStore

        self.close()
        self._meeting += 1
        self._waits = 0
        try:
            _begin(self._place, PrefixStore(self._name("group"), self._store), self._timeout)
        except (RuntimeError, ValueError, OSError) as error:
            raise RankLost(
                f"rank {self.rank} of {self.size} did not meet the others again after a failure "
                f"({on_one_line(str(error))[:160]}): start the ranks again with --resume"
            ) from error
        self._open = True

    def close(self) -> None:
        """Leave the group; a second time does nothing."""
        import torch.distributed as dist

        if self._open:
            self._open = False
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    def part(self, *, wait: bool) -> None:
        """Leave for good. Rank 0, in whose process the store may be, waits a moment for those who still ask it."""
        self.close()
        everyone = [f"slc-bench/rank-{rank}-has-left" for rank in range(self.size)]
        deadline = time.monotonic() + ROLL_CALL_S
        with contextlib.suppress(RuntimeError):  # the store was rank 0's
            self._store.set(everyone[self.rank], "")
            while wait and self.rank == 0 and not self._store.check(everyone) and time.monotonic() < deadline:
                time.sleep(_POLL_S)

    def _together(self, collective: Callable[[], Any]) -> None:
        if not self._open:
            raise RankLost(f"rank {self.rank} of {self.size} has left the others: start them again with --resume")
        try:
            collective()
        except RuntimeError as error:
            # Ranks that wait for this one learn by it that somebody is gone.
            self.close()
            if (reason := self._failure()) is not None:
                raise RankFailed(reason) from error
            raise RankLost(lost(self.rank, self.size, self._roll_call(), on_one_line(str(error))[:160])) from error

    def _failure(self) -> str | None:
        """Why a rank that lives has left this meeting; none if none has."""
        for rank in range(self.size):
            with contextlib.suppress(RuntimeError):  # the store was rank 0's
                if self._store.check([self._name("failure", rank)]):
                    return f"rank {rank}: {self._store.get(self._name('failure', rank)).decode()}"
        return None

    def _roll_call(self) -> dict[int, str | None]:
        """What every other rank answers: nothing more than that it lives, its last words, or none for no answer."""
        deadline = time.monotonic() + ROLL_CALL_S
        others = [rank for rank in range(self.size) if rank != self.rank]
        try:
            self._store.set(self._name("answer", self.rank), "")
        except RuntimeError:  # the store was rank 0's
            return {rank: None if rank == 0 else "" for rank in others}
        return {rank: self._answer(rank, deadline) for rank in others}

    def _name(self, what: str, rank: int | None = None) -> str:
        """Of an entry of the store that belongs to this meeting."""
        return f"slc-bench/meeting-{self._meeting}/{what}" + ("" if rank is None else f"-of-rank-{rank}")

    def _answer(self, rank: int, deadline: float) -> str | None:
        name = self._name("answer", rank)
        try:
            while not self._store.check([name]):  # not `wait`, which prints lines of its own
                if time.monotonic() > deadline:
                    return None
                time.sleep(_POLL_S)
            return str(self._store.get(name).decode())
        except RuntimeError:
            return None


def _row_numbers(tensor: Tensor) -> int:
    if tensor.dim() < 1:
        raise ValueError("a tensor without axes cannot be gathered: give it one")
    return math.prod(tensor.shape[1:])


def lost(rank: int, size: int, answers: Mapping[int, str | None], error: str) -> str:
    """The line for a rank that cannot go on, from what the others answered: "" who lives, none who does not."""
    resume = "start the ranks again with --resume"
    ended = [f"rank {other} of {size} has ended ({words})" for other, words in answers.items() if words]
    silent = [str(other) for other, words in answers.items() if words is None]
    if not ended and silent:
        who = f"rank {silent[0]}" if len(silent) == 1 else f"ranks {', '.join(silent)}"
        ended = [f"no answer from {who} of {size}, killed, hanging or cut off"]
    if not ended:
        ended = [f"all {size} ranks live, and their exchange failed ({error})"]
    return f"rank {rank} cannot go on: {'; '.join(ended)}: {resume}"


def on_all(ranks: Ranks, work: Callable[[], Result]) -> list[Result]:
    """What `work` gives on each rank, in the order of ranks; on all of them.

    Where it fails on one, every rank raises the same, with the rank's number before it: an error of one of _KINDS is
    one of that kind (a disk's keeps its number and its file), any other a RuntimeError. `work` sends nothing itself.
    """
    if ranks.size == 1:
        return [work()]
    error: Exception | None = None
    own: Result | _Failed
    try:
        own = work()
    except (RankLost, RankFailed):
        raise
    except Exception as raised:  # also what a device or a disk raises: the other ranks wait for this one
        error, own = raised, _Failed.of(raised)
    parts: list[Result | _Failed] = ranks.gather_objects(own)
    for rank, part in enumerate(parts):
        if isinstance(part, _Failed):
            raise part.told_by(rank) from error
    return [part for part in parts if not isinstance(part, _Failed)]


def on_each(ranks: Ranks, work: Callable[[], Result]) -> Result:
    """What `work` gives on this rank, once it has succeeded on all; nothing of it is sent. Errors as of `on_all`."""
    if ranks.size == 1:
        return work()
    own: list[Result] = []
    on_all(ranks, lambda: own.append(work()))
    return own[0]


def on_first(ranks: Ranks, work: Callable[[], Result]) -> Result:
    """What `work` gives on rank 0, on all ranks, which wait for it. Errors as of `on_all`."""
    if ranks.size == 1:
        return work()
    return cast(Result, on_all(ranks, lambda: work() if ranks.rank == 0 else None)[0])


def first_alone(ranks: Ranks, work: Callable[[], Result]) -> Result | None:
    """What `work` gives on rank 0, there alone, and none elsewhere; the others wait, however long it takes.

    For what may take longer than ranks wait for each other: to download data, or to read them. Errors as of `on_all`.
    """
    made: list[Result] = []
    failed: list[Exception] = []
    if ranks.rank == 0:
        try:
            made.append(work())
        except Exception as error:  # the others wait for this one
            failed.append(error)
    ranks.wait_for_first()

    def raise_it() -> None:
        if failed:
            raise failed[0]

    on_all(ranks, raise_it)
    return made[0] if made else None


#: What an error stays when other ranks learn of it; subclasses are told as these.
_KINDS = (UsageError, OSError, MemoryError, ValueError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class _Failed:
    """A rank's error, in place of its result. number, file: of an error of the system."""

    kind: type[Exception]
    message: str
    number: int | None = None
    file: str | None = None

    @classmethod
    def of(cls, error: Exception) -> "_Failed":
        """An error of no such kind is told with its type."""
        if isinstance(error, OSError) and error.errno is not None and error.strerror is not None:
            return cls(OSError, error.strerror, error.errno, None if error.filename is None else str(error.filename))
        kind = next((kind for kind in _KINDS if isinstance(error, kind)), None)
        return cls(RuntimeError, f"{type(error).__name__}: {error}") if kind is None else cls(kind, str(error))

    def told_by(self, rank: int) -> Exception:
        """As every rank raises it."""
        line = f"rank {rank}: {self.message}" if self.message else f"rank {rank}"
        return self.kind(line) if self.number is None else OSError(self.number, line, self.file)


def shares(total: int, parts: int) -> list[slice]:
    """`total` examples or classes in neighbouring parts as even as can be, the first ones larger: 7 in 3, 2 and 2."""
    each, over = divmod(total, parts)
    starts = [part * each + min(part, over) for part in range(parts + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(starts)]
