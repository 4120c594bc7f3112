"""`python -m bench history`: keep runs, look at them together, name baselines."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.exits import exits

app = typer.Typer(
    no_args_is_help=True,
    help="Keep runs, find steps and slow drifts in them, name baselines.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
baseline = typer.Typer(no_args_is_help=True, help="Runs under names, for others to be compared with.")
app.add_typer(baseline, name="baseline")

Store = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the history; it can be committed or cached.")]
Arch = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Only this network; repeatable or comma-separated.")
]
Last = Annotated[int, typer.Option(metavar="N", min=1, help="Newest runs to show; steps are looked for in all.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]

#: bench.history.store.DEFAULT, which is not imported for a help text.
DEFAULT = Path(".slc-bench")


@app.command("add")
@exits
def add(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, or files of pytest-benchmark.", show_default=False),
    ],
    store: Store = DEFAULT,
) -> int:
    """Keep runs in the history: one small file each, added twice kept once."""
    from bench.cli import keeping

    return keeping.add(runs, store)


@app.command("list")
@exits
def entries(store: Store = DEFAULT, json: Json = False) -> int:
    """List what the history holds, and the files in it that cannot be read (exit code 3)."""
    from bench.cli import keeping

    return keeping.entries(store, json=json)


@app.command("show")
@exits
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|ENTRY]",
            help="A run's name: its series alone. A baseline, or the beginning of an entry's file name or digest: "
            "that run alone.",
            show_default=False,
        ),
    ] = None,
    arch: Arch = None,
    last: Last = 20,
    store: Store = DEFAULT,
) -> int:
    """Show how each speedup went over time, with its steps and drifts and the commits between which they lie."""
    from bench.cli import keeping

    return keeping.show(name, arch or (), last, store)


@baseline.command("set")
@exits
def set_baseline(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Run folder, file of pytest-benchmark, or entry of the history.",
            show_default=False,
        ),
    ],
    store: Store = DEFAULT,
) -> int:
    """Give a run a name. The baseline is a copy: it stays when the history is pruned."""
    from bench.cli import keeping

    return keeping.set_baseline(name, run, store)


@baseline.command("list")
@exits
def list_baselines(store: Store = DEFAULT) -> int:
    """List the baselines."""
    from bench.cli import keeping

    return keeping.baselines(store)
