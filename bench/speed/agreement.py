"""Before anything is timed: is the single logit the same number as its column of all logits?"""

import torch
from torch import Tensor

from bench.speed.settings import Setting

#: Largest difference allowed, relative to the root mean square of the logits. Eight units in the last place for
#: the half types; for float32 what different but correct algorithms of a deep network's convolutions give; for
#: TF32 (10 bits of mantissa) as for float16. A wrong column or a stale weight differs by about 1.
TOLERANCE = {"float32": 1e-3, "tf32": 8e-3, "bfloat16": 6.2e-2, "float16": 7.8e-3}

#: Columns looked at for finite values and for the scale: enough for both, without a copy of all logits.
COLUMNS = 1024


def disagreement(single: Tensor, logits: Tensor, setting: Setting) -> str | None:
    """Why (batch, 1) single logits are not column 0 of (batch, k) logits, or None if they are."""
    seen = logits[:, :COLUMNS].float()
    if tuple(single.shape) != (len(logits), 1):
        return f"the single logit has shape {tuple(single.shape)} where {(len(logits), 1)} is right"
    if not (torch.isfinite(seen).all() and torch.isfinite(single).all()):
        return "the logits are not finite numbers: a time taken on them would not be that of a working network"
    precision = "tf32" if setting.tf32 and setting.dtype == "float32" and logits.is_cuda else setting.dtype
    scale = seen.square().mean().sqrt()
    difference = ((single.float() - seen[:, :1]).abs().max() / scale).item()
    if not difference <= TOLERANCE[precision]:
        return (
            f"the single logit differs from its column of all logits by {difference:.1e} of their size, "
            f"more than {TOLERANCE[precision]:.0e} for {precision}"
        )
    return None
