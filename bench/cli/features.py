"""`python -m bench features`: what a network makes of images just before its top layer, written to disk."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.defaults import with_default
from bench.cli.exits import exits
from bench.cli.given import given, options
from bench.cli.shared_options import OUT, DataDir, Device, Quiet
from bench.errors import UsageError

WHAT = "What is written"
HOW = "How it runs"

#: What may stand beside --check.
BESIDE_CHECK = {"check", "quiet"}

Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=WHAT,
        help="Network: alexnet, vgg16, inception_v3, resnet50, resnet101, timm/NAME, torchvision/NAME, "
        "package.module:factory; mlp, cnn (of a run of `accuracy`).",
        show_default=False,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", rich_help_panel=WHAT, help="train/ and val/ or test/ by class.", show_default=False),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=WHAT,
        help="In place of --images: any that `accuracy` takes.",
        show_default=False,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=WHAT,
        help="The network's weights: safetensors, or a state dict; a top layer in it is left out.",
        show_default=False,
    ),
]
RandomWeights = Annotated[
    bool,
    typer.Option("--random-weights", rich_help_panel=WHAT, help="Of a network that was never trained."),
]
InputSize = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", rich_help_panel=WHAT, help=with_default("Height and width.", "the network's own")),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        rich_help_panel=WHAT,
        help=with_default("Subtracted from pixels of 0 to 1, with --images.", "ImageNet's"),
    ),
]
Std = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", rich_help_panel=WHAT, help=with_default("What they are divided by.", "ImageNet's")),
]
Dtype = Annotated[str, typer.Option(metavar="NAME", rich_help_panel=WHAT, help="Stored as float32, float16, bfloat16.")]
BatchSize = Annotated[int, typer.Option(metavar="N", rich_help_panel=HOW, help="Images a forward.")]
Seed = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=HOW, help="Of random weights, and of --dataset's validation split.")
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", rich_help_panel=OUT, help="Where to; it must not exist yet.", show_default=False),
]
Check = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        rich_help_panel=OUT,
        help="Write nothing: read all of a folder, compare its digests, look for NaN.",
        show_default=False,
    ),
]


@exits
def features(
    ctx: typer.Context,
    arch: Arch = None,
    images: Images = None,
    dataset: Dataset = None,
    checkpoint: Checkpoint = None,
    random_weights: RandomWeights = False,
    input_size: InputSize = None,
    mean: Mean = None,
    std: Std = None,
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    device: Device = "auto",
    seed: Seed = 0,
    data_dir: DataDir = None,
    output: Output = None,
    check: Check = None,
    quiet: Quiet = False,
) -> int:
    """Write a network's features of images, for `accuracy --dataset features:FOLDER` to train heads on.

    The features of an image are what the network's top layer is given. The folder appears under its name once it is
    whole. docs/data.md describes its files, which other programs can write as well.
    """
    if check is not None:
        if surplus := given(ctx) - BESIDE_CHECK:
            raise UsageError(f"--check reads what is there: leave out {options(surplus)}")
        return _check(check, quiet=quiet)
    if arch is None or output is None:
        raise UsageError("give --arch NAME and --output FOLDER, and the images; or --check FOLDER")
    from bench.accuracy.extraction import ExtractionRequest, extract
    from bench.cli.progress import telling

    written = extract(
        ExtractionRequest(
            arch=arch,
            output=output,
            images=images,
            dataset=dataset,
            checkpoint=checkpoint,
            random_weights=random_weights,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            input_size=input_size,
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            seed=seed,
            data_dir=data_dir,
        ),
        telling(quiet=quiet),
    )
    counts = ", ".join(f"{part} {count:,}" for part, count in written.examples.items())
    print(f"{written.features:,} features of each example ({counts}), {written.bytes:,} bytes, in {written.path}")
    print(f"to train on them: python -m bench accuracy --dataset features:{written.path}")
    return 0


def _check(path: Path, *, quiet: bool) -> int:
    from bench.accuracy.data.features import verify
    from bench.cli.progress import telling

    compared = verify(path, telling(quiet=quiet))
    told = f"{compared} files are as they were written" if compared else "features.json has no digests to compare"
    print(f"{path}: every value is finite, every label in range; {told}")
    return 0


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: give three numbers, such as 0.485,0.456,0.406") from None
