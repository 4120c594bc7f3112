"""`python -m bench list`: the networks that --arch takes."""

from typing import Annotated

import typer

from bench.cli.exits import exits


@exits
def show(
    pattern: Annotated[str, typer.Argument(help="Show only names that contain this.")] = "",
) -> int:
    """Show the networks that --arch takes."""
    from archs.registry import listing
    from bench.errors import UsageError
    from reports.terminal import print_listing

    found = {group: [name for name in names if pattern in name] for group, names in listing().items()}
    if not any(found.values()):
        raise UsageError(f"no network's name contains {pattern!r}; without it all are shown")
    print_listing(found)
    return 0
