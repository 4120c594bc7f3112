import io
from dataclasses import replace

import pytest

from bench.scaling.answers import Answer
from reports.scaling import results, wording
from reports.scaling.terminal import print_study
from reports.scaling.wording import answer_lines, counts


def printed(run) -> str:
    stream = io.StringIO()
    print_study(run, stream)
    return stream.getvalue()


def lines_of(text: str, loss: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|") and f"| {loss} " in line
    ]


def test_heading_table_answer_and_files(make_study, make_speed, tmp_path) -> None:
    run = make_study(("ce", "self-norm"), (100, 1000), speed=make_speed((100, 1000)))
    results.write(tmp_path, run)
    text = printed(replace(run, path=tmp_path))
    assert text.startswith(
        "synthetic data of 100, 1,000 and 100,000 classes: 2 losses, learning rates 0.3, 0.1, 3 seeds"
    )
    assert "data of all class counts: zipf=0" in text
    assert "min(classes, 400) classes, each with 20 positive and 10,000 negative examples" in text
    (hundred, thousand) = lines_of(text, "self-norm")
    row = results.Result.of(run).rows[1]
    assert hundred[:5] == ["100", "self-norm", *(f"{each.error:.4f}" for each in (row.single, row.all, row.optimum))]
    assert hundred[6] == "yes"
    assert thousand[0] == "1,000"
    assert "Where is one logit both faster than all and as good as all logits of CE? (up to 1,000 classes, " in text
    assert "\n  CE (the negative control): nowhere; not at 100 and 1,000 classes (worse)\n" in text
    assert "\n  self-norm: at 1,000 classes; not at 100 classes (worse)\n" in text
    assert f"written to {tmp_path}: scaling.csv, scaling.md, fig4.png, fig4.svg, fig4.pdf" in text


def test_what_is_missing_is_shown_as_missing(make_study, make_speed) -> None:
    run = make_study(
        ("ce", "self-norm"),
        (100, 1000),
        without=[("self-norm", 1000)],
        speed=make_speed((100, 1000), failed=(1000,)),
        status="interrupted",
    )
    text = printed(run)
    assert "the run is interrupted: 9 of 12 models have met the queries: this is the table so far" in text
    assert lines_of(text, "self-norm")[1][2] == "missing"
    assert lines_of(text, "CE")[1][8] == "out-of-memory"
    assert "100,000 classes: nothing was trained: needs a GPU" in text
    assert [line for line in lines_of(text, "") if line[0] == "100,000"] == [["100,000", "", "left-out", *[""] * 7]]
    assert "written to" not in text


def test_a_study_without_anything_says_so(make_study) -> None:
    run = replace(make_study(("ce",), (100,), optima=False, costs=False, status="running"), points=(), queries={})
    text = printed(run)
    assert "the run is running: 0 of 3 models have met the queries" in text
    assert "CE (the negative control): undecided at 100 classes (no model, speed not measured)" in text


def answer(kind, *, since=None, yes=(), no=(), undecided=()) -> str:
    return wording.answer(Answer("nce", "NCE", kind, since, yes, no, undecided), 1000)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (answer("from", since=100, yes=(100, 1000), no=((10, "a"),)), "from 100 classes on; not at 10 classes (a)"),
        (
            answer("from", since=1000, yes=(10, 1000), undecided=((100, "few\nqueries"),)),
            "at 1,000 classes; also at 10; undecided at 100 classes (few queries)",
        ),
        (
            answer("some", yes=(10,), no=((100, "a"), (1000, "b"))),
            "at 10 classes alone; not at 100 classes (a), at 1,000 classes (b)",
        ),
        (answer("nowhere", no=((10, "a"), (1000, "a"))), "nowhere; not at 10 and 1,000 classes (a)"),
        (
            answer("undecided", no=((10, "a"),), undecided=((1000, "b"),)),
            "undecided at 1,000 classes (b); not at 10 classes (a)",
        ),
    ],
)
def test_the_answer_in_words(found, words) -> None:
    assert found == words


def test_losses_with_the_same_answer_share_a_line() -> None:
    found = [
        Answer(loss, name, kind, since, yes, (), ())
        for loss, name, kind, since, yes in (
            ("ce", "CE", "nowhere", None, ()),
            ("nce", "NCE", "from", 10, (10,)),
            ("self-norm", "self-norm", "from", 10, (10,)),
        )
    ]
    assert answer_lines(found, []) == ["CE (the negative control): nowhere", "NCE and self-norm: from 10 classes on"]


@pytest.mark.parametrize(("seeds", "words"), [((0, 1), "over queries and seeds;"), ((3,), "queries, of one training")])
def test_the_limits_say_over_what_confidence_is(make_study, seeds, words) -> None:
    assert words in wording.limits(make_study(("ce",), (10,), seeds=seeds).manifest)


def test_what_is_missing_for_the_same_reason_is_said_once(make_study) -> None:
    run = make_study(("ce", "nce"), (10, 100, 1000), without=[("nce", 10), ("nce", 100)], left_out=(10**4, 10**5))
    told = "NCE at 10 and 100 classes: missing: no model of all steps has met the queries yet"
    assert wording.missing(results.Result.of(run).rows) == [told]
    assert wording.left_out(run.manifest) == ["10,000 and 100,000 classes: nothing was trained: needs a GPU"]


def test_counts_in_a_sentence() -> None:
    assert [counts([10]), counts([10, 1000]), counts([10, 100, 1000])] == ["10", "10 and 1,000", "10, 100 and 1,000"]
