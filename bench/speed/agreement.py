"""Before anything is timed: is the single logit the same number as its column of all logits?

The same is asked of every kind of score: log-probabilities of the classes asked for must be those of the eager network,
and a rival's scores the columns of all its log-probabilities.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.speed.clocks import Forward
from bench.speed.settings import Setting

#: Largest difference allowed, relative to the root mean square of the logits. Eight units in the last place for
#: the half types; for float32 what different but correct algorithms of a deep network's convolutions give; for
#: TF32 (10 bits of mantissa) as for float16. A wrong column or a stale weight differs by about 1.
TOLERANCE = {"float32": 1e-3, "tf32": 8e-3, "bfloat16": 6.2e-2, "float16": 7.8e-3}

#: A compiled network may be off by this much more: Inductor keeps in float32 what one kernel hands to the next within
#: itself, so it rounds at other places than eager layers do, at every layer of a deep network.
COMPILED_FACTOR = 4

#: Columns looked at for finite values and for the scale: enough for both, without a copy of all logits.
COLUMNS = 1024


class Reference:
    """The scores asked for, of two minibatches, as the eager network gives them: what forwards to be timed are held to.

    Two, because one is not enough: a graph that was captured with a minibatch gives its logits whatever it is
    loaded with, if it reads another buffer than the one that is filled, or none.
    """

    def __init__(
        self, single: Callable[[Tensor], Tensor], several: Callable[[Tensor], Tensor], minibatch: Tensor
    ) -> None:
        """Run the eager network for the classes asked for and for several, on a minibatch (batch, *input_shape).

        The logits of several say how large logits are here; one alone may be small by chance.
        """
        self._minibatch = minibatch
        self._scale = _size(several(minibatch)[:, :COLUMNS].float())
        self._captured = single(minibatch)
        self._other = single(-minibatch)

    def disagreement(self, forward: Forward, setting: Setting) -> str | None:
        """Why a forward, of any class count, does not give these scores in its first columns; None if it does.

        It is compared on the minibatch's negative, which no forward was made or primed with.
        """
        forward.load(self._minibatch)
        asked = self._captured.shape[1]
        captured = forward()[:, :asked].clone()  # the rest is let go: no more than one minibatch's logits at a time
        forward.load(-self._minibatch)
        logits = forward()
        deaf = torch.equal(captured, logits[:, :asked]) and not torch.equal(self._captured, self._other)
        difference = disagreement(self._other, logits, setting, self._scale)
        forward.load(self._minibatch)  # or the negative would stay in memory until the first round
        if deaf:
            return "its logits are the same for two different minibatches: it does not read what it is given"
        return difference


def disagreement(single: Tensor, logits: Tensor, setting: Setting, scale: Tensor | None = None) -> str | None:
    """Why single logits, (batch, subset), are not the first columns of (batch, k) logits, or None if they are.

    `scale` is the root mean square that they are judged by; that of the logits themselves if there is none.
    """
    asked = setting.subset
    seen = logits[:, : max(COLUMNS, asked)].float()
    if tuple(single.shape) != (len(logits), asked):
        return f"the single logit has shape {tuple(single.shape)} where {(len(logits), asked)} is right"
    if not (torch.isfinite(seen).all() and torch.isfinite(single).all()):
        return "the logits are not finite numbers: a time taken on them would not be that of a working network"
    precision = "tf32" if setting.tf32 and setting.dtype == "float32" and setting.device != "cpu" else setting.dtype
    tolerance = TOLERANCE[precision] * (1 if setting.compile == "none" else COMPILED_FACTOR)
    largest = (single.float() - seen[:, :asked]).abs().max()
    difference = (largest / (_size(seen) if scale is None else scale)).item()
    if not difference <= tolerance:
        return (
            f"{_WORDS[_scored(setting)]} by {difference:.1e} of their size, more than {tolerance:.0e} for {precision}"
        )
    return None


#: What differs from what, by what the scores are.
_WORDS = {
    "logits": "the single logit differs from its column of all logits",
    "normalised": "the log-probability asked for differs from the eager network's",
    "rival": "the score asked for differs from its column of all log-probabilities",
}


def _scored(setting: Setting) -> str:
    if setting.top_layer != "full":
        return "rival"
    return "normalised" if setting.work == "normalised" else "logits"


def _size(logits: Tensor) -> Tensor:
    return logits.square().mean().sqrt()
