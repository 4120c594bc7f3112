"""The ways to run one network, and which of their combinations contradict themselves: plain values in, reasons out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from archs.top_layer_kinds import TopLayerKind
from bench.errors import UsageError
from bench.folder import Notice
from bench.speed.settings import CompileMode, WorkKind

#: Rivals that treat frequent classes better than rare ones, so that a score's time depends on how frequent a class is.
BY_FREQUENCY: tuple[TopLayerKind, ...] = ("hierarchical-huffman", "adaptive", "differentiated")


@dataclass(frozen=True)
class Mode:
    """How a network is run and what counts as its work; the fields are those of a Setting."""

    compile: CompileMode = "none"
    cuda_graph: bool = False
    channels_last: bool = False
    work: WorkKind = "logits"
    top_layer: TopLayerKind = "full"

    def __str__(self) -> str:
        """The options that ask for it, those at their defaults left out."""
        told = {
            f"--compile {self.compile}": self.compile != "none",
            "--cuda-graph on": self.cuda_graph,
            "--memory-format channels-last": self.channels_last,
            f"--work {self.work}": self.work != "logits",
            f"--top-layer {self.top_layer}": self.top_layer != "full",
        }
        return " ".join(option for option, is_told in told.items() if is_told)


def contradiction(mode: Mode, device: str, asked: Collection[Mode]) -> str | None:
    """Why a mode cannot be measured as itself on a device, or need not; None if it is to be measured.

    asked: all modes of the request. On a CPU torch would quietly ignore graphs, and the run would claim to have
    measured them.
    """
    if device == "cpu" and mode.cuda_graph:
        return "--cuda-graph needs a CUDA device; leave it out on the CPU"
    if device == "cpu" and mode.compile == "reduce-overhead":
        return "--compile reduce-overhead needs a CUDA device; leave it out on the CPU"
    if mode.cuda_graph and mode.compile == "reduce-overhead":
        return "--cuda-graph and --compile reduce-overhead both capture graphs: choose one"
    if mode.work == "normalised" and mode.top_layer != "full":
        same = Mode(mode.compile, mode.cuda_graph, mode.channels_last, "logits", mode.top_layer)
        if same in asked:
            return "a rival's score is normalised already, and is measured with --work logits"
    return None


def split(asked: Sequence[Mode], device: str) -> tuple[list[Mode], list[Notice]]:
    """The modes to measure, and a notice for each reason why others are not.

    Raises UsageError, with the first reason, if nothing is left.
    """
    reasons = {mode: contradiction(mode, device, asked) for mode in asked}
    wanted = [mode for mode, reason in reasons.items() if reason is None]
    if not wanted:
        raise UsageError(next(reason for reason in reasons.values() if reason))
    others: dict[str, list[Mode]] = {}
    for mode, reason in reasons.items():
        if reason is not None:
            others.setdefault(reason, []).append(mode)
    return wanted, [left_out(modes, reason) for reason, modes in others.items()]


def left_out(modes: Sequence[Mode], reason: str) -> Notice:
    """Combinations of the lists given that are not measured, all for the same reason."""
    names = "; ".join(map(str, modes))
    return Notice(
        kind="left-out",
        happened=f"left out: {names} ({reason})",
        matters="the table has no rows for what is left out",
        remedy="nothing, if the other combinations are what was wanted",
    )


def assumed_frequencies(top_layers: Collection[TopLayerKind]) -> list[Notice]:
    """What rivals that go by frequency were told of the classes; none if there is no such rival."""
    found = [kind for kind in BY_FREQUENCY if kind in top_layers]
    if not found:
        return []
    return [
        Notice(
            kind="assumed-frequencies",
            happened=f"{', '.join(found)}: classes are taken to be as frequent as Zipf's law has it (1 / rank), and "
            "those asked for are of mean cost",
            matters="the score of a rare class takes longer with these layers, and that of a frequent one less",
            remedy="read the time as that of the mean class; with other frequencies it is another",
        )
    ]
