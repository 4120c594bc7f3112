"""Which options stand on the command line, and lists of numbers among them."""

import typer

from bench.errors import UsageError

#: What may stand beside --resume: it changes only what is shown.
BESIDE_RESUME = {"resume", "json", "quiet"}


def given(ctx: typer.Context) -> set[str]:
    """Names of the parameters that stand on the command line."""
    return {
        name
        for name in ctx.params
        if (source := ctx.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


def options(names: set[str]) -> str:
    """Names of parameters as the options they are."""
    return ", ".join(sorted("--" + name.replace("_", "-") for name in names))


def refuse_beside_resume(names: set[str]) -> None:
    """A resumed run has its own settings. Raises UsageError naming what would change them."""
    if surplus := names - BESIDE_RESUME:
        raise UsageError(f"a resumed run goes on with its own settings: leave out {options(surplus)}")


def numbers(option: str, text: str) -> list[float]:
    """Read 0.1,0.01; nothing between two commas counts as nothing. Raises UsageError for what is no number."""
    return [_number(option, part) for part in text.split(",") if part.strip()]


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option}: {text.strip()!r} is no number") from None
