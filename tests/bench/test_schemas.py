import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from bench.schemas import schemas, text_of, write

PUBLISHED = Path(__file__).parents[2] / "docs" / "schema"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory, here: Callable[..., Any], tiny: Callable[..., list[str]]) -> Any:
    """The --json object of a run in which one point fails and all others are measured."""
    ended = here(*tiny(tmp_path_factory.mktemp("runs"), "--json", network="averaging"))
    assert ended.code == 3
    return json.loads(ended.out)


def test_the_published_schemas_are_those_of_the_models(tmp_path: Path) -> None:
    assert sorted(path.name for path in write(tmp_path)) == sorted(schemas())
    for name in schemas():
        again = "run: python -m bench.schemas docs/schema"
        assert (PUBLISHED / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8"), again


@pytest.mark.parametrize("name", list(schemas()))
def test_a_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(json.loads(text_of(schemas()[name])))


def test_what_a_run_leaves_and_prints_is_valid(printed: Any) -> None:
    folder = Path(printed["run"]["path"])
    validators = {name: Draft202012Validator(schema) for name, schema in schemas().items()}
    validators["run.schema.json"].validate(json.loads((folder / "run.json").read_text()))
    validators["rows.schema.json"].validate(printed)
    lines = (folder / "samples.jsonl").read_text().splitlines()
    assert len(lines) > 6
    for line in lines:
        validators["sample.schema.json"].validate(json.loads(line))


def test_what_is_not_valid_is_told_apart(printed: Any) -> None:
    validator = Draft202012Validator(schemas()["rows.schema.json"])
    for wrong in ({**printed, "schema": "slc-bench/rows/0"}, {**printed, "more": 1}, {"run": printed["run"]}):
        with pytest.raises(ValidationError):
            validator.validate(wrong)
