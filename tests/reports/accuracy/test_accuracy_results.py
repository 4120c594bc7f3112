import pytest

from bench.accuracy.run import load
from reports.accuracy import results


def test_a_run_is_written_from_its_records_alone(write_accuracy_run, tmp_path) -> None:
    paths = results.write_all(tmp_path, load(write_accuracy_run(tmp_path, ("ce", "batch-ce"))))
    assert [path.name for path in paths] == list(results.FILES)
    assert all(path.stat().st_size > 0 for path in paths)


def test_runs_together_share_each_table_and_figure(make_accuracy_run, tmp_path) -> None:
    runs = [make_accuracy_run(("ce", "batch-ce"), dataset=name) for name in ("mnist", "cifar10")]
    paths = {path.name: path for path in results.write_together(tmp_path, [results.Result.of(run) for run in runs])}
    assert set(paths) == set(results.FILES)
    for name in ("table1.md", "table2.md"):
        text = paths[name].read_text()
        assert text.index("## MNIST") < text.index("## CIFAR-10")
    for name in ("table1.tex", "table2.tex"):
        text = paths[name].read_text()
        assert text.count("\\begin{tabular}") == 1
        assert text.index("MNIST & ") < text.index("CIFAR-10 & ")
    for name in ("fig2.svg", "curves.svg"):
        assert b">CIFAR-10</text>" in paths[name].read_bytes()


def test_what_cannot_be_drawn_is_left_out_and_nothing_old_stays(make_accuracy_run, tmp_path) -> None:
    (tmp_path / "fig2.png").write_bytes(b"of another run")
    run = make_accuracy_run(("ce",), diverged={("ce", 0.1): 3, ("ce", 0.01): 5})
    names = [path.name for path in results.write_all(tmp_path, run)]
    assert names == [*results.TABLES, "curves.png", "curves.svg"]
    assert not (tmp_path / "fig2.png").exists()


def test_warnings_of_the_run_and_of_reading_it_are_kept(write_accuracy_run, tmp_path) -> None:
    folder = write_accuracy_run(tmp_path, ("ce",))
    with open(folder / "trainings.jsonl", "ab") as file:
        file.write(b'{"member"')
    assert [notice.kind for notice in results.Result.of(load(folder)).notices] == ["torn-line"]


def test_no_run_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="there is no run"):
        results.write_together(tmp_path, [])


def test_a_full_disk_leaves_what_was_there(make_accuracy_run, tmp_path, monkeypatch) -> None:
    run = make_accuracy_run(("ce", "batch-ce"))
    results.write_all(tmp_path, run)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.folder.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        results.write_all(tmp_path, make_accuracy_run(("ce", "batch-ce"), seeds=(0, 1)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
