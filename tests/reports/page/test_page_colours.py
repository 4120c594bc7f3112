"""Contrast as WCAG 2.2 computes it: texts at least 4.5 to 1 (1.4.3), lines and symbols 3 to 1 (1.4.11)."""

import importlib.resources
import itertools
import re

import pytest

from reports.page import figures

STYLE = (importlib.resources.files("reports.page") / "page.css").read_text(encoding="utf-8")

#: Linear RGB as people see it who lack one kind of cone (Viénot, Brettel and Mollon 1999).
DICHROMATS = {
    "protanopia": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deuteranopia": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}


def schemes() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    return {name: dict(re.findall(r"--(\w+): (#\w{6});", text)) for name, text in (("light", light), ("dark", dark))}


def linear(colour: str) -> tuple[float, float, float]:
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares]
    return red, green, blue


def luminance(colour: str) -> float:
    red, green, blue = linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_as_wcag_has_it() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["ground", "panel"])
def test_texts_can_be_read(scheme, ground) -> None:
    colours = schemes()[scheme]
    for text in ("ink", "soft", "link", "warn"):
        assert contrast(colours[text], colours[ground]) >= 4.5, text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_symbols_can_be_seen(scheme) -> None:
    colours = schemes()[scheme]
    for number in range(len(figures.SYMBOLS)):
        assert contrast(colours[f"c{number}"], colours["ground"]) >= 3, number


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_network_looks_like_another_to_the_colour_blind(scheme) -> None:
    colours = schemes()[scheme]
    palette = [linear(colours[f"c{number}"]) for number in range(len(figures.SYMBOLS))]
    for matrix in DICHROMATS.values():
        seen = [
            [sum(weight * part for weight, part in zip(row, each, strict=True)) for row in matrix] for each in palette
        ]
        alike = {
            pair
            for pair in itertools.combinations(range(len(seen)), 2)
            if max(abs(a - b) for a, b in zip(seen[pair[0]], seen[pair[1]], strict=True)) < 0.02
        }
        assert not any(figures.symbol_of(one) == figures.symbol_of(other) for one, other in alike)


def test_colour_and_symbol_together_are_a_networks_own() -> None:
    count = len(figures.SYMBOLS)
    looks = [(figures.colour_of(index), figures.symbol_of(index)) for index in range(count * count)]
    assert len(set(looks)) == count * count
    assert len({symbol for _, symbol in looks[:count]}) == count, "the first ones differ in both"


def test_print_is_light() -> None:
    assert "@media screen and (prefers-color-scheme: dark)" in STYLE
