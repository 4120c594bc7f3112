"""`python -m bench history`: what it prints where, and its exit codes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench.history.snapshot import Estimate, OtherMachine, Point, Snapshot, Work
from bench.history.store import Store, digest
from bench.machine.fingerprint import Machine
from bench.run import Manifest, RunWriter, Sample
from bench.run import Point as RunPoint
from bench.schemas import schemas

Command = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def run(
    tmp_path: Path,
    make_manifest: Callable[..., Manifest],
    make_round: Callable[..., list[Sample]],
    make_point: Callable[..., RunPoint],
) -> Path:
    points = tuple(make_point(count) for count in (1, 1024))
    writer = RunWriter.create(tmp_path / "results", make_manifest(points=points))
    for number in range(12):
        writer.append(make_round(number))
    writer.close()
    return writer.path


def night(day: int, speedup: float, *, arch: str = "resnet50", **fields: object) -> Snapshot:
    point = Point(
        work=Work(arch=arch, classes=1024, device="cpu", dtype="float32", batch_size=32, input_shape=(3, 224, 224)),
        threads=2,
        single=Estimate(value=0.1, error=0.003, degrees=9),
        all=Estimate(value=0.1 * speedup, error=0.003, degrees=9),
        speedup=Estimate(value=speedup, error=0.003, degrees=9),
        rounds=100,
    )
    values: dict[str, object] = {
        "name": "night",
        "created": f"2026-01-{day:02}T03:04:05+00:00",
        "commit": f"{day:08}" + "0" * 32,
        "machine": Machine(
            os="Linux", cpu="a processor", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=2**34
        ),
        "versions": {"torch": "2.14.0" if day <= 8 else "2.15.0"},
        "points": (point,),
    }
    return Snapshot(**{**values, **fields})  # type: ignore[arg-type]


def test_help_is_quick_because_it_imports_nothing_heavy(help_of: Command) -> None:
    ended = help_of("history", "show")
    assert (ended.code, ended.err) == (0, "")
    assert "imported: []" in ended.out
    assert "commits between which they lie" in ended.out
    assert ".slc-bench" in ended.out


def test_a_run_is_added_listed_shown_and_made_a_baseline(here: Command, run: Path, store: Store) -> None:
    added = here("history", "add", run, "--store", store.path)
    assert (added.code, added.err) == (0, "")
    (entry,) = store.entries()
    assert added.out == f"kept: {entry.path}\n"
    listed = here("history", "list", "--store", store.path)
    assert listed.code == 0
    assert digest(entry.snapshot) in listed.out
    assert "a processor" in listed.out
    assert listed.out.endswith("1 run\n")
    assert here("history", "show", digest(entry.snapshot)[:5], "--store", store.path).code == 0
    set_ = here("history", "baseline", "set", "main", run, "--store", store.path)
    assert (set_.code, store.baseline("main")) == (0, entry.snapshot)
    assert "main" in here("history", "baseline", "list", "--store", store.path).out
    shown = here("history", "show", "main", "--store", store.path)
    assert "1024 classes" in shown.out
    assert "1024.00" in shown.out, "the speedup"


def test_an_entry_becomes_a_baseline_too(here: Command, store: Store) -> None:
    store.add(night(1, 4.0))
    ended = here("history", "baseline", "set", "main", digest(night(1, 4.0)), "--store", store.path)
    assert (ended.code, ended.err) == (0, "")
    assert store.baseline("main") == night(1, 4.0)


def test_nothing_is_kept_unless_all_can_be_read(here: Command, run: Path, store: Store, tmp_path: Path) -> None:
    ended = here("history", "add", run, tmp_path / "missing", "--store", store.path)
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(r"error: .*missing.*\n", ended.err)
    assert not store.path.exists()


def test_a_run_without_a_number_is_not_kept(
    here: Command, tmp_path: Path, store: Store, make_manifest: Callable[..., Manifest]
) -> None:
    writer = RunWriter.create(tmp_path / "results", make_manifest())
    writer.close()
    ended = here("history", "add", writer.path, "--store", store.path)
    assert ended.code == 2
    assert "no measured point yet: nothing to keep" in ended.err


def test_what_pytest_benchmark_wrote_is_kept_too(here: Command, tmp_path: Path, store: Store) -> None:
    stats = {"median": 0.5, "rounds": 10, "iqr": 0.01}
    content = {
        "machine_info": {"cpu": {"brand_raw": "a processor", "count": 4}},
        "benchmarks": [{"fullname": "tests/test_it.py::test_it", "stats": stats}],
        "datetime": "2026-01-02T03:04:05",
    }
    (tmp_path / "saved.json").write_text(json.dumps(content))
    assert here("history", "add", tmp_path / "saved.json", "--store", store.path).code == 0
    (entry,) = store.entries()
    assert entry.snapshot.machine == OtherMachine(cpu="a processor", cores=4)
    assert "tests/test_it.py::test_it" in here("history", "show", "--store", store.path).out


def test_a_step_is_shown_with_the_commits_on_both_sides_and_what_else_changed(here: Command, store: Store) -> None:
    for day in range(1, 17):
        store.add(night(day, (4.0 if day <= 8 else 3.6) + 0.002 * (day % 3)))
    ended = here("history", "show", "--store", store.path)
    assert (ended.code, ended.err) == (0, "")
    assert "resnet50, cpu, float32, batch 32, 3x224x224, 2 threads, 1024 classes" in ended.out
    assert re.search(
        r"step: speedup (9\.9|10\.0|10\.1) % \([\d.]+ to [\d.]+ %\) lower between 00000008 \(2026-01-08 03:04\) and "
        r"00000009 \(2026-01-09 03:04\); git log 00000008\.\.00000009; torch 2\.14\.0 -> 2\.15\.0",
        ended.out,
    )
    (marked,) = [line for line in ended.out.splitlines() if "<- step: speedup -" in line]
    assert "2026-01-09" in marked
    assert "time of all logits" in ended.out, "the quantity behind it has the same step"
    assert "step: time of the single logit" not in ended.out
    assert re.search(r"3\.\d+ \.\. 3\.\d+", marked), "the interval"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (None, None, "commit unknown"),
        ("a" * 40, None, "commit unknown"),
        ("a" * 40, "a" * 40, "the commit is the same"),
        ("a" * 40, "a" * 40 + "+dirty", "the commit is the same; changes that were not committed after it"),
        ("a" * 40 + "+dirty", "a" * 40 + "+dirty", "changes that were not committed before and after it"),
        ("a" * 40 + "+dirty", "b" * 40, "git log aaaaaaaa..bbbbbbbb; changes that were not committed before it"),
    ],
)
def test_what_is_unknown_or_not_committed_is_said(
    before: str | None, after: str | None, says: str, here: Command, store: Store
) -> None:
    for day in range(1, 17):
        run = night(day, (4.0 if day <= 8 else 3.6) + 0.002 * (day % 3))
        store.add(run.model_copy(update={"commit": before if day <= 8 else after}))
    ended = here("history", "show", "--store", store.path)
    assert ended.code == 0
    (step,) = [line for line in ended.out.splitlines() if line.startswith("step: speedup")]
    assert says in step

    assert step.count("aaaaaaaa+dirty (2026") == [before, after].count("a" * 40 + "+dirty")


def test_slow_creep_is_shown_as_a_drift(here: Command, store: Store) -> None:
    for day in range(1, 12):
        store.add(night(day, 4.0 * 0.995**day))
    out = here("history", "show", "--store", store.path).out
    assert re.search(
        r"drift: speedup (4\.9|5\.0) % \(.*\) lower between 00000001 \(.*\) and 00000011 \(.*\), "
        r"little by little over 11 runs",
        out,
    )
    assert "drift begins: speedup" in out
    assert "drift ends: speedup" in out


def test_a_quiet_history_says_so_and_shows_the_newest(here: Command, store: Store) -> None:
    for day in range(1, 10):
        store.add(night(day, 4.0))
    out = here("history", "show", "--last", 3, "--store", store.path).out
    assert "no step and no drift in 9 runs" in out
    assert "the newest 3 of 9 runs; --last 9 shows all" in out
    assert "2026-01-07" in out
    assert "2026-01-06" not in out


def test_show_takes_a_name_and_networks(here: Command, store: Store) -> None:
    store.add(night(1, 4.0))
    store.add(night(2, 5.0, arch="alexnet", name="other"))
    assert "alexnet" not in here("history", "show", "night", "--store", store.path).out
    only = here("history", "show", "--arch", "alexnet,vgg16", "--store", store.path)
    assert "resnet50" not in only.out
    assert "alexnet" in only.out
    nothing = here("history", "show", "--arch", "vgg16", "--store", store.path)
    assert (nothing.code, nothing.err) == (2, "error: nothing of vgg16 is there; leave out --arch to see all\n")
    unknown = here("history", "show", "nobody", "--store", store.path)
    assert unknown.code == 2
    assert "no entry" in unknown.err


def test_bad_files_are_named_the_others_shown_and_the_exit_code_is_3(here: Command, store: Store) -> None:
    store.add(night(1, 4.0))
    bad = store.add(night(2, 4.0))
    bad.write_text(bad.read_text()[:50])
    for command in (["list"], ["show"]):
        ended = here("history", *command, "--store", store.path)
        assert ended.code == 3
        assert ended.err.startswith(f"warning: {bad}: cut short")
        assert ended.err.count("\n") == 1
        assert "2026-01-01" in ended.out
    assert bad.exists()


def test_list_as_json_is_one_object_on_standard_output(here: Command, store: Store) -> None:
    path = store.add(night(1, 4.0))
    bad = store.add(night(2, 4.0))
    bad.write_text("")
    ended = here("history", "list", "--json", "--store", store.path)
    assert ended.code == 3
    found = json.loads(ended.out)
    Draft202012Validator(schemas()["history.schema.json"]).validate(found)
    Draft202012Validator(schemas()["entry.schema.json"]).validate(json.loads(path.read_text()))
    assert found["schema"] == "slc-bench/history/1"
    assert found["store"]["path"] == str(store.path)
    assert [str(bad) in problem for problem in found["store"]["problems"]] == [True]
    (row,) = found["rows"]
    assert (row["file"], row["name"]) == (str(path), "night")
    assert row["points"][0]["speedup"]["value"] == 4.0


@pytest.mark.parametrize("command", ["list", "show", "show an entry"])
def test_text_of_runs_gives_no_commands_to_a_terminal_or_a_ci(here: Command, store: Store, command: str) -> None:
    odd = {"name": "n\n::error::x", "versions": {"torch": "2\x1b[31m"}}
    machine = OtherMachine(cpu="c\x1b[2J\n::error::y")
    paths = [store.add(night(day, 4.0, arch="a\n::error::z", machine=machine, **odd)) for day in (1, 2)]
    options = [command] if command != "show an entry" else ["show", paths[0].name]
    ended = here("history", *options, "--store", store.path)
    assert ended.code == 0
    assert "error::" in ended.out
    assert "\x1b" not in ended.out
    assert not any(line.lstrip().startswith("::") for line in ended.out.splitlines())


@pytest.mark.parametrize("command", [["list"], ["show"]])
def test_no_history_is_told_with_what_begins_one(here: Command, store: Store, command: list[str]) -> None:
    ended = here("history", *command, "--store", store.path)
    assert (ended.code, ended.out) == (2, "")
    assert "history add RUN" in ended.err


def test_no_baseline_is_no_error_to_list(here: Command, store: Store) -> None:
    ended = here("history", "baseline", "list", "--store", store.path)
    assert (ended.code, ended.err) == (0, "")
    assert "no baseline yet" in ended.out


def test_markup_in_a_name_stays_text(here: Command, store: Store) -> None:
    store.add(night(1, 4.0, arch="[bold]x[/bold]", name="[red]"))
    assert "[bold]x[/bold]" in here("history", "show", "--store", store.path).out
    assert "[red]" in here("history", "list", "--store", store.path).out


def test_a_baseline_that_cannot_be_read_is_not_replaced(here: Command, run: Path, store: Store) -> None:
    here("history", "baseline", "set", "main", run, "--store", store.path)
    file = store.path / "baselines" / "main.json"
    file.write_text(file.read_text()[:200])
    ended = here("history", "baseline", "set", "main", run, "--store", store.path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {file}: cut short or edited")
    assert ended.err.rstrip().endswith("restore it, or delete it")
    assert len(file.read_text()) == 200
