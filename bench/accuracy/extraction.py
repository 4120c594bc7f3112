"""Features of a network, written to a folder that `features:PATH` reads: the input of its top layer, once an image.

    images -> network without its top layer -> (n, d) -> .NAME.1a2b.partial/{train,validation,test}/*.npy -> NAME/

The folder gets its name once all of it is written and synced; whatever happens before leaves nothing under that name.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from archs import registry
from archs.backbone import needed_of
from archs.batch_norm import calibrate
from archs.rows_on_disk import DISK_RESERVE_BYTES, TensorFile, UnusableFile, open_tensors
from archs.swapping import without_top
from archs.top_layer import TopLayer, UnsupportedNetwork, locate
from bench.accuracy import data, networks
from bench.accuracy.data import features, folders
from bench.accuracy.data.catalogue import Say
from bench.accuracy.data.decoding import DiskSplit
from bench.accuracy.data.integrity import file_digest
from bench.accuracy.data.normalisation import Normalisation
from bench.accuracy.data.splits import Split
from bench.errors import UsageError
from bench.folder import write_atomically
from bench.machine.device import resolve_device
from bench.refusals import refuse_sizes

#: How features are stored; bfloat16 as uint16, since numpy has no such type.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

#: Minibatches between two lines of progress.
_TELL_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class ExtractionRequest:
    """What to write features of, and where."""

    arch: str
    """a name of archs.registry, or mlp or cnn of a run of `python -m bench accuracy`"""
    output: Path
    images: Path | None = None
    """a folder of images by class (bench.accuracy.data.folders); or else a data set's name:"""
    dataset: str | None = None
    checkpoint: Path | None = None
    random_weights: bool = False
    """of a network that was never trained, if that is wanted"""
    batch_size: int = 64
    device: str = "auto"
    dtype: str = "float32"
    input_size: int | None = None
    mean: Sequence[float] | None = None
    """of an image folder's channels, of pixels from 0 to 1; None: ImageNet's"""
    std: Sequence[float] | None = None
    seed: int = 0
    """of random weights, and of a named data set's validation split"""
    data_dir: Path | None = None


@dataclass(frozen=True)
class Images:
    """What features are made of: splits by name, and what is known of them."""

    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    classes: int
    source: str
    preprocessing: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """Where features were written, and how many."""

    path: Path
    examples: Mapping[str, int]
    features: int
    bytes: int


def extract(request: ExtractionRequest, say: Say = lambda line: None) -> Written:
    """Write the features; `say` is told how far it is.

    Raises UsageError, one line, for what is unknown, contradicts itself or cannot be read or written (a full disk),
    for an output that exists already, and for features that are not finite as they are stored.
    """
    _refuse_unfit(request)
    device = resolve_device(request.device)
    images = _images(request, say)
    shape = images.splits["train"].input_shape
    backbone, width = _backbone(request, shape)
    weights = _with_weights(request, backbone, images.splits["train"])
    backbone = backbone.to(device).eval()
    with _becoming(request.output, _bytes_needed(request, images, width)) as folder:
        digests: dict[str, str] = {}
        for part, split in images.splits.items():
            (folder / part).mkdir()
            blocks = _features(backbone, split.on(device), part, request.batch_size, say)
            name, stored = f"{part}/{features.FEATURES}", (_stored(block, request.dtype) for block in blocks)
            digests[name] = _write_array(folder / name, (len(split), width), request.dtype, stored)
            name = f"{part}/{features.LABELS}"
            _write_labels(folder / name, split.labels)
            digests[name] = f"sha256:{file_digest(folder / name, 'sha256')}"
        header = features.FeaturesHeader(
            classes=images.classes,
            class_names=images.class_names,
            dtype=request.dtype,
            network=request.arch,
            weights=weights,
            preprocessing=images.preprocessing,
            source=images.source,
            digests=digests,
        )
        write_atomically(folder / features.HEADER, header.model_dump_json(indent=1) + "\n")
    examples = {part: len(split) for part, split in images.splits.items()}
    size = sum(file.stat().st_size for file in request.output.rglob("*") if file.is_file())
    return Written(request.output, examples, width, size)


def _refuse_unfit(request: ExtractionRequest) -> None:
    refuse_sizes(
        {"--batch-size": request.batch_size, "--input-size": request.input_size}, threads=None, seed=request.seed
    )
    if request.dtype not in DTYPES:
        raise UsageError(f"--dtype {request.dtype!r}: must be one of {', '.join(DTYPES)}")
    if (request.images is None) == (request.dataset is None):
        raise UsageError("give either --images FOLDER or --dataset NAME")
    if (request.checkpoint is None) == (not request.random_weights):
        raise UsageError(
            "give --checkpoint FILE, the network's trained weights; or --random-weights, for features of a network "
            "that was never trained"
        )
    if request.images is None and (request.mean is not None or request.std is not None):
        raise UsageError("--mean and --std are of --images; a named data set has a normalisation of its own")
    for option, values in (("--mean", request.mean), ("--std", request.std)):
        if values is not None and (len(values) != 3 or not np.isfinite(values).all()):
            raise UsageError(f"{option}: give three numbers, such as 0.485,0.456,0.406")
    if request.std is not None and min(request.std) <= 0:
        raise UsageError("--std: standard deviations are above 0")
    if os.path.lexists(request.output):
        raise UsageError(f"{request.output} exists already; name another folder with --output")


def _images(request: ExtractionRequest, say: Say) -> Images:
    try:
        return _of_folder(request, request.images, say) if request.images else _of_dataset(request, say)
    except (registry.UnknownNetwork, UnsupportedNetwork) as error:
        raise UsageError(str(error)) from None


def _of_dataset(request: ExtractionRequest, say: Say) -> Images:
    assert request.dataset is not None
    size = request.input_size
    if size is None and (request.dataset == "imagenet" or request.dataset.startswith("folder:")):
        size = _size_of(request.arch)
    dataset = data.load(request.dataset, data_dir=request.data_dir, split_seed=request.seed, input_size=size, say=say)
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return Images(splits, dataset.class_names, dataset.facts.classes, dataset.name, dataset.facts.notes)


def _of_folder(request: ExtractionRequest, path: Path, say: Say) -> Images:
    """All images of a folder as evaluation sees them; where val/ or test/ is missing, the reader holds some out."""
    found = folders.listed(path.expanduser(), say)
    size, central = request.input_size or _size_of(request.arch) or folders.FOLDER_SIZE, folders.IMAGENET_CENTRAL
    usual = folders.IMAGENET_NORMALISATION
    normalisation = Normalisation(request.mean or usual.mean, request.std or usual.std, 255)
    listings = {"train": found.train, "validation": found.validation, "test": found.test}
    splits: dict[str, Split] = {
        part: DiskSplit(listing.paths, listing.labels, size=size, central=central, normalisation=normalisation)
        for part, listing in listings.items()
        if listing is not None
    }
    return Images(
        splits,
        found.class_names,
        len(found.class_names),
        str(path),
        (
            f"images: the central {central:g} of the shorter side, at {size} x {size}; not augmented",
            normalisation.described("as given" if request.mean or request.std else "the usual ones of ImageNet"),
        ),
    )


def _size_of(arch: str) -> int | None:
    """The side in pixels that a network is made for; none of a small network, which takes any."""
    if arch in networks.SMALL:
        return None
    return registry.find(arch).input_shape[-1]


def _backbone(request: ExtractionRequest, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """The network without its top layer, initialised by the seed, and the length of what it returns."""
    if request.arch == "linear":
        raise UsageError("linear is a top layer alone, with no features before it; name a network with a backbone")
    network = networks.build(request.arch, shape, 2, seed=request.seed)  # its top layer goes, whatever its classes
    top = _top_of(network, shape, request.arch)
    if not top.path:
        raise UsageError(f"{request.arch} is a top layer alone, with no features before it; name another network")
    return without_top(network, top.path), top.features


def _top_of(network: nn.Module, shape: tuple[int, ...], arch: str) -> TopLayer:
    try:
        return locate(network, shape)
    except UnsupportedNetwork as error:
        raise UsageError(f"{arch}: {error}") from None


def _with_weights(request: ExtractionRequest, backbone: nn.Module, train: Split) -> str:
    """Load the backbone's weights, or settle the batch norm of random ones; returns where they are from."""
    if request.checkpoint is not None:
        return _load_weights(request.checkpoint, backbone, request.arch)
    if len(train) < 2:
        raise UsageError("random weights need 2 or more training images, for batch norm's statistics")
    chosen = torch.linspace(0, len(train) - 1, min(len(train), max(2, request.batch_size))).long()
    calibrate(backbone, train.images(chosen))
    return f"random weights, seed {request.seed}, never trained; batch norm by {len(chosen)} training images"


def _load_weights(path: Path, backbone: nn.Module, arch: str) -> str:
    """Copy a checkpoint's tensors into the backbone; those of the top layer and auxiliary heads are left out."""
    try:
        with contextlib.closing(open_tensors(path.expanduser())) as file:
            _copy_backbone(file, backbone, arch)
    except UnusableFile as error:
        raise UsageError(str(error)) from None
    return f"{path.name}, sha256:{file_digest(path.expanduser(), 'sha256')}"


def _copy_backbone(file: TensorFile, backbone: nn.Module, arch: str) -> None:
    own = backbone.state_dict()
    for name in needed_of(file, own, arch):
        own[name].copy_(file.read(name))  # a state dict's tensors are the module's own


def _features(backbone: nn.Module, split: Split, part: str, batch_size: int, say: Say) -> Iterator[Tensor]:
    """The split's features in order, (m, d) on the CPU, whatever the device."""
    place = next(backbone.parameters()).device
    chunks = torch.split(torch.arange(len(split)), batch_size)
    done = 0
    for number, images in enumerate(split.prefetch((rows, None) for rows in chunks)):
        if number % _TELL_EVERY == 0:
            say(f"{part}: {done:,} of {len(split):,} examples")
        with torch.inference_mode():  # not around the yield: the caller's own work would be in it
            block = backbone(images.to(place)).flatten(1).cpu()
        yield block
        done += len(images)
    say(f"{part}: {done:,} of {len(split):,} examples")


def _stored(block: Tensor, dtype: str) -> Tensor:
    """Features in the type they are stored in; UsageError if one of them is not finite in it."""
    stored = block.to(DTYPES[dtype])
    if not bool(stored.isfinite().all()):
        where = f"in {dtype}; store them as float32 or bfloat16" if bool(block.isfinite().all()) else "as computed"
        raise UsageError(f"features are not finite (NaN or infinity) {where}")
    return stored.view(torch.int16) if dtype == "bfloat16" else stored


def _write_array(path: Path, shape: tuple[int, int], dtype: str, blocks: Iterator[Tensor]) -> str:
    """A .npy file written block by block; its digest.

    Not through a mapping: a disk that is full would end the process there, where a write can say so.
    """
    digest = hashlib.sha256()
    stored = np.dtype("<u2" if dtype == "bfloat16" else dtype)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": shape}
        )
        file.flush()
        digest.update(path.read_bytes())
        for block in blocks:
            content = block.contiguous().numpy().tobytes()
            file.write(content)
            digest.update(content)
        file.flush()
        os.fsync(file.fileno())
    return f"sha256:{digest.hexdigest()}"


def _write_labels(path: Path, labels: Tensor) -> None:
    with open(path, "wb") as file:
        np.save(file, labels.numpy())
        file.flush()
        os.fsync(file.fileno())


def _bytes_needed(request: ExtractionRequest, images: Images, width: int) -> int:
    each = width * DTYPES[request.dtype].itemsize + torch.int64.itemsize
    return sum(len(split) for split in images.splits.values()) * each


@contextlib.contextmanager
def _becoming(output: Path, needed: int) -> Iterator[Path]:
    """A folder beside `output` that takes its name once the block is done; on any error it goes again.

    Raises UsageError if the disk has no room, or refuses.
    """
    beside = output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(output.parent).free - DISK_RESERVE_BYTES
        if needed > free:
            raise UsageError(
                f"{output} needs {needed:,} bytes, and {max(free, 0):,} are free there; make room, name another folder "
                "with --output, or store float16"
            )
        beside.mkdir()
        yield beside
        os.rename(beside, output)
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error.strerror or error}; make room, or name another folder with --output"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
