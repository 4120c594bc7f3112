from bench.accuracy.events import Ended, Stepped
from bench.accuracy.orders import EVENT, Done, Event, Failed
from bench.accuracy.records import CurvePoint, Training
from bench.accuracy.settings import Member

MEMBER = Member(loss="batch-ce", learning_rate=0.1, seed=3)


def test_events_cross_a_pipe_as_lines() -> None:
    point = CurvePoint(step=5, training_loss=None, validation_loss=0.25, validation_accuracy=0.5, seconds=1.5)
    events: list[Event] = [
        Stepped(
            members=(MEMBER,),
            step=5,
            steps=10,
            training_losses=(None,),
            validation_accuracies=(0.5,),
            steps_per_s=None,
        ),
        Ended(training=Training(member=MEMBER, status="ok", steps=10, curve=(point,), seconds=2.0)),
        Failed(reason="no memory\nleft", cause="work"),
        Done(),
    ]
    for event in events:
        line = event.model_dump_json()
        assert "\n" not in line
        assert EVENT.validate_json(line) == event
