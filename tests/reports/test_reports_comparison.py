import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench.history.compare import Comparison, Gate, compare
from bench.history.confirm import NOT_ASKED, Confirmed, Lost
from bench.history.snapshot import Estimate, OtherMachine, Point, Replicate, Snapshot, Work
from bench.machine.fingerprint import Machine
from bench.schemas import schemas
from reports import comparison as report

MakePoint = Callable[..., Point]
MakeSnapshot = Callable[..., Snapshot]

MACHINE = Machine(os="Linux", cpu="a processor", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=2**34)


@pytest.fixture
def point() -> MakePoint:
    """A point of five processes whose medians are known to 0.1 %, unless an error says otherwise."""

    def make(
        classes: int | None = 1024,
        single: float = 0.1,
        every: float = 0.2,
        *,
        arch: str = "resnet50",
        error: float | None = 1e-3,
        **fields: Any,
    ) -> Point:
        known = {} if error is None else {"error": error, "degrees": 4.0}
        work = Work(
            arch=arch,
            classes=classes,
            input_shape=(3, 224, 224),
            device="cpu",
            dtype=fields.pop("dtype", "float32"),
            batch_size=32,
        )
        values: dict[str, Any] = {
            "work": work,
            "threads": 2,
            "single": Estimate(value=single, **known),
            "all": Estimate(value=every, **known),
            "speedup": Estimate(value=every / single, **known),
            "rounds": 500,
            "replicates": (Replicate(rounds=100, single_s=single, all_s=every),) * 5,
        }
        return Point(**{**values, **fields})

    return make


@pytest.fixture
def brief() -> MakeSnapshot:
    def make(*points: Point, **fields: Any) -> Snapshot:
        values: dict[str, Any] = {
            "name": "resnet50",
            "created": "2026-01-02T03:04:05+00:00",
            "commit": "a" * 40,
            "machine": MACHINE,
            "versions": {"torch": "2.11.0"},
        }
        return Snapshot(**{**values, **fields}, points=points)

    return make


@pytest.fixture
def slower(point: MakePoint, brief: MakeSnapshot) -> Comparison:
    """At 1,024 classes the single logit takes 30 % longer; at 4,096 nothing changed."""
    base = brief(point(1024, 0.1, 0.2), point(4096, 0.1, 0.4))
    return compare(base, brief(point(1024, 0.13, 0.2), point(4096, 0.1, 0.4)))


@pytest.fixture
def same(point: MakePoint, brief: MakeSnapshot) -> Comparison:
    return compare(brief(point()), brief(point()))


def text(confirmed: Confirmed) -> str:
    stream = io.StringIO()
    report.print_comparison(confirmed, stream)
    return stream.getvalue()


def told(confirmed: Confirmed, severity: str) -> list[str]:
    return [finding.text for finding in report.findings(confirmed) if finding.severity == severity]


# -- the answer in a sentence -------------------------------------------------------------------------------------


def test_the_answer_comes_first(slower: Comparison) -> None:
    first = text(Confirmed(slower)).splitlines()[0]
    assert first == (
        "Worse at 1 of 2 points, above all resnet50 at 1,024 classes: "
        "time of the single logit +30 % (SLOWER), speedup -23 % (LOWER)."
    )


@pytest.mark.parametrize("gate", ["single", "speedup", "both"])
def test_of_several_the_worst_is_named(gate: Gate, point: MakePoint, brief: MakeSnapshot) -> None:
    base = brief(point(1024, 0.1, 0.2), point(4096, 0.1, 0.4), point(8192, 0.1, 0.8))
    new = brief(point(1024, 0.12, 0.2), point(4096, 0.15, 0.4), point(8192, 0.13, 0.8))
    found = report.headline(Confirmed(compare(base, new, gate=gate)))
    assert found.startswith("Worse at 3 of 3 points, above all resnet50 at 4,096 classes: ")
    assert ("time of the single logit +50 % (SLOWER)" in found) == (gate != "speedup")
    assert ("speedup -33 % (LOWER)" in found) == (gate != "single")


def test_nothing_worse(same: Comparison) -> None:
    assert report.headline(Confirmed(same)) == "Nothing got worse at 1 point, to a margin of 3 %."


def test_better_is_not_worse(point: MakePoint, brief: MakeSnapshot) -> None:
    found = Confirmed(compare(brief(point(1024, 0.13, 0.2)), brief(point(1024, 0.1, 0.2))))
    assert report.headline(found).startswith("Nothing got worse")
    assert told(found, "error") == []
    assert any("faster" in line for line in told(found, "note"))


def test_ambiguous_points_are_warned_of(point: MakePoint, brief: MakeSnapshot) -> None:
    both = [point(1024, error=0.1), point(4096, 0.1, 0.4)]
    found = Confirmed(compare(brief(*both), brief(*both)))
    assert report.headline(found) == "Nothing is known to be worse: 1 of 2 points could not be decided."
    assert any(line.startswith("ambiguous") and "resnet50 at 1,024 classes" in line for line in told(found, "warning"))


def test_nothing_decided_is_undecided(point: MakePoint, brief: MakeSnapshot) -> None:
    found = Confirmed(compare(brief(point(error=0.1)), brief(point(error=0.1))))
    assert report.headline(found) == "Undecided: 1 of 1 point ambiguous."


def test_other_machines_give_figures_without_verdicts(point: MakePoint, brief: MakeSnapshot) -> None:
    other = MACHINE.model_copy(update={"cpu": "another"})
    found = Confirmed(compare(brief(point(1024, 0.1)), brief(point(1024, 0.13), machine=other)))
    assert report.headline(found).startswith("Undecided: the two machines differ (cpu)")
    assert "+30.0 %" in text(found)
    assert "SLOWER" not in text(found)
    assert "no verdict" in text(found)


def test_a_point_that_failed_in_new_is_told_with_its_reason(point: MakePoint, brief: MakeSnapshot) -> None:
    lost = Point(work=point(4096).work, threads=2, status="out-of-memory", reason="needs\n3 GB")
    found = Confirmed(compare(brief(point(1024), point(4096)), brief(point(1024), lost)))
    assert report.headline(found) == "Undecided: 1 point of BASE failed in NEW."
    assert "failed in NEW, not in BASE: resnet50 at 4,096 classes: out-of-memory: needs 3 GB" in told(found, "warning")


# -- the figures --------------------------------------------------------------------------------------------------


def test_the_table_holds_every_change_and_fits_a_hundred_columns(slower: Comparison) -> None:
    lines = [line for line in text(Confirmed(slower)).splitlines() if line[:1] in "|+"]
    assert max(map(len, lines)) <= 100
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["classes", "", "base", "new", "change", "interval", "finds", "verdict"]
    assert [row[:2] for row in cells[1:]] == [
        ["1,024", "single"], ["", "all"], ["", "speedup"], ["4,096", "single"], ["", "all"], ["", "speedup"],
    ]  # fmt: skip
    assert cells[1][2:5] == ["100.0 ms", "130.0 ms", "+30.0 %"]
    assert cells[3][2:5] == ["2.00x", "1.54x", "-23.1 %"]
    assert [row[-1] for row in cells[1:]] == ["SLOWER", "SAME", "LOWER", "SAME", "SAME", "SAME"]
    low, high = (float(end) for end in re.findall(r"[+-][\d.]+", cells[1][5]))
    assert low < 30 < high


def test_the_widest_figures_fit_too(point: MakePoint, brief: MakeSnapshot) -> None:
    base, new = point(370_727, 1.2345, 19.8765, error=0.05), point(370_727, 2.9345, 19.8765, error=0.05)
    lines = text(Confirmed(compare(brief(base), brief(new)))).splitlines()
    assert max(len(line) for line in lines if line.startswith("|")) <= 100


def test_settings_of_one_network_are_told_apart(point: MakePoint, brief: MakeSnapshot) -> None:
    base = brief(point(dtype="float32"), point(dtype="bfloat16"))
    found = compare(base, brief(point(dtype="float32"), point(1024, 0.2, dtype="bfloat16")))
    assert "resnet50 (bfloat16) at 1,024 classes" in report.headline(Confirmed(found))
    shown = text(Confirmed(found))
    assert "\nresnet50, cpu, float32, batch 32, 2 threads, interleaved\n" in shown
    assert "\nresnet50, cpu, bfloat16, batch 32, 2 threads, interleaved\n" in shown


def test_a_benchmark_of_another_tool_has_one_time(brief: MakeSnapshot) -> None:
    machine = OtherMachine(cpu="a processor", cores=2)

    def foreign(seconds: float) -> Snapshot:
        known = Estimate(value=seconds, error=1e-3, degrees=50.0)
        point = Point(work=Work(arch="tests/a.py::test_it[1]", classes=None), all=known, rounds=100)
        return brief(point, tool="pytest-benchmark", machine=machine, versions={}, commit=None)

    found = Confirmed(compare(foreign(0.1), foreign(0.14)))
    assert report.headline(found) == "Worse: tests/a.py::test_it[1]: time +40 % (SLOWER)."
    assert "|         | time | 100.0 ms | 140.0 ms |" in text(found)
    assert "smallest change that could have been found: time " in text(found)
    assert "by pytest-benchmark" in text(found)
    assert "what can turn this red: time (--gate both)" in text(found)
    assert "for one example" not in text(found)


def test_of_another_tool_its_own_options_are_advised(brief: MakeSnapshot) -> None:
    unknown = Point(work=Work(arch="tests/a.py::test_it[1]", classes=None), all=Estimate(value=0.1), rounds=1)
    found = Confirmed(compare(brief(unknown), brief(unknown)))
    (line,) = told(found, "warning")
    assert "--benchmark-min-rounds" in line
    assert "--minibatches" not in line


# -- what others named --------------------------------------------------------------------------------------------

EVIL = "x\n::error::evil\x1b[31m\r\u2028##[error]evil"


@pytest.fixture
def evil(point: MakePoint, brief: MakeSnapshot) -> Confirmed:
    """Texts of runs that a terminal, GitHub's runner or Markdown would obey, wherever a run has text."""
    lost = Point(work=point(4096, arch=EVIL).work, threads=2, status="failed", reason=EVIL)
    fields = {"name": EVIL, "commit": EVIL, "notices": (EVIL,)}
    base = brief(point(arch=EVIL), point(arch="::error::first"), point(4096, arch=EVIL), **fields)
    new = brief(point(single=0.13, arch=EVIL), point(arch="::error::first"), lost, **fields, versions={"torch": EVIL})
    return Confirmed(compare(base, new), hindrance=EVIL)


def test_no_text_of_a_run_begins_a_command_or_reaches_the_terminal(evil: Confirmed) -> None:
    for shown in (text(evil), report.to_markdown(evil), "\n".join(report.to_annotations(evil))):
        assert "##[" not in shown
        assert not set(shown) & set("\x1b\r\u2028")
        assert not any(line.strip().startswith(("::error::evil", "::error::first")) for line in shown.splitlines())
    assert all(len(each.text.splitlines()) == 1 for each in report.findings(evil))


def test_markdown_mentions_nobody_and_leads_nowhere(point: MakePoint, brief: MakeSnapshot) -> None:
    name = "@somebody https://example.org www.example.org a@b.org <b> &amp; ~~x~~"
    found = report.to_markdown(Confirmed(compare(brief(point(arch=name)), brief(point(arch=name), name=name))))
    assert not re.search(r"@\w|://|www\.", found)
    assert r"\<b\> \&amp; \~\~x\~\~" in found


# -- the findings -------------------------------------------------------------------------------------------------


def test_the_cause_is_told_once_for_all_it_holds_for(point: MakePoint, brief: MakeSnapshot) -> None:
    base = brief(point(1024, 0.1, 0.2), point(4096, 0.1, 0.4))
    (line,) = told(Confirmed(compare(base, brief(point(1024, 0.13, 0.2), point(4096, 0.13, 0.4)))), "error")
    assert line.startswith("resnet50 at 1,024 and 4,096 classes: one logit is slower (+30 %)")
    assert line.endswith("; speedup -23 %")


def test_the_smallest_change_that_could_have_been_found_is_always_told(same: Comparison, slower: Comparison) -> None:
    for comparison in (same, slower):
        line = told(Confirmed(comparison), "note")[-1]
        assert line.startswith("smallest change that could have been found: time of the single logit ")
        smallest = comparison.points[0].single and comparison.points[0].single.smallest
        assert smallest is not None
        assert f"{100 * smallest:.1f} %" in line


def test_an_unknown_error_leaves_the_smallest_change_unknown(point: MakePoint, brief: MakeSnapshot) -> None:
    found = Confirmed(compare(brief(point(error=None)), brief(point(error=None))))
    assert "time of the single logit unknown at 1 point, with too few rounds to know" in told(found, "note")[-1]


def test_errors_too_large_for_any_change_are_told(point: MakePoint, brief: MakeSnapshot) -> None:
    found = Confirmed(compare(brief(point(error=50.0)), brief(point(error=50.0))))
    assert "time of the single logit none at 1 point, however large: the errors are" in told(found, "note")[-1]


@pytest.mark.parametrize(
    ("unequal", "reason"),
    [
        ({"machine": MACHINE.model_copy(update={"cpu": "another"})}, "machines"),
        ({"threads": 4}, "threads"),
    ],
)
def test_where_nothing_is_judged_no_change_could_have_been_found(
    unequal: dict[str, Any], reason: str, same: Comparison, point: MakePoint, brief: MakeSnapshot
) -> None:
    threads = unequal.pop("threads", 2)
    found = compare(brief(point()), brief(point(threads=threads), **unequal))
    line = told(Confirmed(found), "note")[-1]
    start = f"smallest change that could have been found: none at 1 point measured on unequal {reason}; on equal ones: "
    assert line.startswith(f"{start}time of the single logit ")
    assert "too few rounds" not in line


def test_what_differs_between_the_sides_is_told(point: MakePoint, brief: MakeSnapshot) -> None:
    base = brief(point(1024), point(512), notices=("drift", "drift", "control"))
    new = brief(point(1024, marked=12), point(4096), versions={"torch": "2.12.0"}, status="incomplete")
    found = Confirmed(compare(base, new))
    assert told(found, "warning") == [
        "BASE was measured with warnings of its own: drift, control",
        "NEW is incomplete: points may lack rounds",
        "samples marked for contention or throttling, and kept, at 1 point; most at resnet50 at 1,024 classes: "
        "0 in base, 12 in new",
    ]
    notes = told(found, "note")
    assert "software that differs: torch 2.11.0 -> 2.12.0" in notes
    assert "only in BASE, not compared: resnet50 at 512 classes" in notes
    assert "only in NEW, not compared: resnet50 at 4,096 classes" in notes


# -- measured again -----------------------------------------------------------------------------------------------


@pytest.fixture
def cleared(slower: Comparison, point: MakePoint, brief: MakeSnapshot) -> Confirmed:
    again = compare(brief(point(1024, 0.1, 0.2)), brief(point(1024, 0.101, 0.2)))
    return Confirmed(slower, again=again, turns=5, base_again=True)


def test_first_and_second_figures_are_shown(cleared: Confirmed) -> None:
    rows = [line for line in text(cleared).splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[1:]] == ["1,024", "", "", "again", "", "", "4,096", "", ""]
    assert "SLOWER" in rows[1]
    assert "SAME" in rows[4]


def test_what_was_cleared_is_told(cleared: Confirmed) -> None:
    assert report.headline(cleared) == (
        "Nothing got worse at 2 points, to a margin of 3 %; 1 point looked worse at first."
    )
    assert (
        "1 point measured again, base and new in turn, in 5 fresh processes a side; cleared: resnet50 at 1,024 classes"
        in told(cleared, "note")
    )


def test_a_base_that_was_not_measured_again_is_told(cleared: Confirmed) -> None:
    found = replace(cleared, base_again=False)
    assert any("NEW alone and compared with BASE as it was kept" in line for line in told(found, "note"))


def test_a_point_that_could_not_be_measured_again_is_told(slower: Comparison) -> None:
    found = Confirmed(slower, lost=(Lost(slower.points[0], "new: out-of-memory"),), turns=5)
    assert report.headline(found) == "Undecided: 1 point looked worse and could not be measured again."
    (line,) = told(found, "warning")
    assert line == (
        "resnet50 at 1,024 classes: time of the single logit +30 % (SLOWER), speedup -23 % (LOWER) at first; "
        "it could not be measured again: new: out-of-memory"
    )


def test_a_hindrance_is_a_warning_unless_it_was_asked_for(slower: Comparison) -> None:
    for hindrance, severity in ((NOT_ASKED, "note"), ("NEW was not measured on this machine", "warning")):
        assert any(hindrance in line for line in told(Confirmed(slower, hindrance=hindrance), severity))


# -- Markdown, GitHub, JSON ---------------------------------------------------------------------------------------


def test_markdown_has_the_answer_the_table_and_the_findings(cleared: Confirmed) -> None:
    found = report.to_markdown(cleared)
    assert found.startswith(f"## {report.headline(cleared)}\n")
    table = [line for line in found.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "| 1,024 | single | 100.0 ms | 130.0 ms | +30.0 % |" in found
    for finding in report.findings(cleared):
        assert finding.text in found


def test_names_stay_text(point: MakePoint, brief: MakeSnapshot) -> None:
    name = "<script>|[b]x[/b]\n::error::y_z"
    one, other = brief(point(1024, 0.1, arch=name), name=name), brief(point(1024, 0.13, arch=name), name=name)
    found = Confirmed(compare(one, other))
    markdown = report.to_markdown(found)
    assert "<script>" not in markdown.replace("\\<script\\>", "")
    assert len({line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1
    lines = report.to_annotations(found)
    assert all("\n" not in line and line.startswith(("::error title=", "::warning", "::notice")) for line in lines)
    assert "[b]x[/b]" in text(found), "no markup is read into a name"


def test_an_annotation_is_escaped_as_github_documents() -> None:
    assert report.annotation("error", "a: b, c\n100%", "a: b, c\r\n100%") == (
        "::error title=a%3A b%2C c%0A100%25::a: b, c%0D%0A100%25"
    )


def test_annotations_tell_what_is_worse_and_the_answer(slower: Comparison) -> None:
    lines = report.to_annotations(Confirmed(slower))
    assert lines[0].startswith("::error title=resnet50 at 1%2C024 classes got worse::resnet50 at 1,024 classes: ")
    assert lines[-1].startswith("::notice title=compare%3A worse::Worse at 1 of 2 points")


def test_more_than_github_shows_ends_with_how_many_are_left_out(point: MakePoint, brief: MakeSnapshot) -> None:
    lost = {"status": "failed", "reason": "it broke"}
    names = [f"timm/network{number}" for number in range(30)]
    base = brief(point(16), *(point(arch=name) for name in names))
    new = brief(point(16), *(Point(work=point(arch=name).work, threads=2, **lost) for name in names))
    lines = [line for line in report.to_annotations(Confirmed(compare(base, new))) if line.startswith("::warning")]
    assert len(lines) == report.MOST_ANNOTATIONS
    assert lines[-1] == "::warning title=21 more::21 more are in the job's summary"


def test_the_object_holds_everything(cleared: Confirmed) -> None:
    found = json.loads(json.dumps(report.to_object(cleared), allow_nan=False))
    Draft202012Validator(schemas()["comparison.schema.json"]).validate(found)
    assert (found["schema"], found["outcome"]) == ("slc-bench/comparison/1", "nothing worse")
    assert found["base"]["versions"] == {"torch": "2.11.0"}
    first, second = found["rows"]
    assert (first["kind"], first["arch"], first["classes"], first["threads"]) == ("compared", "resnet50", 1024, 2)
    assert first["base"]["single"]["value"] == 0.1
    assert first["changes"]["single"]["ratio"] == pytest.approx(1.3)
    assert first["changes"]["single"]["verdict"] == "SLOWER"
    assert first["again"]["changes"]["single"]["verdict"] == "SAME"
    assert (first["worse"], first["undecided"]) == (False, False)
    assert second["again"] is None
    assert found["confirmation"] == {"processes": 5, "base_again": True, "hindrance": None}


def test_the_object_has_a_row_for_points_that_were_not_compared(point: MakePoint, brief: MakeSnapshot) -> None:
    lost = {"threads": 2, "status": "failed", "reason": "it broke"}
    never = Point(work=point(8192).work, **lost)
    base = brief(point(1024), point(4096), point(512), never)
    new = brief(point(1024), Point(work=point(4096).work, **lost), point(256), never)
    found = Confirmed(compare(base, new))
    rows: Sequence[Mapping[str, Any]] = report.to_object(found)["rows"]  # type: ignore[assignment]
    assert [(row["kind"], row["classes"]) for row in rows] == [
        ("compared", 1024), ("only base", 512), ("failed", 4096), ("only new", 256), ("failed on both", 8192),
    ]  # fmt: skip
    assert rows[2]["new"]["reason"] == "it broke"
    assert (rows[1]["new"], rows[3]["base"]) == (None, None)
    assert "failed on both sides: resnet50 at 8,192 classes" in told(found, "note")


def test_unequal_threads_leave_those_points_without_a_verdict(point: MakePoint, brief: MakeSnapshot) -> None:
    base, new = brief(point(1024), point(4096)), brief(point(1024), point(4096, threads=1))
    found = Confirmed(compare(base, new))
    assert report.headline(found).startswith("Undecided: points were measured with unequal threads")
    assert "the machines" not in text(found)
