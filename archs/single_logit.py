"""One logit at a time of a classifier whose top layer stays on disk.

    query = SingleLogit.from_checkpoint("resnet50.safetensors", arch="resnet50")
    scores = query(images, 417)             (n, 3, 224, 224) -> (n,)
    scores = query(images, [3, 17])         (n, 3, 224, 224) -> (n, 2)

    disk, mapped    weight (k, d), bias (k,)         read: one row a class that is asked for
    device          the backbone, and the rows asked for last

The paper's subject (Keren, Sabato and Schuller, Sect. 1) as a thing to use: the score of one class costs neither the
time nor the memory of the others. It decides as well as the softmax would only for a network trained with one of the
paper's losses that align single logits (Sect. 4); `fit_threshold` then turns scores into decisions.
"""

import hashlib
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self, SupportsIndex

import torch
from torch import Tensor, nn

from archs import backbone, exported_class, thresholds
from archs.arguments import (
    Classes,
    asked_classes,
    check_dtype,
    check_finite,
    check_images,
    check_is_tensor,
    check_scores,
    truth_values,
    whole_number,
)
from archs.backbone import dtype_name, evaluating, parts_of
from archs.exported_class import ExportedClass
from archs.registry import DEFAULT_SHAPE, Network, find
from archs.rows_on_disk import Rows, UnusableFile, open_tensors, write_rows
from archs.thresholds import Threshold, UnusableThresholds
from archs.top_layer import TopLayer, UnsupportedNetwork, at_class_count, inspect, locate, place_of

#: Rows kept on the device: of 2048 features in float32 they take half a megabyte.
CACHED_ROWS = 64

#: Rows a step when a top layer is written from memory: 16 MB at 4096 features in float32.
CHUNK_ROWS = 1024

#: Calibration images a forward, unless told otherwise: the paper's minibatch.
BATCH = 32

_ROWS_FILE = "top-layer.safetensors"

#: A class's row, shape (1, features), and its bias, shape (1,).
Row = tuple[Tensor, Tensor | None]


class SingleLogit:
    """Scores of single classes: `query(images, 417)`; made by `from_model`, `from_checkpoint` or `from_export`.

    Also a context manager, which closes it: a file that was made for it in a temporary folder is then removed, as it
    is when the object goes.
    """

    def __init__(
        self,
        module: nn.Module,
        top: TopLayer,
        rows: Rows,
        *,
        name: str,
        input_shape: Sequence[int],
        cached_rows: int = CACHED_ROWS,
        unused: Sequence[str] = (),
    ) -> None:
        """Put a network's backbone and a top layer's rows together; the constructors named above do it for a user.

        `module`'s own top layer is not kept. Its other parts are shared with it, and in evaluation mode only while a
        score is computed. Thresholds stored beside the rows are read.
        Raises UnusableFile if the rows do not fit, UnsupportedNetwork for a top layer of several layers.
        """
        _refuse_several_heads(top)
        _check_rows_fit(rows, top, name)
        self.name = name
        self.input_shape = tuple(input_shape)
        self.rows = rows
        self.unused = tuple(unused)
        self.device, self.dtype = place_of(module)
        self._top = top
        self._network = at_class_count(module, top, _head_of([_empty_row(top, rows, self.device, self.dtype)]))
        self._shared = parts_of(module, self._network)
        self._selected: tuple[int, ...] = ()
        # Of the rows, not of this object: a cache that held the object would keep it from being freed.
        self._row = lru_cache(max(1, cached_rows))(_Reading(rows, self.device, self.dtype))
        self._thresholds_file = rows.file.path.with_name(f"{rows.file.path.stem}.thresholds.json")
        self._thresholds = _exported_thresholds(rows) | thresholds.read(self._thresholds_file)
        _warn_of_unknown_backbone(self._thresholds, rows)
        self._remove: weakref.finalize[..., SingleLogit] | None = None

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        input_shape: Sequence[int] = DEFAULT_SHAPE,
        *,
        folder: Path | str | None = None,
        name: str | None = None,
        cached_rows: int = CACHED_ROWS,
    ) -> Self:
        """Of a network in memory: its top layer is written to `folder`, or to a temporary one, and left there.

        The network is not copied: its backbone is used where it is, in evaluation mode while a score is computed and
        then in the mode it was in. The memory of its top layer is free once nothing else refers to `model`. A
        temporary folder may lie in memory on some systems (tmpfs).

        `input_shape` is that of one example. Raises archs.top_layer.UnsupportedNetwork for a network without one
        linear or convolutional top layer, UnusableFile if the rows cannot be written.
        """
        top = locate(model, input_shape)
        _refuse_several_heads(top)
        temporary = Path(tempfile.mkdtemp(prefix="slc-bench-")) if folder is None else None
        try:
            path = (temporary or Path(folder or "")) / _ROWS_FILE
            _write_top_layer(model, top, path)
            rows = Rows(open_tensors(path), "weight", "bias" if top.bias else None)
            query = cls(
                model,
                top,
                rows,
                name=name or type(model).__name__,
                input_shape=input_shape,
                cached_rows=cached_rows,
            )
        except BaseException:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        if temporary is not None:
            query._remove = weakref.finalize(query, shutil.rmtree, temporary, ignore_errors=True)
        return query

    @classmethod
    def from_checkpoint(
        cls,
        path: Path | str,
        *,
        arch: str | Network,
        input_size: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        cached_rows: int = CACHED_ROWS,
    ) -> Self:
        """Of a safetensors file, or of a state dict that torch.save wrote: the backbone is read, the top layer mapped.

        Also of an index of several safetensors files, of which the top layer may be split by its rows
        (archs.shards_on_disk).

        `arch` and `input_size` are as for `archs.registry.find`. The top layer in the file may have any number of
        classes. `dtype` is the one to compute in; without it the file's own, which must be one.

        Tensors in the file that the network has no place for (auxiliary heads) are named in a warning and in `unused`.
        Raises UnusableFile for a file that is no checkpoint of this network, archs.registry.UnknownNetwork,
        UnsupportedNetwork, ValueError for another dtype.
        """
        check_dtype(dtype)
        network = find(arch, input_size) if isinstance(arch, str) else arch
        top = inspect(network).top
        _refuse_several_heads(top)
        file = open_tensors(Path(path))
        module, rows, unused = backbone.read(file, network, top, dtype)
        _warn_of_unused(unused, path, network.name)
        return cls(
            module.to(device),
            top,
            rows,
            name=network.name,
            input_shape=network.input_shape,
            cached_rows=cached_rows,
            unused=unused,
        )

    @classmethod
    def from_rows(
        cls,
        model: nn.Module,
        path: Path | str,
        input_shape: Sequence[int] = DEFAULT_SHAPE,
        *,
        name: str | None = None,
        cached_rows: int = CACHED_ROWS,
    ) -> Self:
        """Of a network's backbone and rows on disk, as `archs.rows_on_disk.write_rows` writes them.

        `path` may be an index of shards (archs.shards_on_disk): each row is read from the file that holds it.
        Raises UnusableFile for rows that do not fit, UnsupportedNetwork.
        """
        file = open_tensors(Path(path))
        top = locate(model, input_shape)
        weight, bias = file.layer_names
        rows = Rows(file, weight, bias if top.bias else None)
        return cls(
            model, top, rows, name=name or type(model).__name__, input_shape=input_shape, cached_rows=cached_rows
        )

    @classmethod
    def from_export(cls, model: nn.Module, path: Path | str) -> Self:
        """Of a network's backbone and one class that `export` wrote, with its threshold if it has one.

        The network's own top layer is not used. Raises UnusableFile for a file that is no export, or one of a network
        whose backbone has other tensors, other values, another dtype or other inputs; UnsupportedNetwork.
        """
        file = open_tensors(Path(path))
        exported = exported_class.described_in(file)
        top = locate(model, exported.input_shape)
        bias = "bias" if "bias" in file.names else None
        rows = Rows(file, "weight", bias, only=exported.index, classes=exported.classes)
        if backbone.layout(model, top) != exported.layout:
            raise UnusableFile(
                f"{path} was exported from {exported.network}, whose backbone has other tensors than this network's"
            )
        dtype = place_of(model)[1]
        if rows.dtype != dtype:
            raise UnusableFile(
                f"{path} is of {dtype_name(rows.dtype)}, the network of {dtype_name(dtype)}: use "
                f"model.to({rows.dtype}), or export the class from a network of that dtype"
            )
        query = cls(model, top, rows, name=exported.network, input_shape=exported.input_shape)
        _check_values(query, exported)
        return query

    # -- scores ---------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> int:
        """Number of classes of the top layer."""
        return self.rows.classes

    @property
    def class_name(self) -> str | None:
        """Name of the one class of an exported file, if it was given one."""
        return self.rows.file.metadata.get("class_name") or None

    def __call__(self, images: Tensor, classes: Classes) -> Tensor:
        """Scores of one class, shape (n,), or of several, shape (n, number of classes), on the device.

        images: shape (n, *input_shape), in the network's dtype, on any device. Equal to these columns of the whole
        network's logits within rounding: a product of another shape may add up in another order.

        Raises ValueError for a class out of range or images that do not fit, TypeError for a class that is no whole
        number and for images that are no tensor, UnusableFile once it is closed, or if the file was cut short since it
        was opened.
        """
        asked, alone = asked_classes(classes)
        check_images(images, self.input_shape, self.dtype, self.name)
        self._select(asked)
        with torch.inference_mode(), evaluating(self._shared):
            logits: Tensor = self._network(images.to(self.device))
        return logits[:, 0] if alone else logits

    def select(self, classes: Classes) -> None:
        """Have the rows of these classes on the device, so that the next scores of theirs need not wait for the disk.

        Raises as a call does.
        """
        self._select(asked_classes(classes)[0])

    def _select(self, asked: tuple[int, ...]) -> None:
        if self.rows.file.is_closed:  # rows that are still on the device must not hide it
            raise UnusableFile(f"the top layer of {self.name} was closed: make another SingleLogit")
        if asked != self._selected:
            head = _head_of([self._row(index) for index in asked])
            self._network = at_class_count(self._network, self._top, head)
            self._selected = asked

    # -- decisions ------------------------------------------------------------------------------------------------

    def fit_threshold(
        self,
        images: Tensor,
        is_class: Tensor,
        classes: Classes,
        *,
        recall: float = 0.99,
        confidence: float | None = 0.95,
        batch_size: int = BATCH,
    ) -> dict[int, Threshold]:
        """Fit a decision threshold to each class from calibration images, and store it beside the rows.

        images: shape (n, *input_shape), drawn as those to be decided on will be, and not trained on. is_class: truth
        values of shape (n,) for one class, (n, number of classes) for several. The threshold is the highest of the
        class's own scores at which the recall is at least `recall` with probability `confidence` (archs.thresholds);
        with None, the one at which it is so on the calibration images, whose confidence the result states.

        Raises thresholds.TooFewPositives, saying how many images of the class it takes; ValueError and TypeError as a
        call does, for other shapes, and for scores that are not finite; OSError if the thresholds, which then hold in
        this object alone, cannot be stored.
        """
        asked, _ = asked_classes(classes)
        check_images(images, self.input_shape, self.dtype, self.name)
        truths = truth_values(is_class, len(images), len(asked))
        if whole_number("batch_size", batch_size) < 1:
            raise ValueError(f"batch_size {batch_size}: must be 1 or more")
        for positives in truths.sum(0).tolist():
            thresholds.rank_for(positives, recall, confidence)  # too few are told before any forward
        scores = torch.cat([self(part, list(asked)) for part in torch.split(images, batch_size)])
        return self.fit_threshold_to_scores(scores, truths, list(asked), recall=recall, confidence=confidence)

    def fit_threshold_to_scores(
        self,
        scores: Tensor,
        is_class: Tensor,
        classes: Classes,
        *,
        recall: float = 0.99,
        confidence: float | None = 0.95,
    ) -> dict[int, Threshold]:
        """The same from scores that `self` gave: shape (n,) for one class, (n, number of classes) for several."""
        asked, alone = asked_classes(classes)
        check_scores(scores, self.dtype, self.name)
        check_is_tensor("truth values", is_class)
        columns = scores[:, None] if alone else scores
        truths = is_class[:, None] if alone else is_class
        if columns.ndim != 2 or columns.shape != truths.shape or columns.shape[1] != len(asked):
            raise ValueError(
                f"scores of shape {tuple(scores.shape)} and truth values of shape {tuple(is_class.shape)} do not fit "
                f"{len(asked)} classes"
            )
        fitted = {}
        for column, index in enumerate(asked):
            own = columns[:, column].to("cpu", torch.float64).numpy()
            found = thresholds.fit(own, truths[:, column].cpu().numpy(), recall=recall, confidence=confidence)
            made_by = {"row_sha256": self._digest(index), "backbone_sha256": self.backbone_sha256}
            fitted[index] = found.model_copy(update={"dtype": dtype_name(self.dtype), **made_by})
        self._thresholds |= fitted
        thresholds.write(self._thresholds_file, self._thresholds)
        return fitted

    def threshold(self, index: SupportsIndex) -> Threshold:
        """The threshold of a class.

        Raises UnusableThresholds if there is none, or if it was fitted to another row, in another dtype, or to a
        backbone of other values.
        """
        (number,), _ = asked_classes(index)
        self._row(number)  # a class out of range is told as such
        found = self._thresholds.get(number)
        if found is None:
            raise UnusableThresholds(f"class {number} has no threshold: fit one with fit_threshold")
        if found.dtype != dtype_name(self.dtype) or found.row_sha256 != self._digest(number):
            raise UnusableThresholds(
                f"the threshold of class {number} was fitted to another row, or in {found.dtype}: fit it again"
            )
        if found.backbone_sha256 and found.backbone_sha256 != self.backbone_sha256:
            raise UnusableThresholds(
                f"the threshold of class {number} was fitted to a backbone of other values: fit it again, or use the "
                "weights it was fitted to"
            )
        return found

    def decide(self, images: Tensor, classes: Classes) -> Tensor:
        """Whether each image is of the class: truth values in the shape that the scores have.

        Raises as a call and `threshold` do, and ValueError for an image whose score is not finite: no decision stands
        on it.
        """
        asked, alone = asked_classes(classes)
        limits = [self.threshold(index).value for index in asked]
        scores = self(images, list(asked))
        check_finite(scores)
        decided = scores >= torch.tensor(limits, dtype=self.dtype, device=self.device)
        return decided[:, 0] if alone else decided

    @cached_property
    def backbone_sha256(self) -> str:
        """Digest of the backbone's values (archs.backbone.values_sha256), taken once, when it is first needed.

        Whoever trains the network on makes another object: this one's rows are from before, too.
        """
        return backbone.values_sha256(self._network, self._top)

    def _digest(self, index: int) -> str:
        """Of row and bias in the dtype of the scores: a checkpoint that took the place has other ones."""
        digest = hashlib.sha256()
        for tensor in self.rows.read(index):
            if tensor is not None:
                digest.update(tensor.to(self.dtype).reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    # -- one class, elsewhere -------------------------------------------------------------------------------------

    def export(self, index: SupportsIndex, path: Path | str, *, class_name: str = "") -> Path:
        """Write all that a device with the backbone needs for one class: row, bias, threshold if fitted, and names.

        A safetensors file in the dtype the network computes in; 8 KB of row at 2048 features in float32.
        Raises ValueError for a class out of range, UnusableFile if it cannot be written, UnusableThresholds for a
        threshold that no longer fits.
        """
        (number,), _ = asked_classes(index)
        weight, bias = self.rows.read(number)
        exported = ExportedClass(
            network=self.name,
            index=number,
            class_name=class_name,
            classes=self.classes,
            features=self.rows.features,
            dtype=dtype_name(self.dtype),
            input_shape=self.input_shape,
            layout=backbone.layout(self._network, self._top),
            backbone_sha256=self.backbone_sha256,
        )
        metadata = exported.metadata()
        if number in self._thresholds:
            metadata["thresholds"] = thresholds.as_json({number: self.threshold(number)})
        write_rows(
            Path(path), [weight], bias, classes=1, features=self.rows.features, dtype=self.dtype, metadata=metadata
        )
        return Path(path)

    # -- its end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the file, and remove one that was made in a temporary folder; a second time does nothing."""
        self.rows.file.close()
        if self._remove is not None:
            self._remove()

    def __enter__(self) -> Self:
        """Use it in a `with` block, which closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


class _Reading:
    """Reads rows onto a device, in a dtype."""

    def __init__(self, rows: Rows, device: torch.device, dtype: torch.dtype) -> None:
        self._rows = rows
        self._device = device
        self._dtype = dtype

    def __call__(self, index: int) -> Row:
        weight, bias = self._rows.read(index)
        return weight.to(self._device, self._dtype), None if bias is None else bias.to(self._device, self._dtype)


def _head_of(rows: Sequence[Row]) -> nn.Linear:
    """A linear layer of these rows alone."""
    biases = [bias for _, bias in rows if bias is not None]
    weight = torch.cat([weight for weight, _ in rows])
    head = nn.Linear(weight.shape[1], len(rows), bias=bool(biases), device="meta")
    head.weight = nn.Parameter(weight, requires_grad=False)
    if biases:
        head.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    return head.eval()


def _empty_row(top: TopLayer, rows: Rows, device: torch.device, dtype: torch.dtype) -> Row:
    """What stands in the network until a class is asked for."""
    bias = torch.zeros(1, device=device, dtype=dtype) if rows.has_bias else None
    return torch.zeros(1, top.features, device=device, dtype=dtype), bias


def _refuse_several_heads(top: TopLayer) -> None:
    if top.further:
        heads = ", ".join(repr(head.path) for head in top.heads)
        raise UnsupportedNetwork(
            f"its top layer is {len(top.heads)} layers ({heads}): a class would be several rows with biases of their "
            "own, and one row is read"
        )


def _check_rows_fit(rows: Rows, top: TopLayer, name: str) -> None:
    path = rows.file.path
    if rows.features != top.features:
        raise UnusableFile(f"{path} has rows of {rows.features} features, where {name} makes {top.features}")
    if rows.has_bias != top.bias:
        has, lacks = ("a bias", "none") if rows.has_bias else ("no bias", "one")
        raise UnusableFile(f"{path}: the top layer has {has}, where that of {name} has {lacks}")


def _write_top_layer(model: nn.Module, top: TopLayer, path: Path) -> None:
    layer = model.get_submodule(top.path)
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, Tensor) or weight.numel() != top.classes * top.features:
        raise UnsupportedNetwork(f"its top layer {top.path!r} is a {type(layer).__name__}, which has no row a class")
    rows = weight.detach().reshape(top.classes, top.features)
    write_rows(
        path,
        _chunks(rows),
        bias.detach() if isinstance(bias, Tensor) else None,
        classes=top.classes,
        features=top.features,
        dtype=weight.dtype,
        metadata={"network": type(model).__name__},
    )


def _chunks(rows: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(rows), CHUNK_ROWS):
        yield rows[start : start + CHUNK_ROWS]


def _exported_thresholds(rows: Rows) -> dict[int, Threshold]:
    text = rows.file.metadata.get("thresholds")
    return {} if text is None else thresholds.parsed(text, f"the metadata of {rows.file.path}")


def _check_values(query: SingleLogit, exported: ExportedClass) -> None:
    path = query.rows.file.path
    if not exported.backbone_sha256:
        warnings.warn(
            f"{path} does not say with which values of the backbone it was exported, so these were not compared: "
            "export the class again",
            stacklevel=3,
        )
    elif exported.backbone_sha256 != query.backbone_sha256:
        query.close()
        raise UnusableFile(
            f"{path} was exported from {exported.network} with other values in its backbone: load the weights it was "
            "exported with, or export the class again"
        )


def _warn_of_unknown_backbone(stored: Mapping[int, Threshold], rows: Rows) -> None:
    unknown = sorted(index for index, threshold in stored.items() if not threshold.backbone_sha256)
    if unknown:
        warnings.warn(
            f"{len(unknown)} thresholds stored with {rows.file.path}, the first that of class {unknown[0]}, do not say "
            "which values of the backbone they were fitted to, so these are not compared: fit them again",
            stacklevel=4,
        )


def _warn_of_unused(unused: Sequence[str], path: Path | str, name: str) -> None:
    if unused:
        warnings.warn(
            f"{path} holds {len(unused)} tensors that {name} has no place for, the first {unused[0]!r}; "
            "they are left out",
            stacklevel=3,
        )
