"""Numbers and names as people read them: decimals by column, one printable line of text."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

# Control characters, lone surrogates, and the marks that turn the direction of writing.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(text: str) -> str:
    """Return the text without line breaks, terminal codes and half characters.

    Example:
        >>> one_line("a\\nb")
        'a b'
    """
    shown = [
        " " if unicodedata.category(letter) in _UNPRINTABLE or letter in _TURNING else letter
        for letter in text
    ]
    return " ".join("".join(shown).split())


def decimals(values: Sequence[float], *, rates: bool = False) -> int:
    """Return how many decimals a column needs: those that papers give numbers of this size.

    Args:
        values: of the column. rates: whether they are rates or counts: whole ones stand without
            decimals, and the smallest keeps two digits.

    Example:
        >>> decimals([24.913, 30.2]), decimals([0.81, 1.0]), decimals([12.0], rates=True)
        (2, 4, 0)
    """
    finite = [abs(value) for value in values if math.isfinite(value)]
    if not finite or max(finite) == 0 or (rates and all(value % 1 == 0 for value in finite)):
        return 0 if finite and rates else 2
    largest = max(finite)
    if largest <= 1:
        usual = 4 if largest >= 0.01 else min(8, 2 - math.floor(math.log10(largest)))
    else:
        usual = 3 if largest < 10 else 2 if largest < 1000 else 1
    smallest = min(value for value in finite if value)
    needed = 1 - math.floor(math.log10(smallest)) if rates and smallest >= 1e-4 else 0
    return max(usual, min(4, needed))


def shown(value: float, places: int) -> str:
    """Return a number with so many decimals; a small one that would vanish keeps two digits."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if abs(value) >= 1e9:
        return f"{value:.3e}"
    text = f"{value:.{places}f}"
    if value and float(text) == 0:
        return f"{value:.1e}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text


def plain_number(value: float) -> str:
    """Return a budget or a setting as short as it can be said: ``64``, ``0.5``."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
