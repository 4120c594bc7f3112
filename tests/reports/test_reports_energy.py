import csv

import pytest

from bench.run import Run
from bench.speed.energy import Window
from bench.speed.energy_rows import EnergyRow, Interval
from reports import energy
from reports.energy import Energy

SINGLE = EnergyRow(
    setting=0,
    classes=1,
    windows=6,
    lost_windows=0,
    marked_windows=0,
    seconds=0.001,
    power_w=251.2,
    idle_w=79.6,
    gross_j=Interval(value=0.2512, low=0.2487, high=0.2537),
    net_j=Interval(value=0.1716, low=0.1690, high=0.1742),
)
LARGE = EnergyRow(
    setting=0,
    classes=2**18,
    windows=5,
    lost_windows=1,
    marked_windows=0,
    seconds=0.0015,
    power_w=300.0,
    idle_w=79.6,
    gross_j=Interval(value=0.45, low=0.445, high=0.455),
    net_j=Interval(value=0.3306, low=0.325, high=0.336),
    ratio=Interval(value=1.7914, low=1.77, high=1.8128),
    net_ratio=Interval(value=1.9266, low=1.88, high=1.97),
    verdict="less",
)


def windows_of(single=1000.0, large=2000.0, **fields):
    values = {"setting": 0, "process": 0, "started": "2026-01-02T03:04:05+00:00", "seconds": 5.0}
    values |= {"period_s": 0.02, "resolution_j": 0.001, "others": 0, **fields}
    windows = []
    for cycle in range(7):
        for place, (classes, joules) in enumerate([(None, 250.0), (1, single), (1024, large)]):
            if cycle == 6 and classes:
                continue
            shown = {"kind": "work" if classes else "idle", "classes": classes, "images": 1000 if classes else 0}
            offset_s = 21.0 * cycle + 7 * place
            windows.append(Window(**{**values, **shown, "cycle": cycle, "joules": joules, "offset_s": offset_s}))
    return windows


def test_the_frame_has_a_column_for_each_end_of_an_interval(setting):
    frame = energy.to_frame([SINGLE, LARGE], [setting])
    modes = ["compile", "cuda_graph", "channels_last", "work", "top_layer", "subset"]
    assert list(frame.columns[:12]) == ["setting", "arch", "device", "dtype", "batch_size", *modes, "classes"]
    assert list(frame["gross_j"]) == [0.2512, 0.45]
    assert (frame["ratio_low"][1], frame["ratio"][1], frame["ratio_high"][1]) == (1.77, 1.7914, 1.8128)
    assert set(EnergyRow.model_fields) <= set(frame.columns)
    assert energy.to_frame([], [setting]).columns.equals(frame.columns)


def test_markdown_has_all_that_a_reader_needs(setting):
    text = energy.to_markdown([SINGLE, LARGE], [setting])
    single, large = text.splitlines()[2:4]
    cells = [cell.strip() for cell in single.strip("|").split("|")]
    assert cells[:6] == ["resnet50", "1", "251.2", "248.7 to 253.7", "171.6", "169.0 to 174.2"]
    assert cells[6:10] == [""] * 4
    assert cells[10:] == ["251", "79.6", "6", ""]
    cells = [cell.strip() for cell in large.strip("|").split("|")]
    assert cells[6:10] == ["1.791", "1.770 to 1.813", "1.927", "1.880 to 1.970"]
    assert cells[-2:] == ["5, 1 lost", "less energy"]
    assert "the board uses at rest" in text


def test_a_net_energy_below_nothing_is_printed():
    below = SINGLE.model_copy(update={"net_j": Interval(value=-0.0123, low=-0.05, high=0.03)})
    assert energy._pair(below.net_j, energy._millijoules) == ("-12.30", "-50.00 to 30.00")


def test_the_line_for_the_terminal(setting):
    assert energy.lines([SINGLE, LARGE], [setting]) == [
        "energy of resnet50: 251.2 mJ an image for one logit, 450.0 mJ for 262,144 (x 1.791, 95 % interval 1.770 to "
        "1.813); net of rest x 1.927; one logit needs less energy"
    ]


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({"verdict": "more"}, "one logit needs more energy"),
        ({"verdict": "no difference shown"}, "no difference shown"),
        ({"verdict": "too few windows"}, "no verdict: too few windows"),
        (
            {"verdict": "disturbed", "marked_windows": 3},
            "no verdict: others used the GPU in 3 windows, and their energy is in these figures",
        ),
        ({"net_ratio": None}, "(x 1.791, 95 % interval 1.770 to 1.813); one logit needs less energy"),
        ({"gross_j": None, "ratio": None, "verdict": "too few windows"}, "no window of 262,144 is known"),
    ],
)
def test_the_line_says_what_there_is_to_say(setting, changes, ends):
    (line,) = energy.lines([SINGLE, LARGE.model_copy(update=changes)], [setting])
    assert line.endswith(ends)


def test_without_one_logit_the_line_says_so(setting):
    alone = LARGE.model_copy(update={"ratio": None, "net_ratio": None, "verdict": "too few windows"})
    assert energy.lines([alone], [setting]) == ["energy of resnet50: no window of one logit is known"]


def test_settings_of_one_network_are_told_apart(setting):
    other = setting.model_copy(update={"batch_size": 1})
    found = [SINGLE, LARGE, *(row.model_copy(update={"setting": 1}) for row in (SINGLE, LARGE))]
    first, second = energy.lines(found, [setting, other])
    assert first.startswith("energy of resnet50 (batch 32)")
    assert second.startswith("energy of resnet50 (batch 1)")


def energy_of(manifest, windows):
    return Energy.of(Run(manifest, (), windows=windows))


def test_a_runs_energy_is_estimated_from_its_windows(tmp_path, make_manifest):
    found = energy_of(make_manifest(), windows_of())
    assert (found.notices, found.is_undecided) == ([], False)
    (line,) = found.lines
    assert "x 2.000" in line
    paths = energy.write(tmp_path, [found])
    assert [path.name for path in paths] == list(energy.FILES)
    with open(paths[0], newline="") as file:
        single, large = csv.DictReader(file)
    assert float(single["gross_j"]) == 1.0
    assert float(single["net_j"]) == pytest.approx(0.75)
    assert single["ratio"] == single["verdict"] == ""
    assert large["verdict"] == "less"
    assert "| resnet50 | 1,024 |" in paths[1].read_text()


def test_what_was_noticed_stands_below_the_table_and_there_is_no_verdict(tmp_path, make_manifest):
    windows = windows_of()
    windows[4] = windows[4].model_copy(update={"marks": ("other-process",), "others": 1})
    found = energy_of(make_manifest(), windows)
    assert [notice.kind for notice in found.notices] == ["energy-disturbed"]
    assert found.is_undecided
    assert "others used the GPU in 1 windows" in found.lines[0]
    text = energy.write(tmp_path, [found])[1].read_text()
    assert "something else used the GPU in 1 of 19 windows" in text
    assert "6, 1 marked" in text


def test_with_several_classes_at_a_time_their_logits_are_the_reference(setting, make_manifest):
    windows = [
        window.model_copy(update={"classes": 3}) if window.classes == 1 else window for window in windows_of(300.0)
    ]
    three = setting.model_copy(update={"subset": 3})
    found = energy_of(make_manifest(settings=[three]), windows)
    reference, large = found.rows
    assert (reference.classes, reference.verdict, large.verdict) == (3, None, "less")
    assert large.ratio.value == pytest.approx(2000 / 300)
    assert "for 3 logits, 2000 mJ for 1,024" in found.lines[0]
    assert found.lines[0].endswith("3 logits need less energy")


def test_a_run_without_energy_gets_no_file(tmp_path, make_manifest):
    found = energy_of(make_manifest(), [])
    assert (energy.write(tmp_path, [found]), found.lines, found.is_undecided) == ([], [], False)
    assert list(tmp_path.iterdir()) == []


def test_runs_together_are_named(tmp_path, make_manifest):
    found = [energy_of(make_manifest(), windows) for windows in (windows_of(), [], windows_of(single=500.0))]
    csv_file, markdown = energy.write(tmp_path, found, ["first", "second", "third"])
    with open(csv_file, newline="") as file:
        assert [line["run"] for line in csv.DictReader(file)] == ["first", "first", "third", "third"]
    text = markdown.read_text()
    assert "### first" in text
    assert "### second" not in text
