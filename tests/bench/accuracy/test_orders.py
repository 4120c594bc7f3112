from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy.events import Ended
from bench.accuracy.orders import (
    EVENT,
    ORDER,
    Done,
    Evaluated,
    Failed,
    ToTest,
    ToTrain,
    failed_trainings,
    orders_left,
    units,
)

Make = Callable[..., Any]


def test_units_are_seed_by_seed_loss_by_loss(make_grid_manifest: Make, make_member: Make) -> None:
    manifest = make_grid_manifest(["ce", "batch-ce"], [0.1, 0.01], [0, 1])
    alone = units(manifest)
    assert [len(unit) for unit in alone] == [1] * 8
    assert alone[0] == (make_member("ce", 0.1, 0),)
    assert alone[3] == (make_member("batch-ce", 0.01, 0),)
    assert alone[4] == (make_member("ce", 0.1, 1),)
    stacked = units(make_grid_manifest(["ce", "batch-ce"], [0.1, 0.01], [0, 1], recipe={"stack": 3}))
    assert [len(unit) for unit in stacked] == [3, 3, 2]
    assert [member for unit in stacked for member in unit] == [member for (member,) in alone]


def test_a_model_is_tested_once_all_rates_of_its_loss_and_seed_have_ended(
    make_grid_manifest: Make, make_member: Make, make_training: Make, make_evaluation: Make
) -> None:
    manifest = make_grid_manifest()
    high, low = make_member("ce", 0.1), make_member("ce", 0.01)
    trainings = [make_training(high, accuracy=0.8)]
    assert next(orders_left(manifest, trainings, [])) == ToTrain(members=(low,))
    trainings.append(make_training(low, accuracy=0.9))
    left = list(orders_left(manifest, trainings, []))
    assert left[0] == ToTest(member=low), "tests come first"
    assert [order.kind for order in left] == ["test", "train", "train"]
    assert ToTest(member=low) not in orders_left(manifest, trainings, [make_evaluation(low)])
    assert ToTest(member=low) not in orders_left(manifest, trainings, [], given=[left[0]])


def test_where_all_rates_were_lost_nothing_is_tested(
    make_grid_manifest: Make, make_member: Make, make_training: Make
) -> None:
    manifest = make_grid_manifest(["ce"])
    trainings = [
        make_training(make_member("ce", 0.1), status="diverged"),
        make_training(make_member("ce", 0.01), status="failed"),
    ]
    assert list(orders_left(manifest, trainings, [])) == []


def test_a_stack_that_was_cut_off_is_trained_again_as_a_whole(make_grid_manifest: Make, make_training: Make) -> None:
    manifest = make_grid_manifest(recipe={"stack": 4})
    (unit,) = units(manifest)
    assert list(orders_left(manifest, [make_training(unit[0])], [])) == [ToTrain(members=unit)]
    lost = failed_trainings(unit, [make_training(unit[0])], "its worker was killed")
    assert [training.member for training in lost] == list(unit[1:])
    assert {(training.status, training.reason, training.steps) for training in lost} == {
        ("failed", "its worker was killed", 0)
    }


@given(st.data())
def test_whatever_has_ended_every_training_is_ordered_exactly_once(
    make_grid_manifest: Make, make_training: Make, make_evaluation: Make, data: st.DataObject
) -> None:
    """A grid worked off in any order of endings, cut off anywhere: each lacking unit comes once, each test once."""
    draw = data.draw
    manifest = make_grid_manifest(
        ["ce", "batch-ce"],
        [0.1, 0.01][: draw(st.integers(1, 2))],
        range(draw(st.integers(1, 3))),
        recipe={"stack": draw(st.integers(1, 5))},
    )
    statuses = st.sampled_from(["ok", "ok", "diverged", "failed"])
    before = draw(st.sets(st.sampled_from(manifest.members)))
    trainings = [make_training(member, status=draw(statuses)) for member in manifest.members if member in before]
    evaluations: list[Any] = []
    given_orders: list[Any] = []
    under_way: list[Any] = []
    while True:
        order = next(orders_left(manifest, trainings, evaluations, given_orders), None)
        if order is not None:
            given_orders.append(order)
            under_way.append(order)
        if not under_way:
            break
        if order is None or draw(st.booleans()):
            ended = under_way.pop(draw(st.integers(0, len(under_way) - 1)))
            if isinstance(ended, ToTest):
                evaluations.append(make_evaluation(ended.member))
            else:
                known = {training.member for training in trainings}
                trainings += [
                    make_training(member, status=draw(statuses)) for member in ended.members if member not in known
                ]
    trained = [member for order in given_orders if isinstance(order, ToTrain) for member in order.members]
    assert len(trained) == len(set(trained))
    assert {*trained, *before} == set(manifest.members)
    assert not [order for order in given_orders if isinstance(order, ToTrain) and before.issuperset(order.members)]
    pairs = [(each.member.loss, each.member.seed) for each in evaluations]
    assert len(pairs) == len(set(pairs))
    finished = {(each.member.loss, each.member.seed) for each in trainings if each.status == "ok"}
    assert set(pairs) == finished


def test_orders_and_events_cross_a_pipe_as_they_are(
    make_member: Make, make_training: Make, make_evaluation: Make
) -> None:
    for order in (ToTrain(members=(make_member(), make_member(seed=1))), ToTest(member=make_member())):
        assert ORDER.validate_json(order.model_dump_json()) == order
    for event in (
        Ended(training=make_training(make_member())),
        Evaluated(evaluation=make_evaluation(make_member())),
        Failed(reason="a line", cause="disk"),
        Done(),
    ):
        assert EVENT.validate_json(event.model_dump_json()) == event
