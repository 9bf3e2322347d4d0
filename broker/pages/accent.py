"""A tenant's colour as a style sheet that stays legible, whatever the colour, on the light and on the dark ground.

Contrast is WCAG 2.2's: 4.5 for text and links, 3 for the rim of what has to be seen as a button. The button itself
keeps the colour, under white or black text.
"""

from __future__ import annotations

import re
from functools import lru_cache

Colour = tuple[int, int, int]

_WRITTEN = re.compile(r"#[0-9a-f]{6}")
_WHITE: Colour = (255, 255, 255)
_BLACK: Colour = (0, 0, 0)
# The grounds of style.css that accents stand on, hardest first: the nearest to the middle decides.
_LIGHT = "#f3f5f9"
_DARK = "#1d212b"


def is_colour(text: object) -> bool:
    return isinstance(text, str) and _WRITTEN.fullmatch(text) is not None


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio, 1 to 21."""
    lighter, darker = sorted((_luminance(_read(one)), _luminance(_read(other))), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def legible(colour: str, ground: str, ratio: float) -> str:
    """The colour nearest to `colour`, towards black or white, that stands out from `ground` by `ratio`."""
    towards = _BLACK if _luminance(_read(ground)) > 0.18 else _WHITE
    for step in range(101):
        mixed = _mixed(_read(colour), towards, step / 100)
        if contrast(mixed, ground) >= ratio:
            return mixed
    return _written(towards)


def on(colour: str) -> str:
    """White or black, whichever is read better on `colour`; one of them always has 4.5."""
    return max("#ffffff", "#000000", key=lambda text: contrast(text, colour))


@lru_cache(maxsize=256)
def sheet(colour: str) -> bytes:
    """The style sheet that gives the pages this accent."""
    light, dark = _rules(colour, _LIGHT), _rules(colour, _DARK)
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n".encode()


def _rules(colour: str, ground: str) -> str:
    accent, rim = legible(colour, ground, 4.5), legible(colour, ground, 3)
    return f"--accent:{accent};--fill:{colour};--on-fill:{on(colour)};--rim:{rim}"


def _read(colour: str) -> Colour:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _written(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _mixed(colour: Colour, other: Colour, share: float) -> str:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return _written((red, green, blue))


def _luminance(colour: Colour) -> float:
    red, green, blue = (
        part / 255 / 12.92 if part / 255 <= 0.04045 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
