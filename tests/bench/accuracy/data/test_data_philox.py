"""Random numbers by their place: the published test vectors, and that places do not depend on each other."""

import numpy as np
import pytest
import torch
from scipy import stats

from bench.accuracy.data.philox import blocks, key, normals, uniforms, words

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "of", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_vectors_of_random123(counter: tuple[int, ...], of: tuple[int, int], expected: str) -> None:
    first, second, third, fourth = (torch.tensor([word]) for word in counter)
    found = blocks((first, second, third, fourth), of)
    assert " ".join(f"{int(word):08x}" for word in found) == expected


def test_a_place_has_its_words_whatever_stands_beside_it() -> None:
    places = torch.tensor([5, 2**62 + 3, 0, 2**33])
    together = words((1, 2), places, 11)
    assert together.shape == (4, 11)
    for row, place in zip(together, places, strict=True):
        assert torch.equal(words((1, 2), place[None], 11)[0], row)
        assert torch.equal(words((1, 2), place[None], 3)[0], row[:3])
    assert len(torch.unique(together)) == together.numel()


def test_another_key_gives_other_words() -> None:
    others = [(0, 1), (1, 0), (1, 1), (0, 2), (0, 1, 1), (0, 0, 1), (2**32 + 5, 1), (0, 1, 0, 0, 1)]
    assert len({key(*numbers) for numbers in others}) == len(others)
    assert key(7, 1) == key(7, 1) == key(7, 1, 0)
    assert not (words(key(0, 1), torch.arange(100), 4) == words(key(0, 2), torch.arange(100), 4)).any()


def test_uniform_numbers_are_uniform_and_a_shorter_line_is_the_beginning_of_a_longer() -> None:
    numbers = uniforms((3, 4), 100_001)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 0.001
    assert torch.equal(uniforms((3, 4), 777), numbers[:777])


def test_a_line_longer_than_a_chunk_is_the_same_line(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = uniforms((3, 4), 1001)
    monkeypatch.setattr("bench.accuracy.data.philox._CHUNK", 64)
    assert torch.equal(uniforms((3, 4), 1001), whole)


def test_normal_numbers_are_normal_and_unrelated() -> None:
    numbers = normals((5, 6), torch.arange(20_000), 5).numpy()
    for column in numbers.T:
        assert stats.kstest(column, "norm").pvalue > 0.001
    correlations = np.corrcoef(numbers.T) - np.eye(5)
    assert np.abs(correlations).max() < 5 / np.sqrt(20_000)
