"""What a network's top layer is, and why a network may have none that can be swapped."""

from dataclasses import dataclass


class UnsupportedNetwork(ValueError):
    """A network without a top layer in which one row makes one score: one line with the reason."""


@dataclass(frozen=True)
class Head:
    """One layer of the top layer: a linear layer, or a convolution, which is a linear layer at every position.

    `path` is dotted, as in `nn.Module.get_submodule` (empty if the network is that layer). A class has `features`
    weights in it: in_features, or in_channels times the kernel's size. `positions` says how often it is applied to one
    example: the pixels of a convolution's output, tokens, 1 after pooling.
    """

    path: str
    features: int
    positions: int = 1


@dataclass(frozen=True)
class TopLayer:
    """The layer, or the layers side by side, of which one row makes one score.

    `path` is that of its first head, `positions` as well. A class's row has `features` weights: those of the first
    head, then those of the `further` ones, so a bank of rows has the shape (`classes`, `features`). `plain`: one linear
    layer, applied once to an example, and its output is returned as it is; any module of the same input and output,
    such as another kind of top layer, may then take its place.
    """

    path: str
    features: int
    classes: int
    bias: bool
    positions: int = 1
    further: tuple[Head, ...] = ()
    plain: bool = True

    @property
    def heads(self) -> tuple[Head, ...]:
        """All of its layers, in the order in which a class's row holds their weights."""
        first = self.features - sum(head.features for head in self.further)
        return (Head(self.path, first, self.positions), *self.further)

    @property
    def outputs(self) -> int:
        """Numbers that the heads give for one class and one example before these are pooled or averaged."""
        return sum(head.positions for head in self.heads)
