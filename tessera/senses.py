"""Which sense the given files belong to, so that the model of that sense is the default."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from tessera import files
from tessera.modality import CODECS, codec_class
from tessera.report import say
from tok_core.errors import MediaError, TokenError

TOKEN_SUFFIX = ".tok"
FIRST = "image"  # the sense of files that tell nothing
_LOOKED_AT = 16  # token files read until one tells its sense


def readable(sense: str) -> frozenset[str]:
    """Return the extensions that the codec of a sense reads."""
    return codec_class(sense).readable


def sense_of(inputs: Sequence[str]) -> str:
    """Return "image" or "audio" for pictures, sounds or token files.

    Args:
        inputs: files, folders, globs as the user gave them.

    Returns:
        the sense of the only kind of files there; of pictures and sounds together, pictures (a
        sentence on stderr says which files are left).

    Raises:
        MediaError: nothing of any kind there.
    """
    by_sense = {sense: readable(sense) for sense in CODECS}
    known = {TOKEN_SUFFIX}.union(*by_sense.values())
    found = [item.path for item in files.find(inputs, known)]
    count = Counter(
        sense for path in found for sense, kinds in by_sense.items() if _is(path, kinds)
    )
    present = [sense for sense in CODECS if count[sense]]
    if len(present) > 1:
        taken, left = present[0], present[1]
        say(
            f"the {count[left]} {left} files there are left to a run of their own, with --model "
            f"and the name of a model of that sense; this one takes the {taken} files"
        )
    if present:
        return present[0]
    return _sense_of_tokens([path for path in found if _is(path, {TOKEN_SUFFIX})])


def files_of(sense: str, inputs: Sequence[str]) -> list[str]:
    """Return those inputs that name or hold a file of a sense."""
    chosen = []
    for text in inputs:
        try:
            found = files.find([text], readable(sense))
        except MediaError:
            continue
        if any(_is(item.path, readable(sense)) for item in found):
            chosen.append(text)
    return chosen


def _is(path: Path, suffixes: Collection[str]) -> bool:
    return path.suffix.lower() in suffixes


def _sense_of_tokens(paths: Sequence[Path]) -> str:
    """Tell pictures from sounds by the size that a token file states."""
    from tok_core.token_file import read_token_file

    for path in paths[:_LOOKED_AT]:
        try:
            extent = read_token_file(path).extent
        except TokenError:
            continue  # decode will say what is wrong with it
        if extent:
            return "audio" if len(extent) == 1 else "image"
    return FIRST
