import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest

from bench.folder import Notice
from bench.machine.fingerprint import Machine
from bench.paper import claims
from bench.paper.budget import Demand
from bench.paper.claims import Claim, Detail, Interval
from bench.paper.parts import AccuracyPart, Options, Size, SpeedPart
from bench.paper.record import PaperManifest, PartRecord, Reused
from reports import paper

FULL = Detail(
    "inception_v3", "speedup at 370,727 classes", "yes", Interval(12.75, 11.2, 14.4), "100 minibatches of 32", ""
)
SHORT = Detail(
    "alexnet",
    "speedup at 370,727 classes",
    "undecided",
    Interval(9.9, 8.0, 12.0),
    "20 minibatches of 32",
    "20 of the paper's 100 minibatches",
)
WITHOUT = Detail("svhn", "improvement of 1-AUPRC", "not measured", falls_short="svhn | is not here")
BETTER = Detail("mnist", "improvement of 1-AUPRC", "yes", Interval(0.82, 0.7, 0.9), "1 seed", "")
GUESS = Detail("cifar10", "improvement of 1-AUPRC", "undecided", Interval(0.3), "1 seed", "")


def _claims() -> list[Claim]:
    return [claims.tenfold([FULL, SHORT]), claims.improvement([BETTER, GUESS, WITHOUT]), claims.no_degradation([])]


@pytest.fixture
def manifest() -> PaperManifest:
    return PaperManifest(
        name="paper",
        created="2026-03-01T09:15:02+00:00",
        status="incomplete",
        options=Options(),
        budget_s=7200,
        parts=(
            PartRecord(
                part=SpeedPart(arch="alexnet"),
                state="done",
                size=Size(amount=20),
                demand=Demand(fixed_s=10, unit_s=1),
                seconds=61,
                folder="x",
            ),
            PartRecord(part=AccuracyPart(dataset="svhn"), state="unavailable", reason="svhn | is\nnot here"),
        ),
        machine=Machine(
            os="Linux", cpu="Imaginary CPU", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=1 << 34
        ),
        versions={"torch": "2.15.0"},
    )


def test_the_table_has_a_line_a_claim_with_its_verdict(manifest: PaperManifest) -> None:
    text = paper.claims_markdown(_claims(), manifest)
    lines = text.splitlines()
    assert lines[0] == "# The paper's claims, 2026-03-01"
    table = [
        line for line in lines[: lines.index(next(line for line in lines if line.startswith("## ")))] if "|" in line
    ]
    assert table[0] == "| claim of the paper | measured here | holds? |"
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]
    assert [line[-1] for line in cells] == ["yes", "undecided", "not measured"]
    assert cells[0][1] == "inception_v3 12.75 (11.20 to 14.40); alexnet 9.90 (8.00 to 12.00)"
    assert cells[1][1] == (
        "1 yes, 1 undecided, 1 not measured; from 30.0 % (no interval) (cifar10) to 82.0 % (70.0 % to 90.0 %) (mnist)"
    )
    assert "the run is incomplete" in text


def test_each_claim_has_its_rule_its_cases_and_what_they_fall_short_of(manifest: PaperManifest) -> None:
    text = paper.claims_markdown(_claims(), manifest)
    assert text.count("\n## ") == 4  # three claims and the parts
    assert "Holds if the 95 % interval of Inception-v3's speedup at 2\\*\\*18.5 classes lies at or above 10" in text
    assert "20 of the paper's 100 minibatches |" in text
    assert "| svhn | improvement of 1-AUPRC |  | not measured |  | svhn \\| is not here |" in text
    assert "| speed of alexnet | 20 minibatches | 100 | 61 s | done |" in text
    assert "| accuracy on svhn |  | 100,000 |  | unavailable |" in text
    assert text.endswith("\n\n* accuracy on svhn: unavailable: svhn \\| is not here\n")


def test_the_csv_has_every_case_to_full_precision() -> None:
    lines = list(csv.DictReader(io.StringIO(paper.claims_csv(_claims()))))
    assert [(line["claim"], line["subject"], line["holds"]) for line in lines] == [
        ("tenfold", "", "yes"),
        ("tenfold", "inception_v3", "yes"),
        ("tenfold", "alexnet", "undecided"),
        ("improvement", "", "undecided"),
        ("improvement", "mnist", "yes"),
        ("improvement", "cifar10", "undecided"),
        ("improvement", "svhn", "not measured"),
        ("no-degradation", "", "not measured"),
    ]
    assert (lines[1]["estimate"], lines[1]["low"], lines[1]["high"]) == ("12.75", "11.2", "14.4")
    assert (lines[5]["estimate"], lines[5]["low"]) == ("0.3", "")
    assert lines[6]["estimate"] == ""


def test_nothing_measured_for_one_reason_says_it() -> None:
    assert paper.measured_words(claims.improvement([WITHOUT])) == "not measured: svhn | is not here"
    assert paper.measured_words(claims.no_degradation([])) == "not measured"


def test_files_are_written(tmp_path: Any, manifest: PaperManifest) -> None:
    paths = paper.write(tmp_path, _claims(), manifest)
    assert [path.name for path in paths] == list(paper.FILES)
    assert all(path.read_text() for path in paths)


def test_a_terminal_is_told_what_is_missing(manifest: PaperManifest) -> None:
    stream = io.StringIO()
    paper.print_claims(_claims(), manifest, [], stream)
    assert "accuracy on svhn: unavailable: svhn | is not here" in stream.getvalue()
    assert "speed of alexnet" not in stream.getvalue()


REUSED = PartRecord(
    part=SpeedPart(arch="inception_v3"),
    state="done",
    size=Size(amount=100),
    folder="y",
    reused=Reused(name="inception_v3", created="2026-02-28T23:59:59+00:00"),
)


def test_what_is_reused_is_said_wherever_the_parts_are(manifest: PaperManifest) -> None:
    manifest = manifest.model_copy(update={"parts": (*manifest.parts, REUSED)})
    words = "speed of inception_v3: reused: run inception_v3 of 2026-02-28"
    shows = (
        lambda stream: paper.print_parts(manifest, stream),
        lambda stream: paper.print_beginning(manifest, Path("results/x"), stream),
        lambda stream: paper.print_claims(_claims(), manifest, [], stream),
    )
    for show in shows:
        stream = io.StringIO()
        show(stream)
        assert words in stream.getvalue().splitlines()
    text = paper.claims_markdown(_claims(), manifest)
    assert "| speed of inception_v3 | 100 minibatches | 100 |  | reused: run inception_v3 of 2026-02-28 |" in text


def test_tables_on_a_terminal_fit_into_100_columns(manifest: PaperManifest) -> None:
    size = Size(amount=6_000_000, learning_rates=(0.1,))
    record = PartRecord(part=AccuracyPart(dataset="imagenet"), state="left-out", size=size, reason="why " * 100)
    dear = record.model_copy(update={"demand": Demand(fixed_s=1e6, unit_s=100)})
    manifest = manifest.model_copy(update={"parts": (*manifest.parts, dear)})
    stream = io.StringIO()
    paper.print_parts(manifest, stream)
    many = [FULL, *[dataclasses.replace(SHORT, subject=f"network_{number}") for number in range(9)]]
    paper.print_claims([claims.tenfold(many), *_claims()], manifest, [], stream)
    table = [line for line in stream.getvalue().splitlines() if line.startswith("|")]
    assert len(table) > 20
    assert all(len(line) <= 100 for line in table)
    assert "why why why" in stream.getvalue()
    assert "network_8" in stream.getvalue()


def test_claims_for_others_name_no_folder_of_this_machine(manifest: PaperManifest) -> None:
    here = Path.home() / "of" / "mine"
    reason = f"put it into {here / 'data' / 'svhn'} or {here / 'elsewhere'}"
    left = manifest.parts[1].model_copy(update={"reason": reason})
    options = Options(data_dir=str(here / "data"))
    text = paper.claims_markdown(_claims(), manifest.model_copy(update={"parts": (left,), "options": options}))
    assert "* accuracy on svhn: unavailable: put it into DATA_DIR/svhn or ~/of/mine/elsewhere" in text
    assert str(Path.home()) + "/" not in text


def test_what_was_noticed_stands_with_the_claims(manifest: PaperManifest) -> None:
    assert "## Noticed" not in paper.claims_markdown(_claims(), manifest)
    notice = Notice(kind="not-written", happened="no room", matters="it ended here", remedy="make room")
    text = paper.claims_markdown(_claims(), manifest.model_copy(update={"notices": (notice,)}))
    assert text.endswith("## Noticed\n\n* no room: it ended here; make room\n")


def test_what_is_expected_is_added_up(manifest: PaperManifest) -> None:
    assert paper.expected_s(manifest) == 30
    stream = io.StringIO()
    paper.print_parts(manifest, stream)
    assert stream.getvalue().splitlines()[-1] == "expected: 30 s, for a budget of 2 h 0 min"


def test_a_log_is_told_now_and_then(manifest: PaperManifest) -> None:
    stream = io.StringIO()
    seconds = 0.0
    progress = paper.Progress(stream, clock=lambda: seconds)
    record = manifest.parts[0]
    progress.begins(record)
    for seconds in range(1, 131):
        progress.advances(record, seconds / 200)
    progress.ends(record)
    assert stream.getvalue().splitlines() == [
        "speed of alexnet, 20 minibatches, about 30 s",
        "speed of alexnet: 30 %, about 2 min left",
        "speed of alexnet: 60 %, about 81 s left",
        "speed of alexnet: done after 61 s",
    ]


def test_a_terminal_has_one_line_that_is_rewritten(manifest: PaperManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    seconds = 0.0
    progress = paper.Progress(stream, clock=lambda: seconds)
    progress.begins(manifest.parts[0])
    for seconds in (0.6, 0.7, 1.2):
        progress.advances(manifest.parts[0], seconds / 10)
    progress.ends(manifest.parts[0])
    assert stream.getvalue().splitlines() == [
        "speed of alexnet, 20 minibatches, about 30 s",
        "",
        "\x1b[2Kspeed of alexnet: 6 %",
        "\x1b[2Kspeed of alexnet: 12 %, about 18 s left",
        "\x1b[2Kspeed of alexnet: done after 61 s",
    ]
