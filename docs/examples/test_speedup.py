"""One logit must stay worth it: a test that fails when it no longer is.

pytest --slc-update-baseline    # once, and whenever the speedup was changed on purpose
pytest                          # from then on: red if one logit got slower, or less worth it
"""

import pytest
from torch import Tensor, nn


class Classifier(nn.Module):
    """(batch, 3, 32, 32) -> (batch, classes); a small one, for your own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 256), nn.ReLU())
        self.top = nn.Linear(256, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (batch, classes)."""
        return self.top(self.backbone(images))  # type: ignore[no-any-return]


@pytest.mark.slc_baseline("main", margin=0.1)
def test_one_logit_is_worth_it(slc_speedup):
    """At 16,384 classes one logit is more than twice as fast, and no slower than when the baseline was set."""
    measured = slc_speedup(Classifier(), classes=[1, 2**14], input_shape=(3, 32, 32), minibatches=30)
    assert measured.speedup(2**14) > 2
