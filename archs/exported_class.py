"""What the file of one exported class says of itself, beside its row and bias."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from archs.rows_on_disk import TensorFile, UnusableFile

#: First line of defence against other safetensors files.
FORMAT = "slc-bench/one-class/1"


@dataclass(frozen=True)
class ExportedClass:
    """The metadata of an exported class: which class of which network, and what its backbone must be."""

    network: str
    index: int
    class_name: str
    classes: int
    features: int
    dtype: str
    input_shape: tuple[int, ...]
    layout: str
    """archs.backbone.layout of the backbone"""
    backbone_sha256: str
    """archs.backbone.values_sha256 of the backbone; empty in files from before it was stored"""

    def metadata(self) -> dict[str, str]:
        """As safetensors keeps it: text by name."""
        return {
            "format": FORMAT,
            "network": self.network,
            "class": str(self.index),
            "class_name": self.class_name,
            "classes": str(self.classes),
            "features": str(self.features),
            "dtype": self.dtype,
            "input_shape": json.dumps(self.input_shape),
            "backbone": self.layout,
            "backbone_sha256": self.backbone_sha256,
        }


def described_in(file: TensorFile) -> ExportedClass:
    """What an exported class says of itself. Raises UnusableFile for a file that is none, or was altered."""
    metadata = file.metadata
    if metadata.get("format") != FORMAT:
        raise UnusableFile(f"{file.path} is not an exported class: write one with export(class, path)")
    try:
        return _read(metadata)
    except (KeyError, ValueError, TypeError) as error:
        raise UnusableFile(f"{file.path}: its metadata were altered ({error}): export the class again") from None


def _read(metadata: Mapping[str, str]) -> ExportedClass:
    return ExportedClass(
        network=metadata["network"],
        index=int(metadata["class"]),
        class_name=metadata.get("class_name", ""),
        classes=int(metadata["classes"]),
        features=int(metadata["features"]),
        dtype=metadata["dtype"],
        input_shape=tuple(int(size) for size in json.loads(metadata["input_shape"])),
        layout=metadata["backbone"],
        backbone_sha256=metadata.get("backbone_sha256", ""),
    )
