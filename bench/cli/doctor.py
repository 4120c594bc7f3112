"""`python -m bench doctor`: what spoils timings here."""

from typing import Annotated

import typer

from bench.cli.defaults import with_default
from bench.cli.exits import exits


@exits
def look(
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help=with_default("CPU threads a sweep would use.", "torch's own")),
    ] = None,
) -> int:
    """Look for what spoils timings here: load, threads, clocks, memory. Changes nothing."""
    from bench import doctor
    from bench.machine.device import resolve_device
    from reports.terminal import print_findings

    print_findings(doctor.examine(doctor.read(resolve_device(device), threads)))
    return 0
