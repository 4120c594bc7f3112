"""The command line: one file a command, no logic, and nothing heavy imported before a command needs it."""

import sys

import typer

from bench.cli import (
    accuracy,
    compare,
    doctor,
    export,
    features,
    history,
    listing,
    paper,
    predict,
    scaling,
    single,
    speed,
)

app = typer.Typer(
    name="slc-bench",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback(invoke_without_command=True)(speed.measure)
app.command("accuracy")(accuracy.train)
app.command("doctor")(doctor.look)
app.command("features")(features.features)
app.command("list")(listing.show)
app.command("paper")(paper.reproduce)
app.command("scaling")(scaling.study)
app.command("single")(single.measure)
app.command("predict")(predict.predict)
app.command("compare")(compare.compare)
app.add_typer(history.app, name="history")
app.command("export")(export.export)


def main() -> None:
    """Run the command line; ends the process with the exit code of design decision 9 (see CONTRIBUTING.md)."""
    app(prog_name="slc-bench" if sys.argv[0].endswith("slc-bench") else "python -m bench")
