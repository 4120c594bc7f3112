"""`python -m bench predict`: times for class counts and machines that cannot be measured here."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import shared_options
from bench.cli.defaults import with_default
from bench.cli.exits import exits

WHAT = "What is predicted"
FROM = "What it is predicted from"

Arch = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=WHAT,
        help=with_default("Network; repeatable or comma-separated, as for a sweep.", "the runs' own, else resnet50"),
    ),
]
MaxClasses = Annotated[
    str | None,
    typer.Option(
        metavar="EXPR",
        rich_help_panel=WHAT,
        help=with_default("The paper's grid up to this count, such as 2**24.", "2**18.5 = 370,727"),
    ),
]
Classes = Annotated[
    str | None, typer.Option(metavar="LIST", rich_help_panel=WHAT, help="These class counts instead, and 1.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N", rich_help_panel=WHAT, help=with_default("Examples a minibatch.", "the runs' or file's, else 32")
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=WHAT,
        help=with_default("float32, bfloat16, float16.", "the runs' or file's, else float32"),
    ),
]
InputSize = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        rich_help_panel=WHAT,
        help=with_default("Height and width.", "the runs' own, else the network's own"),
    ),
]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--setting",
        metavar="FIELD=VALUE",
        rich_help_panel=FROM,
        help="Of a run with several settings, those alone with this value of a field in run.json: compile=none, "
        "channels_last=true, threads=2; repeatable or comma-separated. Of a file of rates, what it must be.",
    ),
]
Runs = Annotated[
    list[Path] | None,
    typer.Option(
        "--run",
        metavar="RUN",
        rich_help_panel=FROM,
        help="Folder of a measured run; repeatable. Its times, rates and errors are used.",
    ),
]
Fit = Annotated[
    bool,
    typer.Option("--fit", rich_help_panel=FROM, help="Fit the rates to the run's points; errors by leaving one out."),
]
DeviceRates = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=FROM, help="Rates of another machine (docs/predicting.md)."),
]
SaveRates = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel=shared_options.OUT, help="Write the rates used to such a file."),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=shared_options.WHERE, help=with_default("CPU threads.", "torch's own")),
]


@exits
def predict(
    arch: Arch = None,
    max_classes: MaxClasses = None,
    classes: Classes = None,
    batch_size: BatchSize = None,
    dtype: Dtype = None,
    input_size: InputSize = None,
    run: Runs = None,
    setting: Setting = None,
    fit: Fit = False,
    device_rates: DeviceRates = None,
    save_rates: SaveRates = None,
    device: shared_options.Device = "auto",
    threads: Threads = None,
    json: shared_options.Json = False,
    quiet: shared_options.Quiet = False,
) -> int:
    """How long would it take, and from how many classes on would one logit pay?

    The time at one class plus the top layer's operations and bytes at a device's rates: from a measured run, from a
    file of another machine's rates, or, with neither, calibrated here in some seconds. Says how far it is to be
    trusted, and what memory it would need.
    """
    from bench.cli import predicting

    asked = predicting.Asked(
        archs=tuple(arch or ()),
        max_classes=max_classes,
        classes=classes,
        batch_size=batch_size,
        dtype=dtype,
        input_size=input_size,
        runs=tuple(run or ()),
        setting=tuple(setting or ()),
        fit=fit,
        device_rates=device_rates,
        save_rates=save_rates,
        device=device,
        threads=threads,
    )
    return predicting.answer(asked, json=json, quiet=quiet)
