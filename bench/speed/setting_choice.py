"""Choosing among settings by their fields, as text: `compile=none,threads=2`. Plain values in, settings out."""

from collections.abc import Iterable, Mapping

from bench.errors import UsageError
from bench.speed.settings import Setting


def text_of(value: object) -> str:
    """A field's value as it is written in a choice: 3x224x224, true, none, 32."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(texts: Iterable[str]) -> dict[str, str]:
    """Field of a Setting -> text of its value, from FIELD=VALUE with commas between.

    Raises UsageError for a field that no setting has, one that is given two values, and for anything else.
    """
    chosen: dict[str, str] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UsageError(f"--setting {part!r}: write FIELD=VALUE, such as compile=none")
        if name not in Setting.model_fields:
            raise UsageError(f"--setting {part}: a setting has no {name!r}, but {', '.join(Setting.model_fields)}")
        if chosen.setdefault(name, value) != value:
            raise UsageError(f"--setting: {name} is both {chosen[name]} and {value}; give it one value")
    return chosen


def is_chosen(setting: Setting, chosen: Mapping[str, str]) -> bool:
    """Whether a setting has all these values; `device=cuda` is any of them."""
    kind = setting.device.partition(":")[0]
    return all(
        text_of(getattr(setting, name)) == value or (name, value) == ("device", kind) for name, value in chosen.items()
    )


def written(chosen: Mapping[str, str]) -> str:
    """A choice as it is given."""
    return ",".join(f"{name}={value}" for name, value in chosen.items())


def values_held(settings: Iterable[Setting], names: Iterable[str]) -> str:
    """What some settings have there: compile=none or default, threads=2."""
    settings = list(settings)
    held = {name: dict.fromkeys(text_of(getattr(setting, name)) for setting in settings) for name in names}
    return ", ".join(f"{name}={' or '.join(values)}" for name, values in held.items())
