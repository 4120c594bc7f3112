"""The workflows of GitHub: read, checked, and their commands run here, as far as that goes without GitHub."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from bench.cli import app
from bench.history import in_turn

ROOT = Path(__file__).parents[1]
OURS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
EXAMPLE = ROOT / "docs" / "examples" / "slc-bench.yml"
WORKFLOWS = [*OURS, EXAMPLE]
FACTORIES = ROOT / "tests" / "factories"

TINY = "--arch tiny_networks:small --classes 1,16 --minibatches 10 --batch-size 2 --threads 1 --device cpu"


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["on"] = content.pop(True)  # YAML 1.1 reads `on` as a truth value; GitHub does not
    return content


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in read(path)["jobs"].values():
        yield from job["steps"]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_there_are_workflows() -> None:
    assert names(OURS) == ["benchmark.yml", "tests.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=names(WORKFLOWS))
def test_actions_are_pinned_to_a_commit_that_is_named(path: Path) -> None:
    uses = [line.strip().removeprefix("- ") for line in path.read_text().splitlines() if "uses:" in line]
    assert uses
    for line in uses:
        assert re.fullmatch(r"uses: actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=names(WORKFLOWS))
def test_rights_are_least_time_is_bounded_and_runs_replace_another(path: Path) -> None:
    workflow = read(path)
    assert "concurrency" in workflow
    assert workflow["permissions"] in ({}, {"contents": "read"})
    writing = []
    for name, job in workflow["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 60
        if "write" in job.get("permissions", {}).values():
            writing.append(name)
            assert not any("checkout" in step.get("uses", "") for step in job["steps"]), "code of others, and a token"
            assert job["permissions"] == {"pull-requests": "write"}
    assert writing == (["comment"] if path.name == "benchmark.yml" else [])
    for step in steps(path):
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=names(WORKFLOWS))
def test_no_expression_is_pasted_into_a_script(path: Path) -> None:
    for step in steps(path):
        assert "${{" not in step.get("run", "")


def test_every_python_that_is_supported_is_tested() -> None:
    matrix = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["tox"]["strategy"]["matrix"]
    assert matrix["python"][0] == "3.11"
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
    environments = {*matrix["environment"], *(each["environment"] for each in matrix["include"])}
    assert environments == {"py", "wheel"}
    (tox,) = [line for line in (ROOT / "tox.ini").read_text().splitlines() if line.startswith("env_list")]
    assert set(re.findall(r"\w+", tox.partition("=")[2])) == environments


def commands(text: str) -> Iterator[list[str]]:
    """Each call of a module of ours in a script or a document, as words from after `-m` on."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        found = re.search(r"python -m (bench\S*.*)", line)
        if found and ("`" not in line):
            yield shlex.split(found[1].partition(" || ")[0], comments=True)


def scripts() -> Iterator[tuple[str, str]]:
    for path in WORKFLOWS:
        (job, *_) = read(path)["jobs"].values()
        for step in steps(path):
            script = step.get("run", "")
            for name, value in job["env"].items():
                script = script.replace(f'"${name}"', value).replace(f"${name}", value)
            yield path.name, script
    yield (
        "ci.md",
        "\n".join(line for line in (ROOT / "docs" / "ci.md").read_text().splitlines() if line.startswith("    ")),
    )


CALLS = [(name, words) for name, text in scripts() for words in commands(text)]


def options_of(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]


def known_options(command: str) -> set[str]:
    group = typer.main.get_command(app)
    chosen: Any = group.commands[command] if command else group  # type: ignore[attr-defined]
    return {option for parameter in chosen.params for option in (*parameter.opts, *parameter.secondary_opts)}


def test_calls_are_found() -> None:
    assert {(name, words[0]) for name, words in CALLS} >= {
        (name, module)
        for name in ("benchmark.yml", "slc-bench.yml", "ci.md")
        for module in ("bench", "bench.history.in_turn")
    }


@pytest.mark.parametrize(("name", "words"), CALLS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(CALLS)])
def test_every_option_exists(name: str, words: list[str]) -> None:
    module, *rest = words
    if module == "bench.history.in_turn":
        ours, sweep = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
        options = in_turn.parser().parse_args([*ours, "--", *sweep])
        assert options.given == sweep
        assert sweep, name
        assert set(options_of(sweep)) <= known_options("")
    else:
        assert module == "bench"
        command = rest[0] if rest and not rest[0].startswith("-") else ""
        assert set(options_of(rest)) <= known_options(command), name


def test_the_schema_of_workflows_is_kept(tmp_path: Path) -> None:
    checker = pytest.importorskip("check_jsonschema", reason="check-jsonschema, which has the schema, is not installed")
    assert checker
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_installs_what_there_is() -> None:
    """slc-bench is on no package index: whatever has its name there is something else."""
    (install,) = [step["run"] for step in steps(EXAMPLE) if step.get("id") == "install"]
    (requirement,) = [word for word in shlex.split(install) if word.startswith("slc-bench")]
    assert requirement == "slc-bench @ git+https://github.com/OWNER/slc-bench@TAG"
    assert "OWNER and TAG" in EXAMPLE.read_text()


@pytest.mark.parametrize("path", [OURS[0], EXAMPLE], ids=names([OURS[0], EXAMPLE]))
@pytest.mark.parametrize(("ends", "code"), [(0, 0), (1, 1), (2, 2), (3, 0)])
def test_undecided_is_a_warning_that_is_shown(path: Path, ends: int, code: int, tmp_path: Path) -> None:
    """The step `Compare`, with a Python that only ends."""
    (script,) = [step["run"] for step in steps(path) if step.get("name") == "Compare"]
    for folder in ("bin", "head-env/bin", "base-env/bin"):
        python = tmp_path / folder / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\nexit {ends}\n")
        python.chmod(0o755)
    environment = environment_of(path, tmp_path, PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith("::warning title=undecided::") == (ends == 3)


# -- the commands, run ----------------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def merge_commit(folder: Path) -> Path:
    """A repository as the checkout action leaves it: a merge commit on top of its first parent."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    (folder / "network.py").write_text((ROOT / ".ci" / "gate_network.py").read_text())
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "base")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "merge")
    return folder


def environment_of(path: Path, runner: Path, **changes: str) -> dict[str, str]:
    """What GitHub sets for the first job, and the test in place of what would take an hour."""
    (job, *_) = read(path)["jobs"].values()
    files = {name: str(runner / name.lower()) for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    for file in files.values():
        Path(file).touch()
    python_path = os.pathsep.join(map(str, (ROOT, FACTORIES)))
    return {**os.environ, **job["env"], **files, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", **changes}


def run_steps(path: Path, folder: Path, environment: Mapping[str, str]) -> dict[str, int]:
    """Run the `run:` steps of the first job but the installation, as GitHub does; exit codes by name."""
    (job, *_) = read(path)["jobs"].values()
    codes = {}
    for step in job["steps"]:
        if "run" not in step or step.get("id") == "install":
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]], cwd=folder, env=environment, text=True, capture_output=True, check=False
        )
        print(step["name"], done.stdout, done.stderr, sep="\n")
        codes[step["name"]] = done.returncode
        if done.returncode:
            break
    return codes


def assert_told(codes: Mapping[str, int], summary: str) -> None:
    """All steps ran, and the job's colour is what the table says."""
    assert list(codes.values())[:-1] == [0, 0]
    assert list(codes)[-1] == "Compare"
    assert summary.startswith("## ")
    assert "| 16 |" in summary
    assert codes["Compare"] == (1 if summary.startswith("## Worse") else 0)


@pytest.mark.slow
def test_the_benchmark_job_step_by_step(tmp_path: Path) -> None:
    path = ROOT / ".github" / "workflows" / "benchmark.yml"
    workspace = tmp_path / "workspace"
    merge_commit(workspace / "head")
    for side in ("base", "head"):  # in place of the two installations
        python = workspace / f"{side}-env" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
    environment = environment_of(path, tmp_path, SWEEP=TINY, TURNS="2")
    codes = run_steps(path, workspace, environment)
    summary = Path(environment["GITHUB_STEP_SUMMARY"]).read_text()
    assert_told(codes, summary)
    assert (workspace / "table.md").read_text() == summary
    assert "table=yes" in Path(environment["GITHUB_OUTPUT"]).read_text()
    for side in ("base", "new"):
        (manifest,) = (workspace / "results" / side).glob("*/run.json")
        assert json.loads(manifest.read_text())["protocol"]["processes"] == 2


@pytest.mark.slow
def test_the_example_step_by_step(tmp_path: Path) -> None:
    repository = merge_commit(tmp_path / "workspace")
    sweep = "--arch network:network --classes 1,16 --minibatches 10 --batch-size 8 --threads 1"
    environment = environment_of(EXAMPLE, tmp_path, SWEEP=sweep)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    codes = run_steps(EXAMPLE, repository, environment)
    assert (tmp_path / "base" / "network.py").exists()
    assert_told(codes, Path(environment["GITHUB_STEP_SUMMARY"]).read_text())
