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
import json
import operator
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

from archs import thresholds
from archs.registry import DEFAULT_SHAPE, Network, find
from archs.rows_on_disk import Rows, TensorFile, UnusableFile, open_tensors, write_rows
from archs.thresholds import Threshold, UnusableThresholds
from archs.top_layer import TopLayer, UnsupportedNetwork, at_class_count, inspect, locate, place_of

#: Rows kept on the device: of 2048 features in float32 they take half a megabyte.
CACHED_ROWS = 64

#: Rows a step when a top layer is written from memory: 16 MB at 4096 features in float32.
CHUNK_ROWS = 1024

#: Calibration images a forward, unless told otherwise: the paper's minibatch.
BATCH = 32

#: Metadata of an exported class says so.
EXPORT_FORMAT = "slc-bench/one-class/1"

#: Counts minibatches in training and has no part in an inference; checkpoints from before torch 0.4.1 lack it.
_UNUSED_IN_INFERENCE = "num_batches_tracked"

_ROWS_FILE = "top-layer.safetensors"

#: One class, or several.
Classes = SupportsIndex | Sequence[SupportsIndex]

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

        `module`'s own top layer is not kept. Its other parts are shared with it, and put in evaluation mode.
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
        self._network.eval()
        self._selected: tuple[int, ...] = ()
        # Of the rows, not of this object: a cache that held the object would keep it from being freed.
        self._row = lru_cache(max(1, cached_rows))(_Reading(rows, self.device, self.dtype))
        self._thresholds_file = rows.file.path.with_name(f"{rows.file.path.stem}.thresholds.json")
        self._thresholds = _exported_thresholds(rows) | thresholds.read(self._thresholds_file)
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

        The network is not copied: its backbone is used where it is, in evaluation mode. The memory of its top layer
        is free once nothing else refers to `model`. A temporary folder may lie in memory on some systems (tmpfs).

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

        `arch` and `input_size` are as for `archs.registry.find`. The top layer in the file may have any number of
        classes. `dtype` is the one to compute in; without it the file's own, which must be one.

        Tensors in the file that the network has no place for (auxiliary heads) are named in a warning and in `unused`.
        Raises UnusableFile for a file that is no checkpoint of this network, archs.registry.UnknownNetwork,
        UnsupportedNetwork.
        """
        network = find(arch, input_size) if isinstance(arch, str) else arch
        top = inspect(network).top
        _refuse_several_heads(top)
        file = open_tensors(Path(path))
        module = _built(network)
        unused = _check_backbone(file, module, top, network.name)
        rows = Rows(file, _in(top, "weight"), _in(top, "bias") if top.bias else None)
        module = module.to(dtype or _own_dtype(file, module, top, rows))
        _load_backbone(file, module, top)
        if unused:
            warnings.warn(
                f"{path} holds {len(unused)} tensors that {network.name} has no place for, the first {unused[0]!r}; "
                "they are left out",
                stacklevel=2,
            )
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

        Raises UnusableFile for rows that do not fit, UnsupportedNetwork.
        """
        file = open_tensors(Path(path))
        top = locate(model, input_shape)
        rows = Rows(file, "weight", "bias" if top.bias else None)
        return cls(
            model, top, rows, name=name or type(model).__name__, input_shape=input_shape, cached_rows=cached_rows
        )

    @classmethod
    def from_export(cls, model: nn.Module, path: Path | str) -> Self:
        """Of a network's backbone and one class that `export` wrote, with its threshold if it has one.

        The network's own top layer is not used. Raises UnusableFile for a file that is no export, or one of a network
        whose backbone has other tensors, another dtype or other inputs; UnsupportedNetwork.
        """
        file = open_tensors(Path(path))
        if file.metadata.get("format") != EXPORT_FORMAT:
            raise UnusableFile(f"{path} is not an exported class: write one with export(class, path)")
        try:
            only, classes = int(file.metadata["class"]), int(file.metadata["classes"])
            input_shape = tuple(int(size) for size in json.loads(file.metadata["input_shape"]))
            name, layout = file.metadata["network"], file.metadata["backbone"]
        except (KeyError, ValueError, TypeError) as error:
            raise UnusableFile(f"{path}: its metadata were altered ({error}): export the class again") from None
        top = locate(model, input_shape)
        if _layout(model, top) != layout:
            raise UnusableFile(f"{path} was exported from {name}, whose backbone has other tensors than this network's")
        rows = Rows(file, "weight", "bias" if "bias" in file.names else None, only=only, classes=classes)
        dtype = place_of(model)[1]
        if rows.dtype != dtype:
            raise UnusableFile(
                f"{path} is of {_named(rows.dtype)}, the network of {_named(dtype)}: use model.to({rows.dtype}), or "
                "export the class from a network of that dtype"
            )
        return cls(model, top, rows, name=name, input_shape=input_shape)

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
        number, UnusableFile if the file was cut short since it was opened.
        """
        asked, alone = _asked(classes)
        self._check_images(images)
        self._select(asked)
        with torch.inference_mode():
            logits: Tensor = self._network(images.to(self.device))
        return logits[:, 0] if alone else logits

    def select(self, classes: Classes) -> None:
        """Have the rows of these classes on the device, so that the next scores of theirs need not wait for the disk.

        Raises as a call does.
        """
        self._select(_asked(classes)[0])

    def _select(self, asked: tuple[int, ...]) -> None:
        if asked != self._selected:
            head = _head_of([self._row(index) for index in asked])
            self._network = at_class_count(self._network, self._top, head)
            self._selected = asked

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != len(self.input_shape) + 1 or images.shape[1:] != self.input_shape or not len(images):
            raise ValueError(
                f"images of shape {tuple(images.shape)} do not fit {self.name}, which takes (n, "
                f"{', '.join(map(str, self.input_shape))}) with n of 1 or more"
            )
        if images.dtype != self.dtype:
            raise ValueError(
                f"images of {_named(images.dtype)} do not fit {self.name}, which computes in {_named(self.dtype)}: "
                f"use images.to({self.dtype})"
            )

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

        Raises thresholds.TooFewPositives, saying how many images of the class it takes; ValueError as a call does and
        for other shapes; OSError if the thresholds, which then hold in this object alone, cannot be stored.
        """
        asked, _ = _asked(classes)
        scores = torch.cat([self(part, list(asked)) for part in torch.split(images, batch_size)])
        shape = is_class.shape if is_class.ndim == 2 else (*is_class.shape, 1)
        if shape != scores.shape:
            raise ValueError(
                f"truth values of shape {tuple(is_class.shape)} do not fit {len(scores)} images and "
                f"{len(asked)} classes"
            )
        return self.fit_threshold_to_scores(
            scores, is_class.reshape(shape), list(asked), recall=recall, confidence=confidence
        )

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
        asked, alone = _asked(classes)
        if scores.dtype != self.dtype:
            raise ValueError(f"scores of {_named(scores.dtype)}, where {self.name} gives {_named(self.dtype)}")
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
            fitted[index] = found.model_copy(update={"dtype": _named(self.dtype), "row_sha256": self._digest(index)})
        self._thresholds |= fitted
        thresholds.write(self._thresholds_file, self._thresholds)
        return fitted

    def threshold(self, index: SupportsIndex) -> Threshold:
        """The threshold of a class.

        Raises UnusableThresholds if there is none, or if it was fitted to another row or in another dtype.
        """
        (number,), _ = _asked(index)
        self._row(number)  # a class out of range is told as such
        found = self._thresholds.get(number)
        if found is None:
            raise UnusableThresholds(f"class {number} has no threshold: fit one with fit_threshold")
        if found.dtype != _named(self.dtype) or found.row_sha256 != self._digest(number):
            raise UnusableThresholds(
                f"the threshold of class {number} was fitted to another row, or in {found.dtype}: fit it again"
            )
        return found

    def decide(self, images: Tensor, classes: Classes) -> Tensor:
        """Whether each image is of the class: truth values in the shape that the scores have.

        Raises as a call and `threshold` do.
        """
        asked, alone = _asked(classes)
        limits = [self.threshold(index).value for index in asked]
        decided = self(images, list(asked)) >= torch.tensor(limits, dtype=self.dtype, device=self.device)
        return decided[:, 0] if alone else decided

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
        (number,), _ = _asked(index)
        weight, bias = self.rows.read(number)
        metadata = {
            "format": EXPORT_FORMAT,
            "network": self.name,
            "class": str(number),
            "class_name": class_name,
            "classes": str(self.classes),
            "features": str(self.rows.features),
            "dtype": _named(self.dtype),
            "input_shape": json.dumps(self.input_shape),
            "backbone": _layout(self._network, self._top),
        }
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


def _asked(classes: Classes) -> tuple[tuple[int, ...], bool]:
    """Class numbers, and whether one was asked for by itself. Their range is looked at where they are read."""
    if isinstance(classes, Tensor | np.ndarray):
        classes = classes.tolist()
    if isinstance(classes, Sequence):
        if not classes:
            raise ValueError("no class is asked for: name one or more")
        return tuple(_number(each) for each in classes), False
    return (_number(classes),), True


def _number(value: SupportsIndex) -> int:
    if isinstance(value, bool):  # True would be class 1
        raise TypeError("a class is a whole number, not a bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"a class is a whole number, not a {type(value).__name__}") from None


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


# -- checkpoints ------------------------------------------------------------------------------------------------------


def _in(top: TopLayer, parameter: str) -> str:
    """A parameter's name in the network's state dict."""
    return f"{top.path}.{parameter}" if top.path else parameter


def _backbone_tensors(module: nn.Module, top: TopLayer) -> dict[str, Tensor]:
    """The state dict without the top layer."""
    head = {_in(top, "weight"), _in(top, "bias")}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in head}


def _built(network: Network) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # random weights, which are all replaced
        return network.build().eval().requires_grad_(False)


def _check_backbone(file: TensorFile, module: nn.Module, top: TopLayer, name: str) -> tuple[str, ...]:
    """See that the file holds this backbone; names of tensors that the network has no place for."""
    own = _backbone_tensors(module, top)
    there = set(file.names)
    needed = [each for each in own if not each.endswith(_UNUSED_IN_INFERENCE)]
    missing = [each for each in needed if each not in there]
    if missing:
        raise UnusableFile(
            f"{file.path} is no checkpoint of {name}: it has no {missing[0]!r} ({len(missing)} of {len(needed)} "
            "tensors of the backbone are missing); name the network it was saved from"
        )
    for each in needed:
        if file.shape(each) != tuple(own[each].shape):
            raise UnusableFile(
                f"{file.path} is no checkpoint of {name}: {each!r} has the shape {file.shape(each)}, where the network "
                f"has {tuple(own[each].shape)}; name the network it was saved from"
            )
    if not top.bias and _in(top, "bias") in there:
        raise UnusableFile(f"{file.path} is no checkpoint of {name}: its top layer has a bias, the network's has none")
    return tuple(sorted(there - set(own) - {_in(top, "weight"), _in(top, "bias")}))


def _own_dtype(file: TensorFile, module: nn.Module, top: TopLayer, rows: Rows) -> torch.dtype:
    """The one floating-point dtype that a checkpoint is of."""
    for name, tensor in _backbone_tensors(module, top).items():
        if tensor.is_floating_point() and name in file.names and file.dtype(name) != rows.dtype:
            found = file.dtype(name)
            other = "no floating-point number" if found is None else _named(found)
            raise UnusableFile(
                f"{file.path}: the top layer is of {_named(rows.dtype)}, but {name!r} of {other}: say which dtype to "
                "compute in with dtype=, such as torch.float32"
            )
    return rows.dtype


def _load_backbone(file: TensorFile, module: nn.Module, top: TopLayer) -> None:
    there = set(file.names)
    with torch.no_grad():
        for name, tensor in _backbone_tensors(module, top).items():
            if name in there:
                tensor.copy_(file.read(name))


def _layout(module: nn.Module, top: TopLayer) -> str:
    """A digest of the names and shapes of a backbone's tensors: another architecture has another one."""
    tensors = sorted((name, tuple(tensor.shape)) for name, tensor in _backbone_tensors(module, top).items())
    return hashlib.sha256(repr(tensors).encode()).hexdigest()


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
