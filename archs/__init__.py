"""Networks, how their top layer is found and swapped, and one logit at a time of a top layer left on disk."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archs.single_logit import SingleLogit

__all__ = ["SingleLogit"]


def __getattr__(name: str) -> Any:
    """torch is imported only once SingleLogit is asked for: names of networks are read without it."""
    if name == "SingleLogit":
        from archs.single_logit import SingleLogit

        return SingleLogit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
