"""Pages of measured runs, of a run whose network has a name that no page must run, and of a history with a step."""

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from bench.history.snapshot import Estimate, Snapshot
from bench.history.snapshot import Point as Briefly
from bench.history.store import Store
from bench.machine.fingerprint import Machine
from bench.run import Manifest, Point, Run, Sample
from bench.runs import load_any
from bench.speed.settings import Protocol, Setting
from reports import results as speed
from reports.accuracy import results as accuracy
from reports.page import document
from reports.page.history import read

MEASURED = Path(__file__).parents[3] / "docs" / "measured" / "amd-epyc-2-cores"
EVIL = "</script><script>alert(1)</script>&lt;b>%{x}"
MACHINE = Machine(
    os="Linux", cpu="<b>CPU</b> & co", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=16 << 30
)
RUNS_BEFORE_THE_STEP, RUNS = 20, 36


def evil_run(rounds: int = 40) -> Run:
    """A network with a name like an attack; every tenth of its passes is marked."""
    draws = random.Random(2)
    setting = Setting(arch=EVIL, input_shape=(3, 8, 8), device="cpu", threads=2)
    manifest = Manifest(
        name=EVIL,
        created="2026-03-01T09:15:02+00:00",
        status="incomplete",
        settings=(setting,),
        protocol=Protocol(classes=(1, 1024, 4096), minibatches=rounds),
        machine=MACHINE,
        versions={"torch": "2.15.0"},
        points=tuple(
            Point(setting=0, process=0, classes=count, operations=64, bytes=64, **_failed(count))
            for count in (1, 1024, 4096)
        ),
    )
    samples = [
        Sample(
            setting=0,
            process=0,
            phase="timed",
            round=turn,
            round_size=3,
            position=position,
            classes=classes,
            control=control,
            wall_s=(1.2 if classes > 1 else 1.0) * draws.uniform(0.99, 1.01),
            marks=("contention",) if turn % 10 == 3 else (),
        )
        for turn in range(rounds)
        for position, (classes, control) in enumerate(((1, False), (1024, False), (1, True)))
    ]
    return Run(manifest, samples)


def _failed(count: int) -> dict[str, Any]:
    return {"status": "out-of-memory", "reason": "<i>needs</i> 3 GB"} if count == 4096 else {}


def evil_history(folder: Path) -> Path:
    """A history whose speedup of 2 falls by a tenth after RUNS_BEFORE_THE_STEP runs."""
    draws = random.Random(3)
    work = {"arch": EVIL, "classes": 1024, "device": "cpu"}
    store = Store(folder)
    for index in range(RUNS):
        level = 2.0 if index < RUNS_BEFORE_THE_STEP else 1.8
        value = level * math.exp(draws.gauss(0, 0.005))
        single, every = (
            Estimate(value=0.01, error=0.005, degrees=9),
            Estimate(value=value / 100, error=0.005, degrees=9),
        )
        point = Briefly(work=work, threads=2, single=single, all=every, speedup=Estimate(value=value))
        created = f"2026-{1 + index // 28:02}-{1 + index % 28:02}T00:00:00+00:00"
        store.add(Snapshot(name="evil", created=created, commit=f"{index:040x}", machine=MACHINE, points=(point,)))
    return folder


@pytest.fixture(scope="session")
def speed_results() -> list[speed.Result]:
    runs = [load_any(MEASURED / "resnet50"), evil_run()]
    return [speed.Result.of(run) for run in runs if isinstance(run, Run)]


@pytest.fixture(scope="session")
def accuracy_results() -> list[accuracy.Result]:
    run = load_any(MEASURED / "digits")
    assert not isinstance(run, Run)
    return [accuracy.Result.of(run)]


@pytest.fixture(scope="session")
def history_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evil_history(tmp_path_factory.mktemp("history"))


@pytest.fixture(scope="session")
def page(
    speed_results: list[speed.Result], accuracy_results: list[accuracy.Result], history_folder: Path
) -> document.Document:
    return document.document(speed_results, accuracy_results, read(history_folder))


@pytest.fixture(scope="session")
def html(page: document.Document) -> str:
    return document.render(page)


@pytest.fixture(scope="session")
def light_html(html: str) -> str:
    """The page without plotly.js: 5 MB that no parser of ours needs to read again and again."""
    library = document.plotting_library()
    assert html.count(library) == 1
    return re.sub(r"\n{3,}", "\n\n", html.replace(library, "/* plotly.js */"))
