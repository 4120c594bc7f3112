"""One large weight, of which every class count's top layer is a view."""

import torch
from torch import nn

#: Rows of a bank that are drawn; the others repeat them.
_TILE_ROWS = 1024


class ClassBank:
    """One weight of shape (classes, features), and a bias, of which every smaller class count is a view.

    It is filled by a small random tile (normal, standard deviation 1/sqrt(features)), which is then doubled in place:
    several times as fast as drawing every number, and every page of memory is truly written. Memory that was never
    written must not be timed: all its pages are one page of zeros.

    The same seed gives the same values on every device.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Allocate and fill it. Raises ValueError for sizes below 1, and what torch raises when memory runs out."""
        if features < 1 or classes < 1:
            raise ValueError(f"a bank of {classes} classes with {features} features is empty; both must be 1 or more")
        self.features = features
        self.classes = classes
        self.weight = torch.empty(classes, features, dtype=dtype, device=device)
        self.bias = torch.empty(classes, dtype=dtype, device=device) if bias else None
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            _fill(self.weight, features, generator)
            if self.bias is not None:
                _fill(self.bias, features, generator)

    @property
    def row_bytes(self) -> int:
        """Bytes of one class: its row of the weight, and its bias."""
        return (self.features + (self.bias is not None)) * self.weight.element_size()

    @property
    def nbytes(self) -> int:
        """Bytes of the whole bank."""
        return self.classes * self.row_bytes

    def layer(self, classes: int) -> nn.Linear:
        """A linear layer on the first rows: a contiguous view, nothing copied or initialised, no gradients.

        Raises ValueError if the bank does not hold so many classes.
        """
        if not 1 <= classes <= self.classes:
            raise ValueError(f"this bank holds 1 to {self.classes} classes, not {classes}")
        layer = nn.Linear(self.features, classes, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight[:classes], requires_grad=False)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias[:classes], requires_grad=False)
        return layer.eval()


def _fill(rows: torch.Tensor, features: int, generator: torch.Generator) -> None:
    filled = min(len(rows), _TILE_ROWS)
    tile = torch.randn((filled, *rows.shape[1:]), generator=generator, dtype=torch.float32, device="cpu")
    rows[:filled].copy_(tile / features**0.5)
    while filled < len(rows):
        step = min(filled, len(rows) - filled)
        rows[filled : filled + step].copy_(rows[:step])
        filled += step
