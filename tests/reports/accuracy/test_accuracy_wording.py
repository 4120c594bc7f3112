import dataclasses
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy.parity import Parity
from bench.accuracy.rows import Spread, table1
from bench.accuracy.settings import Recipe
from reports.accuracy import wording


def test_spread_has_no_deviation_for_one_seed() -> None:
    assert wording.spread(Spread.of([0.00234])) == "0.0023"
    assert wording.spread(Spread.of([0.0020, 0.0024])) == "0.0022 +- 0.0003"
    assert wording.spread(None) == ""


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.98123, 0.98124, "98.12 %"),
        (0.981, 0.982, "98.10 to 98.20 %"),
        (1.0, 1.0, "100.00 %"),
        (0.999999, 1.0, "99.99 to 100.00 %"),
        (0.999999, 0.9999995, "99.99 %"),
    ],
)
def test_no_share_below_the_whole_is_printed_as_the_whole(low: float, high: float, words: str) -> None:
    assert wording.percent_between(low, high) == words


@given(st.floats(min_value=0, max_value=1, exclude_max=True))
def test_only_the_whole_is_100_percent(share: float) -> None:
    assert not wording.percent_between(share, share).startswith("100")


def test_runs_of_one_data_set_are_told_apart(make_accuracy_run) -> None:
    mnist, digits = make_accuracy_run(), make_accuracy_run(dataset="digits")
    assert wording.dataset_labels([mnist, digits]) == ["MNIST", "digits"]
    other = make_accuracy_run(name="more-steps")
    assert wording.dataset_labels([mnist, digits, other]) == [
        "MNIST (accuracy-mnist)",
        "digits",
        "MNIST (more-steps)",
    ]


def test_every_loss_has_a_verdict_against_ce_and_against_itself(make_accuracy_run) -> None:
    lines = wording.verdict_lines(table1(make_accuracy_run(missing=["nce"])))
    assert sum(line.startswith("batch CE, one logit against") for line in lines) == 2
    assert sum(line.startswith("CE, one logit against all logits of CE: worse, ") for line in lines) == 1
    assert sum(line.startswith("CE, ") for line in lines) == 1, "for CE both questions are the same"
    assert any(line.startswith("NCE: no verdict, as it has no tested model (missing)") for line in lines)


def test_without_ce_the_papers_question_is_said_to_be_open(make_accuracy_run) -> None:
    lines = wording.verdict_lines(table1(make_accuracy_run(missing=["ce"])))
    assert "batch CE, one logit against all logits of CE: not compared" in lines


def test_parity_without_an_interval_is_the_verdict_alone() -> None:
    assert wording.parity(Parity("undecided", None, None, None, "no error", 1)) == "undecided"
    assert wording.parity(Parity("parity", 1.0, 0.956, 1.051, "", 1)) == "parity (0.96 .. 1.05)"
    assert wording.parity(None) == ""


def test_that_one_seed_says_nothing_of_the_spread_between_trainings_is_said_once(make_accuracy_run) -> None:
    rows = table1(make_accuracy_run())
    assert wording.one_seed_note(rows).startswith("The intervals rest on one seed:")
    assert not any("seed" in line for line in wording.verdict_lines(rows))
    assert wording.one_seed_note(table1(make_accuracy_run(seeds=(0, 1)))) == ""


def test_losses_that_rest_on_one_seed_of_several_are_named(make_accuracy_run) -> None:
    run = make_accuracy_run(seeds=(0, 1))
    kept = tuple(each for each in run.evaluations if (each.member.loss, each.member.seed) != ("nce", 1))
    rows = table1(SimpleNamespace(**{**vars(run), "evaluations": kept}))
    assert wording.one_seed_note(rows).startswith("The intervals of NCE rest on one seed:")


def test_no_verdict_says_nothing_of_seeds(make_accuracy_run) -> None:
    assert wording.one_seed_note(table1(make_accuracy_run(("ce",), missing=["ce"]))) == ""


def test_a_class_has_its_name_or_its_number(make_accuracy_run) -> None:
    named = make_accuracy_run(class_names=("plane", "a very long name, of more than thirty characters", " ")).manifest
    assert [wording.class_name(named, number) for number in range(4)] == [
        "plane",
        "a very long name, of more tha...",
        "2",
        "3",
    ]
    assert wording.class_name(make_accuracy_run().manifest, 1) == "1"


def test_seeds_that_are_missing_are_said(make_accuracy_run) -> None:
    run = make_accuracy_run(seeds=(0, 1))
    kept = tuple(each for each in run.evaluations if (each.member.loss, each.member.seed) != ("nce", 1))
    run = SimpleNamespace(**{**vars(run), "evaluations": kept})
    assert wording.incomplete(table1(run)) == ["NCE: 1 of 2 seeds"]


def test_a_training_that_diverged_says_when(make_accuracy_run) -> None:
    run = make_accuracy_run(diverged={("ce", 0.01): 37})
    assert wording.training_failures(run.trainings) == ["ce-lr0.01-seed0: diverged: the loss was not finite at step 37"]
    good = next(each for each in run.trainings if each.status == "ok")
    assert wording.ended(good).startswith("ce-lr0.1-seed0: 4,000 steps, validation accuracy 98.")


def test_heading_says_what_was_trained_on_what(make_accuracy_run) -> None:
    text = "\n".join(wording.measured_on(make_accuracy_run(seeds=(0, 1, 2)).manifest))
    for told in (
        "MNIST: 7 losses",
        "0.1, 0.01",
        "3 seeds",
        "54,000 to train",
        "mlp",
        "SGD with momentum 0.9",
        "2.15.0",
    ):
        assert told in text


def test_a_run_that_goes_on_says_how_far_it_is(make_accuracy_run) -> None:
    run = make_accuracy_run(status="interrupted", missing=["nce"])
    assert wording.state(run) == "the run is interrupted: 12 of 14 trainings ended"
    assert wording.state(make_accuracy_run()) == ""


def test_the_step_is_said_where_the_reason_does_not(make_accuracy_run) -> None:
    run = make_accuracy_run(("ce",), diverged={("ce", 0.01): 12_345})
    lost = next(each for each in run.trainings if each.status != "ok").model_copy(update={"reason": "the loss is NaN"})
    assert wording.failure(lost) == "ce-lr0.01-seed0: diverged at step 12,345: the loss is NaN"


def test_a_rival_is_judged_by_log_p_and_against_ce_alone(make_accuracy_run) -> None:
    (row,) = (row for row in table1(make_accuracy_run()) if row.loss == "nce")
    rival = dataclasses.replace(row, loss="low-rank", name="low-rank softmax")
    (line,) = wording.verdict_lines([rival])
    assert line.startswith("low-rank softmax, log P of one class against all logits of CE: ")
    assert "one logit" not in line


def test_the_heading_says_how_the_top_layer_steps_and_starts() -> None:
    plain = Recipe(network="mlp", steps=1)
    assert wording.recipe_words(plain) == "mlp, SGD with momentum 0.9, constant rate, float32, 1 thread"
    other = plain.model_copy(update={"top_layer_step": "in-place", "accumulation": 4, "prior_bias": "auto"})
    for words in ("top layer by plain SGD in place", "4 micro-batches a step", "prior bias under losses that need it"):
        assert words in wording.recipe_words(other)
    assert "over chunks of classes" in wording.recipe_words(plain.model_copy(update={"top_layer_step": "chunked"}))
