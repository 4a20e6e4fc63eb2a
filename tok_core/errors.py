"""Errors are sentences: what was received, what is legal, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TesseraError(ValueError):
    """A user's mistake, in one sentence; the command line prints it without a traceback.

    ``str(error)`` states what came in, what is legal and what to do.  Raise it (or a subclass)
    only for what a user can act on; a broken invariant of ours stays an ordinary exception.
    """


class ConfigError(TesseraError):
    """A config holds an unknown key, an illegal value or an impossible combination."""


class WeightsError(TesseraError):
    """A weights file is missing, unreadable, or does not fit the model key by key."""


class MediaError(TesseraError):
    """A picture or sound file cannot be read (empty, truncated, not media, too large)."""


class TokenError(TesseraError):
    """Tokens or a token file are malformed or belong to another tokenizer."""


def nearest(word: str, legal: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the legal name closest to ``word``, or ``""``."""
    match = difflib.get_close_matches(word, sorted(legal), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
