"""The card of a saved pipeline: what it is, how to load it, whose tokens, under which licence."""

from __future__ import annotations

from typing import Any

README = "README.md"
MARK = "<!-- written by save_pretrained; a card without this line is left as it is -->"
CARD = """\
---
library_name: tessera
license: {licence_id}
pipeline_tag: {tag}
---
{mark}

# {name}

A `{kind}` over the tokens of a `{tokenizer}`: {made}.

| | |
|---|---|
| generator | `{kind}`, {generator_size:.2f} M parameters, weights `{generator_hash}` |
| tokenizer | `{tokenizer}`, {tokenizer_size:.2f} M parameters, weights `{tokenizer_hash}` |
| code hash | `{code_hash}` |
| tokens | {tokens} |
| condition | {condition} |
| licence | {licence} |

```python
from generators.pipelines import {pipeline}

pipe = {pipeline}.from_pretrained("{name}")
made = pipe({call})
```

Any tokenizer with this code hash decodes its tokens, such as one whose decoder alone was trained
further: `{pipeline}.from_pretrained("{name}", tokenizer=tokenizer)`.
"""
NOT_STATED = "not stated; ask whoever trained it, and see that of the data"


def pipeline_card(pipe: Any, name: str, licence: str | None = None) -> str:
    """Return the card of a pipeline as Markdown with the hub's front matter.

    Args:
        pipe: `TokenImagePipeline` or `TokenAudioPipeline`.
        name: hub id or folder that it is loaded by.
        licence: the hub's word for it, such as ``apache-2.0``; None says that it is not stated.

    Example:
        >>> "code hash" in pipeline_card(pipe, "me/cats", "cc-by-4.0")  # doctest: +SKIP
        True
    """
    from generators.contract import described

    generator, tokenizer, picture = pipe.generator, pipe.tokenizer, pipe.modality == "image"
    condition, call = "none", ""
    if generator.captions is not None:
        length, width = generator.captions
        condition = f"captions of up to {length} features, {width} wide"
        call = f"prompt_embeds=features  # (captions, positions, {width})"
    elif generator.classes:
        condition, call = f"labels 0 to {generator.classes - 1}", "[0], guidance_scale=2.0"
    return CARD.format(
        mark=MARK, name=name, kind=type(generator).__name__, tokenizer=type(tokenizer).__name__,
        pipeline=type(pipe).__name__, made="pictures" if picture else "sounds",
        tag=_tag(picture, generator.captions is not None), tokens=described(generator.spec),
        generator_size=_millions(generator), generator_hash=generator.weights_hash()[:16],
        tokenizer_size=_millions(tokenizer), tokenizer_hash=tokenizer.weights_hash()[:16],
        code_hash=tokenizer.code_hash(), condition=condition, call=call,
        licence=licence or NOT_STATED, licence_id=licence or "unknown",
    )  # fmt: skip


def _tag(picture: bool, captions: bool) -> str:
    """Return the hub's word for a task."""
    if captions:
        return "text-to-image" if picture else "text-to-audio"
    return "unconditional-image-generation" if picture else "other"


def _millions(model: Any) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6
