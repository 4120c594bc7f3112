import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.accuracy.data.stratification import fingerprint, stratified

LABELS = st.lists(st.integers(0, 6), max_size=80).map(lambda labels: np.array(labels, dtype=np.int64))


@settings(deadline=None)
@given(LABELS, st.floats(0, 1), st.integers(0, 2**32))
def test_every_class_gives_its_share_and_keeps_one(labels, share, seed):
    kept, out = stratified(labels, share, seed)
    assert np.array_equal(np.sort(np.concatenate([kept, out])), np.arange(len(labels)))
    assert np.array_equal(kept, np.sort(kept))
    assert np.array_equal(out, np.sort(out))
    for label in range(7):
        count, held = int((labels == label).sum()), int((labels[out] == label).sum())
        if count < 2:
            assert held == 0
        else:
            assert 1 <= held < count
            assert abs(held - share * count) <= 0.5 or held in (1, count - 1)


def test_the_seed_decides_and_nothing_else():
    labels = np.repeat(np.arange(5), 20)
    kept, out = stratified(labels, 0.1, 3)
    again = stratified(labels, 0.1, 3)
    assert np.array_equal(out, again[1])
    assert np.array_equal(kept, again[0])
    assert not np.array_equal(out, stratified(labels, 0.1, 4)[1])


def test_a_split_stays_what_it_was():
    """Runs made years apart are compared by the seed: numpy's generator must give the same numbers."""
    _, out = stratified(np.tile(np.arange(3), 10), 0.2, 0)
    assert out.tolist() == [2, 4, 6, 10, 11, 21]
    assert fingerprint(out) == "9164fe794ad631df"


def test_a_half_rounds_up():
    assert len(stratified(np.zeros(5, np.int64), 0.1, 0)[1]) == 1
    assert len(stratified(np.zeros(15, np.int64), 0.1, 0)[1]) == 2
    assert len(stratified(np.zeros(25, np.int64), 0.1, 0)[1]) == 3


def test_the_fingerprint_tells_splits_apart():
    assert fingerprint(np.array([1, 2])) == fingerprint(np.array([1, 2], dtype=np.int32))
    assert fingerprint(np.array([1, 2])) != fingerprint(np.array([2, 1]))
