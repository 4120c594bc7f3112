"""What an exported class says of itself survives its file, and what was altered is told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from archs.exported_class import ExportedClass, described_in
from archs.rows_on_disk import UnusableFile, open_tensors

ONE = ExportedClass(
    network="resnet50",
    index=417,
    class_name="zebra",
    classes=1000,
    features=2048,
    dtype="float32",
    input_shape=(3, 224, 224),
    layout="a1",
    backbone_sha256="b2",
)


def written(path: Path, metadata: dict[str, str]) -> Path:
    save_file({"weight": torch.ones(1, 2)}, path, metadata)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    shape=st.lists(st.integers(1, 2**40), min_size=1, max_size=4).map(tuple),
    index=st.integers(0, 2**40),
)
def test_it_is_read_as_it_was_written(tmp_path: Path, name: str, shape: tuple[int, ...], index: int) -> None:
    exported = replace(ONE, class_name=name, network=name, input_shape=shape, index=index)
    assert described_in(open_tensors(written(tmp_path / "a.safetensors", exported.metadata()))) == exported


def test_a_file_from_before_backbones_had_a_digest(tmp_path: Path) -> None:
    metadata = ONE.metadata()
    del metadata["backbone_sha256"]
    assert described_in(open_tensors(written(tmp_path / "a.safetensors", metadata))) == replace(ONE, backbone_sha256="")


@pytest.mark.parametrize("name", ["network", "class", "classes", "features", "dtype", "input_shape", "backbone"])
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    metadata = ONE.metadata()
    del metadata[name]
    with pytest.raises(UnusableFile, match=rf"its metadata were altered \('{name}'\): export the class again"):
        described_in(open_tensors(written(tmp_path / "a.safetensors", metadata)))


@pytest.mark.parametrize(
    ("name", "value"), [("class", "1x"), ("classes", ""), ("input_shape", "3"), ("input_shape", "[")]
)
def test_what_was_altered_is_told(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(UnusableFile, match="its metadata were altered"):
        described_in(open_tensors(written(tmp_path / "a.safetensors", {**ONE.metadata(), name: value})))


def test_another_file_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="is not an exported class"):
        described_in(open_tensors(written(tmp_path / "a.safetensors", {"format": "pt"})))
