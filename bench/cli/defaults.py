"""Defaults that an option's own value cannot say: they depend on other options, or None stands for them."""


def with_default(help: str, default: str) -> str:
    """An option's help that ends with its default, as typer shows values; its `show_default` puts words in brackets."""
    return f"{help} [dim]\\[default: {default}][/dim]".lstrip()
