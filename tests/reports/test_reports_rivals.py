import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from rich.console import Console

from archs.top_layer_kinds import NAMES, RIVALS
from bench.accuracy.rows import Spread, Table1Row
from bench.errors import UsageError
from bench.speed.rows import Row
from reports import rivals
from reports.rivals import RivalsTable, main, print_rivals, rivals_frame, rivals_markdown, rivals_table, write_rivals

COUNT = 4096


def quality(loss: str, name: str, error: float, *, aligned: bool = True, status: Any = "ok") -> Table1Row:
    measures = {"one_minus_auprc": Spread.of([error])} if status == "ok" else {}
    every = {"one_minus_auprc": Spread.of([error / 2])} if status == "ok" else {}
    return Table1Row(
        dataset="mnist", loss=loss, name=name, aligned=aligned, status=status, reason="" if status == "ok" else "lost",
        learning_rate=(0.1,), seeds=(0,), measures=measures, all_measures=every, accuracy=None, parity_with_ce=None,
        parity_with_own=None, separation_train_holds=0, separation_test_holds=0,
    )  # fmt: skip


QUALITIES = [
    quality("ce", "CE", 0.4, aligned=False),
    quality("importance-sampling", "CE by importance sampling", 0.6, aligned=False),
    quality("batch-ce", "batch CE", 0.02),
    quality("nce", "NCE", 0.03),
    quality("hierarchical-huffman", NAMES["hierarchical-huffman"], 0.05),
    quality("adaptive", NAMES["adaptive"], 0.0, status="diverged"),
]


@pytest.fixture
def measured(make_row: Callable[..., Row]) -> list[Row]:
    def point(classes: int, seconds: float, **fields: Any) -> Row:
        more = {"median_s": seconds, "speedup": seconds / 0.010, "peak_memory_bytes": 100_000_000, **fields}
        return make_row(classes=classes, **more)

    return [
        point(1, 0.010),
        point(COUNT, 0.020),
        point(1, 0.010, work="normalised"),
        point(1024, 0.013, work="normalised"),
        point(COUNT, 0.024, work="normalised", peak_memory_bytes=133_000_000),
        point(1, 0.010, top_layer="hierarchical-huffman"),
        point(COUNT, 0.011, top_layer="hierarchical-huffman", bytes=72_000, peak_memory_bytes=None),
        make_row(classes=1, top_layer="low-rank", median_s=0.010),
        make_row(classes=COUNT, top_layer="low-rank", status="out-of-memory", reason="needs 3 GB"),
    ]


@pytest.fixture
def table(
    measured: list[Row], make_run: Callable[..., Any], make_accuracy_run: Any, monkeypatch: pytest.MonkeyPatch
) -> RivalsTable:
    monkeypatch.setattr(rivals, "rows", lambda run: measured)
    monkeypatch.setattr(rivals, "table1", lambda run: QUALITIES)
    return rivals_table(make_run(), make_accuracy_run())


@pytest.fixture
def make_accuracy_run() -> Callable[[], Any]:
    class Named:
        class manifest:
            class dataset:
                name = "mnist"

    return Named


def by_name(table: RivalsTable) -> dict[str, Any]:
    return {line.name: line for line in table.lines}


def test_every_way_to_score_a_class_is_a_line(table: RivalsTable) -> None:
    assert [line.name for line in table.lines] == [
        "single logit, batch CE (PoLS)",
        "full softmax, normalised: CE",
        "single logit: NCE",
        "full softmax, normalised: CE by importance sampling",
        *(NAMES[kind] for kind in RIVALS),
    ]
    assert (table.classes, table.dataset) == (COUNT, "mnist")


def test_numbers_stand_where_they_belong(table: RivalsTable) -> None:
    lines = by_name(table)
    single, full = lines["single logit, batch CE (PoLS)"], lines["full softmax, normalised: CE"]
    assert (single.seconds, single.single_seconds, single.work) == (0.010, 0.010, "logits")
    assert single.one_minus_auprc.mean == 0.02
    assert (full.seconds, full.relative, full.one_minus_auprc.mean) == (0.024, pytest.approx(2.4), 0.2)  # all logits
    assert (full.peak_memory_bytes, full.work, full.missing) == (133_000_000, "normalised", {})
    tree = lines[NAMES["hierarchical-huffman"]]
    assert (tree.seconds, tree.bytes_read, tree.one_minus_auprc.mean) == (0.011, 72_000, 0.05)
    assert lines["single logit: NCE"].one_minus_auprc.mean == 0.03
    assert lines["full softmax, normalised: CE by importance sampling"].one_minus_auprc.mean == 0.3


def test_a_missing_cell_says_why(table: RivalsTable) -> None:
    lines = by_name(table)
    assert lines[NAMES["hierarchical-huffman"]].missing == {"peak_memory_bytes": "not recorded"}
    assert lines[NAMES["low-rank"]].missing["seconds"] == "out-of-memory: needs 3 GB"
    assert lines[NAMES["low-rank"]].missing["one_minus_auprc"] == "not trained: --top-layer low-rank"
    assert lines[NAMES["adaptive"]].missing["seconds"] == "not measured: --top-layer adaptive"
    assert lines[NAMES["adaptive"]].missing["one_minus_auprc"] == "diverged: lost"


def test_one_run_alone(
    table: RivalsTable, make_run: Callable[..., Any], make_accuracy_run: Any, measured: list[Row]
) -> None:
    times = by_name(rivals_table(make_run(), None))
    assert times["single logit (PoLS)"].seconds == 0.010
    assert {line.missing["one_minus_auprc"] for line in times.values()} == {"no accuracy run"}
    trained = by_name(rivals_table(None, make_accuracy_run()))
    assert {line.missing["seconds"] for line in trained.values()} == {"no speed run"}
    assert trained["single logit, batch CE (PoLS)"].one_minus_auprc.mean == 0.02
    with pytest.raises(UsageError, match="needs a speed run"):
        rivals_table(None, None)


def test_another_class_count(table: RivalsTable, make_run: Callable[..., Any]) -> None:
    smaller = by_name(rivals_table(make_run(), None, classes=1024))
    assert smaller["full softmax, normalised: CE"].seconds == 0.013
    assert "--top-layer" in smaller[NAMES["hierarchical-huffman"]].missing["seconds"]
    with pytest.raises(UsageError, match=r"--classes 7: the speed run has 1024, 4096"):
        rivals_table(make_run(), None, classes=7)


def test_settings_are_blocks_of_their_own(
    table: RivalsTable, measured: list[Row], make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = [
        row.model_copy(update={"dtype": "bfloat16", "median_s": None if row.median_s is None else row.median_s / 2})
        for row in measured
    ]
    monkeypatch.setattr(rivals, "rows", lambda run: [*measured, *halves])
    found = rivals_table(make_run(), None)
    singles = {line.arch: line.seconds for line in found.lines if line.name == "single logit (PoLS)"}
    assert singles == {"resnet50 (float32)": 0.010, "resnet50 (bfloat16)": 0.005}


def test_markdown_text_and_csv_say_the_same(table: RivalsTable, tmp_path: Path) -> None:
    markdown = rivals_markdown(table)
    assert "### resnet50, on the device" in markdown
    assert "| full softmax, normalised: CE | normalised | 24.00 | 10.00 | 2.40 | 133 | 0.00819 | 0.2000 |" in markdown
    assert f"| {NAMES['hierarchical-huffman']} | logits | 11.00 | 10.00 | 1.10 | (3) | 0.0720 | 0.0500 |" in markdown
    assert "(3) not recorded  \n" in markdown
    assert "out-of-memory: needs 3 GB" in markdown
    assert "4,096 classes" in markdown
    stream = io.StringIO()
    print_rivals(table, Console(file=stream, width=200))
    text = stream.getvalue()
    for cell in ("24.00", "2.40", "133", "0.2000", "not trained: --top-layer low-rank", "4,096 classes", "MNIST"):
        assert cell in text
    csv, written = write_rivals(tmp_path, table)
    assert written.read_text() == markdown
    frame = pandas.read_csv(csv)
    assert len(frame) == len(table.lines)
    assert list(frame.loc[1, ["seconds", "one_minus_auprc", "peak_memory_bytes"]]) == [0.024, 0.2, 133_000_000]
    assert "seconds: out-of-memory: needs 3 GB" in str(frame["missing"].tolist()[-1])
    assert (rivals_frame(table)["classes"] == COUNT).all()


def test_the_ratio_is_that_of_the_two_times_beside_it(
    make_run: Callable[..., Any], make_row: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds of the tree met a slower machine: its time over the first line's would be 1.5, and means nothing."""
    found = [
        make_row(classes=1, median_s=0.010, speedup=1.0),
        make_row(classes=COUNT, median_s=0.020, speedup=2.0),
        make_row(classes=1, median_s=0.012, speedup=1.0, top_layer="hierarchical-huffman"),
        make_row(classes=COUNT, median_s=0.015, speedup=1.25, top_layer="hierarchical-huffman"),
    ]
    monkeypatch.setattr(rivals, "rows", lambda run: found)
    lines = by_name(rivals_table(make_run(), None))
    tree = lines[NAMES["hierarchical-huffman"]]
    assert lines["single logit (PoLS)"].seconds == 0.010
    assert (tree.seconds, tree.single_seconds, tree.relative) == (0.015, 0.012, 1.25)
    assert tree.relative == pytest.approx(tree.seconds / tree.single_seconds)


def test_times_end_to_end_are_a_table_of_their_own(
    measured: list[Row], make_run: Callable[..., Any], make_row: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = [
        make_row(classes=1, median_s=0.014, speedup=1.0, work="end-to-end"),
        make_row(classes=COUNT, median_s=0.028, speedup=2.0, work="end-to-end"),
        make_row(classes=1, median_s=0.014, speedup=1.0, work="end-to-end", top_layer="adaptive"),
        make_row(classes=COUNT, median_s=0.021, speedup=1.5, work="end-to-end", top_layer="adaptive"),
    ]
    monkeypatch.setattr(rivals, "rows", lambda run: [*measured, *copied])
    table = rivals_table(make_run(), None)
    device, end_to_end = ([line for line in table.lines if line.end_to_end is copies] for copies in (False, True))
    assert [line.seconds for line in end_to_end[:2]] == [0.014, 0.028]
    assert {line.work for line in end_to_end} == {"end-to-end", None}
    assert [line.seconds for line in device[:2]] == [0.010, 0.024]
    adaptive = next(line for line in device if line.name == NAMES["adaptive"])
    assert adaptive.missing["seconds"] == "not measured: --top-layer adaptive"
    markdown = rivals_markdown(table)
    assert markdown.index("### resnet50, on the device") < markdown.index("### resnet50, end to end")
    assert "| full softmax, all logits: CE | end-to-end | 28.00 | 14.00 | 2.00 |" in markdown
    assert "copies included" in markdown
    assert list(rivals_frame(table)["work"].dropna()) == [line.work for line in table.lines if line.work]


@pytest.mark.parametrize("width", [30, 60, 80, 100, 130, 300])
def test_nothing_is_cropped_however_narrow_the_terminal(table: RivalsTable, width: int) -> None:
    stream = io.StringIO()
    print_rivals(table, Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "\u2026" not in stream.getvalue()
    shown = [word for line in lines for word in line.replace("|", " ").split()]
    for heading in rivals.HEADER[1:]:
        assert set(heading.split()) <= {word.rstrip(":") for word in shown}
    for cell in ("24.00", "2.40", "133", "0.00819", "0.2000", "0.0200", "normalised"):
        assert cell in shown


def test_a_rival_without_any_class_count_is_told_from_one_that_was_not_asked_for(
    make_run: Callable[..., Any], make_row: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "rows", lambda run: [make_row(median_s=0.01, speedup=1.0, top_layer="adaptive")])
    table = rivals_table(make_run(), None)
    assert by_name(table)[NAMES["adaptive"]].missing["seconds"].startswith("not measured: --classes")
    assert "Times are medians of one example through the whole network, for" in rivals.note(table)


def test_a_pipe_gets_the_whole_width(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "runs")
    monkeypatch.setenv("COLUMNS", "40")
    assert main([str(run), "--classes", "1024"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert any(all(heading in line for heading in rivals.HEADER) for line in out)


def test_a_reader_may_leave(
    write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*shown: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(rivals, "print_rivals", gone)
    assert main([str(write_run(tmp_path / "runs"))]) == 0
    assert capsys.readouterr().err == ""


def test_the_command_reads_runs(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "runs")
    assert main([str(run), "--classes", "1024", "--output", str(tmp_path / "out")]) == 0
    assert "not measured: --top-layer" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "rivals.md").exists()
    frame = pandas.read_csv(tmp_path / "out" / "rivals.csv")
    assert frame["seconds"].notna().tolist() == [True] + [False] * 6  # one logit; all of them were not normalised


@pytest.mark.parametrize("arguments", [["nowhere"], [], ["--accuracy", "nowhere"]])
def test_what_cannot_be_read_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
