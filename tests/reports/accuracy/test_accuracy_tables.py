import csv
import math
import statistics
from dataclasses import replace

import pytest

from bench.accuracy.settings import LossSetting
from bench.folder import Notice
from reports.accuracy import latex, tables
from reports.accuracy.results import Result
from reports.published import published_losses


def _block(run) -> tuple[str, Result]:
    return "MNIST", Result.of(run)


def _rows(markdown: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")
    ]


def _line(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def _read(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_table_1_of_markdown_has_the_papers_numbers_beside_ours(make_accuracy_run) -> None:
    text = tables.table1_markdown([_block(make_accuracy_run())])
    assert _line(text, "| CE |") == (
        "| CE | 0.1 | 0.0107 | 0.0118 | 0.1284 | 0.0096 | 0.9850 | 0.008 | 0.005 | 0.203 |"
    )


def test_dashed_line_parts_unaligned_from_aligned(make_accuracy_run) -> None:
    rows = _rows(tables.table1_markdown([_block(make_accuracy_run())]))
    at = next(index for index, row in enumerate(rows) if set(row) == {tables.DASHES})
    assert rows[at - 1][0] == "max-margin"
    assert rows[at + 1][0] == "self-norm"


def test_no_dashed_line_where_all_are_of_one_kind(make_accuracy_run) -> None:
    blocks = [_block(make_accuracy_run(("self-norm", "batch-ce")))]
    assert tables.DASHES not in tables.table1_markdown(blocks)
    assert "cdashline" not in latex.table1(blocks)
    assert "improvement" not in latex.table1(blocks)


def test_best_of_each_measure_is_bold_and_only_that(make_accuracy_run) -> None:
    text = tables.table1_markdown([_block(make_accuracy_run())])
    bold = [row[0] for row in _rows(text) if any(cell.startswith("**") for cell in row)]
    assert bold == ["binary CE"]
    assert _line(text, "| binary CE |").count("**") == 6, "all three measures"


def test_what_prints_alike_is_best_alike(make_accuracy_run) -> None:
    _, result = _block(make_accuracy_run())
    assert tables.best_of([row.measures["one_minus_auprc"] for row in result.rows]) == "0.0016"
    assert tables.best_of([None]) == ""


def test_improvement_is_that_of_the_means_beside_the_papers(make_accuracy_run) -> None:
    text = tables.table1_markdown([_block(make_accuracy_run())])
    mean_aligned = statistics.fmean([0.0022, 0.0024, 0.0016, 0.0023, 0.0034])
    share = 1 - mean_aligned / statistics.fmean([0.0107, 0.0462])
    line = _line(text, "| Mean relative improvement")
    assert f"| {100 * share:.1f} % |" in line
    assert line.endswith("| 82.0 % | 91.3 % | 88.4 % |")


def test_eleven_losses_have_a_second_improvement_and_a_second_mean(make_accuracy_run) -> None:
    from bench.accuracy.losses import registry

    block = _block(make_accuracy_run(tuple(registry())))
    assert tables.table1_markdown([block]).count("| Mean relative improvement") == 2
    assert tables.table2_markdown([block]).count("| Mean PoLS methods") == 2


def test_a_loss_that_diverged_is_a_row_with_a_reason(make_accuracy_run) -> None:
    diverged = {("max-margin", rate): 12 for rate in (0.1, 0.01)}
    block = _block(make_accuracy_run(diverged=diverged))
    line = _line(tables.table1_markdown([block]), "| max-margin |")
    assert "diverged" in line
    assert "not finite at step 12 ..." in line, "the first reason"
    assert line.endswith("| 0.012 | 0.018 | 0.262 |"), "the paper's numbers stay"
    line = _line(latex.table1([block]), " & max-margin")
    assert "multicolumn{4}" in line
    assert "diverged" in line


def test_nothing_tested_is_a_table_of_reasons(make_accuracy_run) -> None:
    run = make_accuracy_run(missing=["ce", "batch-ce"], losses=("ce", "batch-ce"), status="interrupted")
    block = _block(run)
    text = tables.table1_markdown([block])
    assert text.count("missing: 0 of 2 trainings ended") == 2
    assert "No model was tested yet." in tables.table2_markdown([block])
    assert "no model was tested" in latex.table2([block])


def test_spread_over_seeds(make_accuracy_run) -> None:
    text = tables.table1_markdown([_block(make_accuracy_run(seeds=(0, 1, 2)))])
    values = [0.0107, 0.0107 * 1.05, 0.0107 * 1.1]
    assert f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}" in _line(text, "| CE |")
    assert "Mean and standard deviation over seeds" in text


def test_verdicts_separation_failures_and_warnings_are_said(make_accuracy_run) -> None:
    notice = Notice(kind="busy", happened="a core was [busy]", matters="it was slower", remedy="stop it")
    run = make_accuracy_run(diverged={("ce", 0.01): 37}, notices=(notice,))
    text = tables.table1_markdown([_block(run)])
    assert "- CE, one logit against all logits of CE: worse, " in text
    assert "- ce-lr0.01-seed0: diverged: the loss was not finite at step 37" in text
    assert r"- a core was \[busy\]. Why it matters" in text
    separation = _line(text, "| batch CE (aligned) |")
    assert separation == "| batch CE (aligned) | yes | no | 100.00 % | 99.91 % | 0.80 | -5.70 | 0.40 | 0.40 |"


def test_classes_without_examples_and_hyperparameters_are_named(make_accuracy_run) -> None:
    loss = LossSetting(key="nce", name="NCE", aligned=True, hyperparameters={"t": 10.0, "q": "uniform"})
    run = make_accuracy_run(("nce",))
    run = replace(run, manifest=run.manifest.model_copy(update={"losses": (loss,)}))
    models = tuple(
        each.model_copy(update={"single": each.single.model_copy(update={"classes_without_positives": (3, 7)})})
        for each in run.evaluations
    )
    text = tables.table1_markdown([_block(replace(run, evaluations=models))])
    assert "Left out are 2 classes without a test example: 3, 7." in text
    assert "Hyperparameters: NCE: t = 10, q = uniform." in text


def test_separation_of_several_seeds_is_counted(make_accuracy_run) -> None:
    text = tables.table1_markdown([_block(make_accuracy_run(seeds=(0, 1, 2)))])
    assert "| batch CE (aligned) | 3 of 3 | 0 of 3 |" in text


def test_csv_of_table_1_is_complete_and_to_full_precision(make_accuracy_run, tmp_path) -> None:
    run = make_accuracy_run(seeds=(0, 1), missing=["nce"])
    block = _block(run)
    tables.write_table1_csv(tmp_path / "table1.csv", [block])
    lines = _read(tmp_path / "table1.csv")
    assert [line["kind"] for line in lines] == ["loss"] * 7 + ["improvement"]
    by_loss = {line["loss"]: line for line in lines}
    row = next(row for row in block[1].rows if row.loss == "batch-ce")
    assert float(by_loss["batch-ce"]["one_minus_auprc"]) == row.measures["one_minus_auprc"].mean
    assert float(by_loss["batch-ce"]["all_one_minus_auprc_std"]) == row.all_measures["one_minus_auprc"].std
    assert float(by_loss["batch-ce"]["published_one_minus_auprc"]) == 0.001
    assert by_loss["batch-ce"]["verdict_against_ce"] == row.parity_with_ce.verdict
    assert by_loss["batch-ce"]["train_separated_seeds"] == "2"
    assert math.isclose(float(by_loss["batch-ce"]["test_margin"]), -5.7)
    assert by_loss["nce"]["status"] == "missing"
    assert by_loss["nce"]["one_minus_auprc"] == ""
    assert float(by_loss["paper"]["published_one_minus_auprc"]) == 0.82


def test_csv_of_several_runs_names_them(make_accuracy_run, tmp_path) -> None:
    blocks = [_block(make_accuracy_run()), ("digits", Result.of(make_accuracy_run(dataset="digits")))]
    for write, name in ((tables.write_table1_csv, "table1.csv"), (tables.write_table2_csv, "table2.csv")):
        write(tmp_path / name, blocks)
        lines = _read(tmp_path / name)
        assert next(iter(lines[0])) == "run"
        assert list(dict.fromkeys(line["run"] for line in lines)) == ["MNIST", "digits"]


def test_table_2_has_one_logit_above_and_all_logits_below(make_accuracy_run, tmp_path) -> None:
    block = _block(make_accuracy_run())
    tables.write_table2_csv(tmp_path / "table2.csv", [block])
    lines = _read(tmp_path / "table2.csv")
    assert [line["method"] for line in lines[:3]] == ["Mean PoLS methods", "batch CE", "CE with all logits"]
    assert [line["logits"] for line in lines] == ["single"] * 2 + ["all"] * 7
    assert [line["published_one_minus_precision_at_99"] for line in lines[:3]] == ["0.027", "0.022", "0.02"]
    assert lines[3]["published_one_minus_auprc"] == ""
    rows = _rows(tables.table2_markdown([block]))
    at = next(index for index, row in enumerate(rows) if set(row) == {tables.DASHES})
    assert rows[at - 1][0] == "batch CE"
    assert rows[at + 1][0] == "CE with all logits"


def test_csv_of_table_2_without_a_tested_model_has_its_header(make_accuracy_run, tmp_path) -> None:
    tables.write_table2_csv(tmp_path / "table2.csv", [_block(make_accuracy_run(("ce",), missing=["ce"]))])
    assert (tmp_path / "table2.csv").read_text().startswith("dataset,method,logits,one_minus_auprc,")


def test_a_data_set_the_paper_lacks_has_no_columns_of_its(make_accuracy_run) -> None:
    block = ("digits", Result.of(make_accuracy_run(dataset="digits")))
    for text in (tables.table1_markdown([block]), tables.table2_markdown([block])):
        assert "Paper" not in text
    assert "Keren" not in latex.table1([block])


@pytest.mark.parametrize("form", [latex.table1, latex.table2])
def test_every_line_of_latex_has_all_columns(make_accuracy_run, form) -> None:
    diverged = {("max-margin", rate): 12 for rate in (0.1, 0.01)}
    digits = ("100 % digits & more_", Result.of(make_accuracy_run(dataset="digits")))
    text = form([_block(make_accuracy_run(diverged=diverged, seeds=(0, 1))), digits])
    columns = len(text.split("\\begin{tabular}{")[1].split("}")[0])
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    for line in body:
        spanned = sum(int(part.split("}")[0]) - 1 for part in line.split("\\multicolumn{")[1:])
        assert line.replace("\\&", "").count("&") + 1 + spanned == columns, line
    assert "100 \\% digits \\& more\\_" in text
    assert text.count("\\cdashline{2-") == 2
    assert ("\\mathbf{" in text) is (form is latex.table1)


def test_markdown_cells_line_up(make_accuracy_run) -> None:
    diverged = {("max-margin", rate): 12 for rate in (0.1, 0.01)}
    for dataset in ("mnist", "digits"):
        result = Result.of(make_accuracy_run(diverged=diverged, dataset=dataset))
        for text in (tables.table1_markdown([("x", result)]), tables.table2_markdown([("x", result)])):
            for table in text.split("\n\n"):
                if table.startswith("|"):
                    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_every_loss_of_the_paper_is_found_under_its_published_name() -> None:
    from bench.accuracy.losses import PAPER, registry

    names = [registry()[key].name for key in PAPER]
    assert names == list(published_losses("mnist"))
