from bench.speed.capacity import RESERVE_BYTES, Demand, refusal, split_by_fit

DEMAND = Demand(row_bytes=8192, logit_bytes=128, activation_bytes=10**9)


def test_a_demand_is_rows_and_logits_twice_and_activations() -> None:
    assert DEMAND.at(1000) == 1000 * (8192 + 256) + 10**9


def test_a_count_is_refused_from_the_first_byte_that_is_lacking() -> None:
    needed = DEMAND.at(5000) + RESERVE_BYTES
    assert refusal(5000, DEMAND, needed) is None
    assert refusal(5000, DEMAND, needed - 1) == "5,000 classes need 1.24 GB, 1.24 GB are free"


def test_counts_are_split_with_a_reason_for_each_that_does_not_fit() -> None:
    fitting, refused = split_by_fit([1, 1024, 2**18], DEMAND, DEMAND.at(1024) + RESERVE_BYTES)
    assert fitting == [1, 1024]
    assert list(refused) == [2**18]
    assert "262,144 classes need 3.42 GB" in refused[2**18]
