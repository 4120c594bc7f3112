"""The history on disk: what is kept, what cannot be read, and many writers at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bench
from bench import folder
from bench.errors import UsageError
from bench.history.snapshot import Estimate, Point, Replicate, Snapshot, Work
from bench.history.store import Store, digest
from bench.machine.fingerprint import Machine

MakeSnapshot = Callable[..., Snapshot]


def brief(**fields: object) -> Snapshot:
    values: dict[str, object] = {
        "name": "resnet50",
        "created": "2026-01-02T03:04:05+00:00",
        "commit": "261e04a2c1c866d08c3b1b614bb206fabe26c49d",
        "machine": Machine(
            os="Linux", cpu="a processor", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=2**34
        ),
        "versions": {"torch": "2.11.0"},
        "points": (
            Point(
                work=Work(arch="resnet50", classes=1024, input_shape=(3, 224, 224), device="cpu", batch_size=32),
                threads=2,
                single=Estimate(value=0.1, error=0.01, degrees=9),
                all=Estimate(value=0.1 + 1e-17 + 1 / 3, error=0.01, degrees=9),
                speedup=Estimate(value=4 + 1 / 3),
                rounds=100,
            ),
        ),
    }
    return Snapshot(**{**values, **fields})  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_added_is_read_back_equal(store: Store) -> None:
    path = store.add(brief())
    assert path.name == f"2026-01-02T03-04-05-resnet50-261e04a2-{digest(brief())}.json"
    (entry,) = store.entries()
    assert (entry.snapshot, entry.path) == (brief(), path)
    assert '\n "name": "resnet50",\n' in path.read_text(), "a person reads it too"


def test_entries_come_in_the_order_the_runs_were_made(store: Store) -> None:
    for day in (3, 1, 2):
        store.add(brief(created=f"2026-01-{day:02}T00:00:00+00:00"))
    assert [entry.snapshot.created[8:10] for entry in store.entries()] == ["01", "02", "03"]


def test_the_same_run_twice_is_one_file_and_anything_else_another(store: Store) -> None:
    machine = brief().machine
    assert isinstance(machine, Machine)
    others = [
        brief(machine=machine.model_copy(update={"cpu": "another"})),
        brief(versions={"torch": "2.12.0"}),
        brief(name="../a name/no file has"),
        brief(commit=None),
    ]
    paths = {store.add(each) for each in (brief(), brief(), *others)}
    assert len(paths) == 5
    assert {path.parent for path in paths} == {store.path / "history"}
    assert len(store.entries()) == 5


@given(
    name=st.text(max_size=300),
    commit=st.one_of(st.none(), st.text(max_size=50)),
    value=st.floats(1e-15, 1e9),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_and_number_survives(tmp_path: Path, name: str, commit: str | None, value: float) -> None:
    name = name.encode(errors="replace").decode()  # what is no text cannot be written in JSON
    commit = commit and commit.encode(errors="replace").decode()
    point = brief().points[0].model_copy(update={"all": Estimate(value=value)})
    snapshot = brief(name=name, commit=commit, points=(point,))
    path = Store(tmp_path).add(snapshot)
    assert Store(tmp_path).entry(path.name).snapshot == snapshot
    path.unlink()


def test_a_field_of_a_later_version_leaves_old_digests_alone() -> None:
    """A new field has a default, and defaults do not count."""
    point = brief().points[0]
    assert digest(brief(points=(point.model_copy(update={"marked": 0}),))) == digest(brief())
    assert digest(brief(points=(point.model_copy(update={"marked": 1}),))) != digest(brief())


# -- what cannot be read ---------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_text(path.read_text()[:100])


def emptied(path: Path) -> None:
    path.write_text("")


def newer(path: Path) -> None:
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2', 1))


def another_number(path: Path) -> None:
    path.write_text(path.read_text().replace('"value": 0.1,', '"value": 0.05,', 1))


def not_a_number(path: Path) -> None:
    path.write_text(path.read_text().replace('"value": 0.1,', '"value": NaN,', 1))


def infinite(path: Path) -> None:
    path.write_text(path.read_text().replace('"value": 0.1,', '"value": 1e999,', 1))


def another_field(path: Path) -> None:
    path.write_text(path.read_text().replace('"name"', '"nome"', 1))


def a_list(path: Path) -> None:
    path.write_text("[1, 2]")


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


DAMAGES = {
    cut_short: "cut short or edited",
    emptied: "cut short or edited",
    newer: "schema version 2, where 1 to 1 can be read; a newer slc-bench",
    another_number: "it was edited or renamed",
    not_a_number: r"points\.0\.single\.value is no finite number",
    infinite: r"points\.0\.single\.value is no finite number",
    another_field: "or edited .*(name|nome)",
    a_list: "not a JSON object",
    no_text: "cannot be read",
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_damaged_file_is_named_and_the_others_are_read(
    store: Store, damage: Callable[[Path], None], said: str
) -> None:
    store.add(brief())
    bad = store.add(brief(name="other"))
    before = bad.stat().st_ino
    damage(bad)
    contents = store.read()
    assert [entry.snapshot.name for entry in contents.entries] == ["resnet50"]
    (problem,) = contents.problems
    assert problem.startswith(f"{bad}: ")
    assert "\n" not in problem
    with pytest.raises(UsageError, match=said):
        store.entry(bad.name)
    assert bad.stat().st_ino == before, "nothing is deleted or mended"


@pytest.mark.parametrize(("damage", "said"), DAMAGES.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_damaged_baseline_is_named(store: Store, damage: Callable[[Path], None], said: str) -> None:
    path = store.set_baseline("main", brief())
    damage(path)
    with pytest.raises(UsageError) as caught:
        store.baseline("main")
    assert str(caught.value).startswith(f"{path}: ")
    assert len(store.baselines().problems) == 1


@pytest.mark.parametrize(("damage", "said"), DAMAGES.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_damaged_baseline_is_not_replaced(store: Store, damage: Callable[[Path], None], said: str) -> None:
    path = store.set_baseline("main", brief())
    damage(path)
    left = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        store.set_baseline("main", brief())
    assert str(caught.value).startswith(f"{path}: ")
    assert path.read_bytes() == left


def test_a_file_of_thousands_of_digits_hides_no_other(store: Store) -> None:
    kept = store.add(brief())
    (kept.parent / "digits.json").write_text("1" * 5000)
    contents = store.read()
    assert [entry.path for entry in contents.entries] == [kept]
    assert len(contents.problems) == 1


@pytest.mark.parametrize(
    "field",
    [
        {"all": Estimate(value=1e300)},
        {"single": Estimate(value=1e-16)},
        {"speedup": Estimate(value=1e13)},
        {"all": Estimate(value=1.0, error=1e200, degrees=4.0)},
        {"all": Estimate(value=1.0, error=0.1, degrees=1e-300)},
        {"replicates": (Replicate(rounds=10, single_s=1e-3, all_s=1e10),)},
    ],
    ids=str,
)
def test_a_number_that_nothing_measured_is_named(store: Store, field: dict[str, Any]) -> None:
    path = store.add(brief(points=(brief().points[0].model_copy(update=field),)))
    with pytest.raises(UsageError, match=r"of '\w+' is .*, where .* can be; measure it again"):
        store.entry(path.name)


def test_white_space_and_line_ends_are_no_edit(store: Store) -> None:
    """Git may write other line ends than it was given."""
    path = store.add(brief())
    path.write_bytes(json.dumps(json.loads(path.read_text())).replace("{", "{\r\n\t").encode())
    assert store.read().problems == ()


def test_a_renamed_file_is_told(store: Store) -> None:
    path = store.add(brief())
    path.rename(path.with_name("mine.json"))
    assert "edited or renamed" in store.read().problems[0]


def test_no_history_is_said_with_what_begins_one(store: Store) -> None:
    with pytest.raises(UsageError, match=r"no history in .*history add RUN"):
        store.entries()


def test_an_entry_is_found_by_the_beginning_of_its_name_or_digest(store: Store) -> None:
    first, second = store.add(brief()), store.add(brief(name="other"))
    assert store.entry(digest(brief())[:6]).path == first
    assert store.entry("2026-01-02T03-04-05-other").path == second
    with pytest.raises(UsageError, match="2 entries begin with '2026'"):
        store.entry("2026")
    for nothing in ("", "nothing", "*"):
        with pytest.raises(UsageError, match="no entry"):
            store.entry(nothing)


# -- baselines -------------------------------------------------------------------------------------------------------


def test_a_baseline_outlives_the_history_it_came_from(store: Store) -> None:
    path = store.add(brief())
    store.set_baseline("main", store.entries()[0].snapshot)
    path.unlink()
    assert store.baseline("main") == brief()


def test_a_baseline_can_be_another_run_later(store: Store) -> None:
    store.set_baseline("main", brief())
    store.set_baseline("main", brief(name="later"))
    assert store.baseline("main").name == "later"
    assert [entry.path.stem for entry in store.baselines().entries] == ["main"]


def test_a_baseline_that_does_not_exist_names_those_that_do(store: Store) -> None:
    with pytest.raises(UsageError, match=r"no baseline 'main'.*none yet.*baseline set main RUN"):
        store.baseline("main")
    store.set_baseline("release", brief())
    with pytest.raises(UsageError, match=r"no baseline 'main'.*there is release"):
        store.baseline("main")


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", ".hidden", "-x", "a b", "x" * 81, "ä", "a\n"])
def test_a_name_that_is_no_files_is_refused(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a baseline's name"):
        store.set_baseline(name, brief())
    with pytest.raises(UsageError, match="no baseline"):
        store.baseline(name)
    assert not store.path.exists()


# -- faults ----------------------------------------------------------------------------------------------------------

#: Adds runs 0 .. N-1 of writer W, and one that all writers have in common.
WRITER = """
import sys
import time
from pathlib import Path
from typing import Any
from bench.history.snapshot import Snapshot
from bench.history.store import Store
path, writer, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
run = Snapshot.model_validate_json(sys.stdin.read())
store = Store(path)
sys.stdout.write("ready\\n"); sys.stdout.flush()
for index in range(number):
    store.add(run.model_copy(update={"name": f"{writer}-{index}"}))
    store.add(run)
    store.set_baseline("main", run.model_copy(update={"name": f"{writer}-{index}"}))
"""


def writer(store: Store, name: str, number: int) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.path), name, str(number)],
        env={**os.environ, "PYTHONPATH": str(Path(bench.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(brief().model_dump_json())
    process.stdin.close()
    return process


def test_many_processes_add_at_once_and_nothing_is_lost(store: Store) -> None:
    writers, each = 5, 8
    processes = [writer(store, str(number), each) for number in range(writers)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.read()
        assert process.wait(timeout=120) == 0
        process.stdout.close()
    contents = store.read()
    assert contents.problems == ()
    expected = {f"{number}-{index}" for number in range(writers) for index in range(each)} | {"resnet50"}
    assert sorted(entry.snapshot.name for entry in contents.entries) == sorted(expected)
    assert store.baseline("main").name in {f"{number}-{each - 1}" for number in range(writers)}
    assert [name for name in os.listdir(store.path / "history") if name.startswith(".")] == []


def test_a_writer_that_is_killed_leaves_no_half_record(store: Store) -> None:
    for attempt in range(3):
        process = writer(store, str(attempt), 100_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None and len(list(store.path.glob("history/*-*.json"))) < 4 * (attempt + 1):
            os.sched_yield()
        assert process.poll() is None, "killed in the middle, not ended by itself"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        process.stdout.close()
    contents = store.read()
    assert contents.problems == ()
    assert len(contents.entries) >= 12
    assert store.baselines().problems == ()


def test_what_a_killed_writer_left_behind_is_not_looked_at(store: Store) -> None:
    path = store.add(brief())
    path.with_name(f".{path.name}.123").write_text('{"schema')
    path.with_name(".half.json").write_text('{"schema')
    assert len(store.entries()) == 1
    assert store.read().problems == ()


def test_a_disk_that_refuses_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(brief())
    store.set_baseline("main", brief())

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "fsync", refuse)
    for act in (lambda: store.add(brief(name="other")), lambda: store.set_baseline("main", brief(name="other"))):
        with pytest.raises(UsageError, match="No space left on device; nothing was changed, make room or"):
            act()
    assert [entry.snapshot for entry in store.entries()] == [brief()]
    assert store.baseline("main") == brief()
    assert [name for name in os.listdir(store.path / "history") if name.startswith(".")] == []


def test_a_store_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(UsageError, match=r"cannot write .*Not a directory"):
        Store(tmp_path / "store").add(brief())


def test_a_thousand_entries_are_read_within_seconds(store: Store) -> None:
    template = brief()
    (store.path / "history").mkdir(parents=True)
    for number in range(1000):
        snapshot = template.model_copy(update={"name": f"run-{number}"})
        # Without the fsync of `add`, which on a slow disk would take most of the test's time.
        (store.path / "history" / f"x-{digest(snapshot)}.json").write_text(snapshot.model_dump_json(indent=1))
    began = time.process_time()
    assert len(store.entries()) == 1000
    assert time.process_time() - began < 5
