"""The digits that come with scikit-learn: 1,797 images of 8 x 8, 10 classes; what runs with no files at hand.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), its test part.
"""

from pathlib import Path

import numpy as np
import torch

from bench.accuracy.data.assembly import Labelled, Published
from bench.accuracy.data.catalogue import Say
from bench.accuracy.data.stratification import stratified

#: The set has no test split of its own: this share of each class is one, the same for every split seed.
TEST_SHARE = 0.2
TEST_SEED = 0


def read(data_dir: Path, say: Say) -> Published:
    """Images (n, 1, 8, 8) uint8, of values 0 to 16. Neither the folder nor anyone to tell is needed."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # a second: only for this set

    pixels, labels = load_digits(return_X_y=True)
    every = Labelled(
        torch.from_numpy(pixels.astype(np.uint8).reshape(-1, 1, 8, 8)), torch.from_numpy(labels.astype(np.int64))
    )
    train, test = stratified(every.labels.numpy(), TEST_SHARE, TEST_SEED)
    return Published(
        every.at(train),
        every.at(test),
        tuple(map(str, range(10))),
        notes=(f"test: {TEST_SHARE:g} of each class, always the same; the set has no test split of its own",),
    )
