"""Before the heavy work: which items can be used, and a sentence where that is not all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.contestant import Contestant
from eval.contestants_folder import FolderContestant
from eval.item_list import Item, ItemList, bad_items_error, list_items, some
from eval.originals import with_rate
from eval.protocol import Protocol
from eval.run import damaged
from tok_core.command_line import say
from tok_core.errors import MediaError


def usable_items(
    data: str | Path, protocol: Protocol, contestants: Sequence[Contestant], *,
    skip_bad: bool = False, count: int | None = None,
) -> tuple[ItemList, Protocol, tuple[str, ...]]:  # fmt: skip
    """List and check the items of a run.

    Every original is read once, and so is every finished file of a folder contestant; an item that
    one of them lacks is left out for all, so that all are judged on the same items.

    Args:
        data: folder or file. protocol: of the run. contestants: all of them.
        skip_bad: leave damaged and unpaired items out, counted and named.
        count: first so many items; None takes the protocol's own, or all.

    Returns:
        the good items, the protocol with its sample rate, and sentences for every score.

    Raises:
        MediaError: damaged items, or names without a partner, unless ``skip_bad``; nothing left.
    """
    listed = list_items(data, protocol.sense)
    total = len(listed)
    warnings = []
    wanted = count if count is not None else protocol.samples
    if wanted is not None and wanted > total and count is None:
        warnings.append(
            f"protocol '{protocol.name}' takes {wanted} items and there are {total}; the numbers "
            "are not comparable with published ones"
        )
        say(warnings[-1])
    listed = listed.first(wanted)
    protocol, sentence = with_rate(protocol, listed)
    warnings += [sentence] if sentence else []
    bad = damaged(listed.items, protocol)
    for one in contestants:
        found = one.bad_items(listed)
        whole = count is None and wanted is None
        complaint = one.complaint if isinstance(one, FolderContestant) and whole else None
        if complaint and not skip_bad:
            raise MediaError(
                f"{complaint}, between {listed.folder} and {one.identity.get('spec', one.name)}; "
                "give both the same names, or leave them out with --skip-bad"
            )
        if complaint:
            warnings.append(complaint)
        known = {item.name for item, _ in bad}
        bad += [(item, reason) for item, reason in found if item.name not in known]
    if bad and not skip_bad:
        raise bad_items_error(bad, len(listed))
    if bad:
        listed, sentence = without_bad(listed, bad)
        warnings.append(sentence)
        say(sentence)
    return listed, protocol.changed(samples=len(listed)), tuple(warnings)


def without_bad(items: ItemList, bad: Sequence[tuple[Item, str]]) -> tuple[ItemList, str]:
    """Return the list without bad items, and the sentence that names them.

    Raises:
        MediaError: nothing is left.
    """
    left_out = {item.name for item, _ in bad}
    kept = tuple(item for item in items.items if item.name not in left_out)
    if not kept:
        raise MediaError(
            f"none of the {len(items)} files can be used; the first: {bad[0][1]}"
        )
    sentence = (
        f"{len(bad)} of {len(items)} items were left out: {some([item.name for item, _ in bad])}"
    )
    return ItemList(kept, items.folder, items.sense), sentence
