"""Latent perturbation in training: decoders learn from codes that a generator might mistake.

    z --quantizer--> codes c, latents z^ --+-- losses, codebook: as ever
                                           |
            c' = for a share alpha of the tokens of a share beta of the items
                 one of the delta nearest codes, else c
                                           |
                       z' = z^ + sg(e(c') - e(c)) --> decoder

One line of a run config turns it on, for every tokenizer of the suite:

    perturbation: {alpha: 1.0, beta: 0.1, delta: 100}

Qiu et al. 2025, "Robust Latent Matters", arXiv 2503.08354.  Gradients pass the exchange straight
through, to the latents alone; commitment and codebook losses, statistics and the reported tokens
are those of the clean codes.  Nothing happens in eval mode, while a quantizer lets latents pass
unquantized, or where a decoder trains on given tokens.

Letters: B items of one process's batch, L places of an item's codes, e the quantizer's look-up.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from tok_core.code_search import CodeSearch
from tok_core.codebook import Codebook
from tok_core.contract import Tokenizer
from tok_core.errors import ConfigError
from tok_core.item_selection import chosen_items
from tok_core.latent_perturbation import (
    Perturbation,
    around_code,
    around_latent,
    replace_latents,
)
from tok_core.neighbour_table import code_neighbours
from tok_core.processes import sum_over_processes
from tok_core.vector_quantizer import Quantized

if TYPE_CHECKING:
    from tok_core.perturbation_config import PerturbationConfig

# Names among `tok_core.contract.TrainingOutput.features`, there where codes were replaced.
CLEAN_LATENTS = "clean_latents"
PERTURBED_CODES = "perturbed_codes"


# -- what a tokenizer holds --------------------------------------------------------------------


class TrainingDraws(NamedTuple):
    """The randomness of one batch, on the CPU.

    Attributes:
        items: bool (B,), which are chosen.
        chance: like the codes, in [0, 1): a token is drawn anew where it is not above alpha.
        rank: like the codes, int64 from 0: its place among the neighbours.
    """

    items: Tensor
    chance: Tensor
    rank: Tensor


class TrainingPerturbation:
    """Perturbation at work: strength of the present step, draws, and what there is to say.

    It is no part of a model's config or state; a trainer sets it and moves ``step``.

    Args:
        config: as the recipe states it.

    Attributes:
        step: optimizer steps done, which annealing looks at; set it before each step.
        asked: whether a tokenizer has ever handed its codes over.
        remarks: sentences that the trainer should show; it may clear them.

    Example:
        >>> tokenizer.perturbation = TrainingPerturbation(PerturbationConfig(beta=0.5))
        >>> tokenizer.train()(images).features["perturbed_codes"]
    """

    def __init__(self, config: PerturbationConfig) -> None:
        self.config = config
        self.step = 0
        self.asked = False
        self.remarks: list[str] = []
        self._warned = False

    @property
    def setting(self) -> Perturbation:
        """alpha, beta and delta of this step."""
        annealing = self.config.annealing
        return self.config if annealing is None else annealing.at_step(self.step, self.config)

    def draw(self, codes: Tensor, setting: Perturbation) -> TrainingDraws:
        """Draw for codes (B, ...), always from torch's generator on the CPU.

        So a seed means the same on every device and a checkpoint holds the whole state. The order
        is the official one: a chance for every token of the whole batch, then a rank for each.
        """
        batch = len(codes)
        items = chosen_items(batch, setting.beta, self.config.selection)
        chance = torch.rand(codes.shape, device="cpu")
        rank = torch.randint(setting.delta, codes.shape, device="cpu")
        return TrainingDraws(items, chance, rank)

    def replaced(
        self, codes: Tensor, searches: Sequence[CodeSearch], codebooks: Sequence[Codebook]
    ) -> Tensor:
        """Return the codes that the decoder gets, like ``codes``; see `replaced_codes`."""
        batch = len(codes)
        if batch and self.config.selects_nothing(batch):
            self._warn(batch)
            return codes
        sizes = [len(codebooks[search.factor].vectors) for search in searches]
        setting = self.setting
        if not setting.beta or not setting.alpha or not sizes:
            return codes
        setting = _clipped(setting, min(sizes))
        return replaced_codes(codes, searches, codebooks, setting, self.draw(codes, setting))

    def check_asked(self, model: object) -> None:
        """Raise ConfigError if a model has trained a step and never handed its codes over."""
        if not self.asked:
            raise ConfigError(
                f"perturbation is on but {type(model).__name__} does not perturb its codes in "
                "training; leave 'perturbation' out, or let its forward call "
                "tok_core.training_perturbation.decoder_latents."
            )

    def _warn(self, batch: int) -> None:
        if self._warned:
            return
        self._warned = True
        sentence = (
            f"perturbation chooses none of a batch of {batch}: int({batch} * "
            f"{self.config.beta:g}) is 0; {self.config.ways_out(batch)}, or use selection "
            "bernoulli"
        )
        self.remarks.append(sentence)
        warnings.warn(sentence, stacklevel=2)


def _clipped(setting: Perturbation, most: int) -> Perturbation:
    if setting.delta <= most:
        return setting
    return Perturbation(alpha=setting.alpha, beta=setting.beta, delta=most,
                        neighbourhood=setting.neighbourhood)  # fmt: skip


def attach_perturbation(model: object, config: PerturbationConfig) -> TrainingPerturbation:
    """Let a tokenizer perturb its codes in training from now on; see the module.

    Args:
        model: a tokenizer of any kind. config: as the recipe states it.

    Raises:
        ConfigError: a model without codes, or more neighbours than its smallest codebook has codes.
    """
    kind = type(model).__name__
    if not isinstance(model, Tokenizer):
        raise ConfigError(f"{kind} has no codes to perturb; leave 'perturbation' out.")
    smallest = min(len(book.vectors) for book in model.codebooks)
    if config.delta > smallest:
        raise ConfigError(
            f"perturbation.delta is {config.delta} but the smallest codebook of this {kind} has "
            f"{smallest} codes; give 1 to {smallest}."
        )
    model.perturbation = TrainingPerturbation(config)
    return model.perturbation


# -- the one call of every tokenizer -----------------------------------------------------------


class DecoderLatents(NamedTuple):
    """What goes on after quantization.

    Attributes:
        latents: what the decoder gets, like those of the quantizer.
        statistics: the quantizer's, with ``perturbation/changed``, the share of all codes that were
            replaced, while perturbation is on.
        features: ``clean_latents`` and ``perturbed_codes`` where any was, for `TrainingOutput`
            (tokenizers bring the codes to their own layout); a semantic loss may want the former.
    """

    latents: Tensor
    statistics: dict[str, Tensor]
    features: dict[str, Tensor]


def decoder_latents(
    tokenizer: Tokenizer, quantized: Quantized, lookup: Callable[[Tensor], Tensor]
) -> DecoderLatents:
    """Perturb what a quantizer made, if the tokenizer trains with perturbation.

    Every tokenizer calls it once, between quantization and decoder.

    Args:
        tokenizer: whose ``perturbation``, mode and ``codebooks`` count.
        quantized: of its quantizer, in the quantizer's own layout.
        lookup: of the quantizer: codes to latents in the layout of ``quantized.latents``, a sum
            over scales or levels where they are one.

    Raises:
        ConfigError: perturbation is on and the quantizer does not tell what it compared.

    Example:
        >>> out = decoder_latents(self, self.quantizer(z), self.quantizer.lookup)
        >>> picture = self.decoder(out.latents)
    """
    clean, codes, statistics = quantized.latents, quantized.codes, dict(quantized.statistics)
    perturbation = tokenizer.perturbation
    if perturbation is None or not tokenizer.training or codes.device.type == "meta":
        return DecoderLatents(clean, statistics, {})
    perturbation.asked = True
    if quantized.searches is None:
        raise ConfigError(
            f"the quantizer of {type(tokenizer).__name__} does not tell what it compared with its "
            "codes, so its codes cannot be perturbed; leave 'perturbation' out."
        )
    with torch.no_grad():
        new = codes
        if quantized.searches:
            new = perturbation.replaced(codes, quantized.searches, tokenizer.codebooks)
    statistics |= _statistics(perturbation, codes, new)
    if new is codes:
        return DecoderLatents(clean, statistics, {})
    latents = replace_latents(clean, codes, new, lookup, straight=quantized.straight)
    return DecoderLatents(
        latents, statistics, {CLEAN_LATENTS: clean, PERTURBED_CODES: new}
    )


@torch.no_grad()
def replaced_codes(
    codes: Tensor,
    searches: Sequence[CodeSearch],
    codebooks: Sequence[Codebook],
    setting: Perturbation,
    draws: TrainingDraws,
) -> Tensor:
    """Exchange drawn codes for neighbours; only for those are neighbours searched.

    Args:
        codes: int64 (B, ...) of a quantizer. searches: that made them.
        codebooks: of the tokenizer, as the searches number them.
        setting: alpha and neighbourhood. draws: for these codes.

    Returns:
        int64 like ``codes``; ``codes`` itself where nothing was drawn.

    Source: released training code of arXiv 2503.08354.
    """
    batch = len(codes)
    rank = draws.rank.reshape(batch, -1)
    # Rank 0 is the code itself in either neighbourhood.
    drawn = (draws.chance.reshape(batch, -1) <= setting.alpha) & (rank > 0)
    drawn &= draws.items.cpu()[:, None]
    if not bool(drawn.any()):
        return codes
    new = codes.reshape(batch, -1).clone()
    for search in searches:
        places = search.places
        mine = drawn[:, places.start : places.stop : places.step]
        if search.items is not None:
            mine = mine & search.items.cpu()[:, None]
        item, column = mine.nonzero(as_tuple=True)
        if not len(item):
            continue
        place = places.start + column * places.step
        ranks = rank[item, place].to(codes.device)
        item, column, place = (at.to(codes.device) for at in (item, column, place))
        book, own = codebooks[search.factor], new[item, place]
        if setting.neighbourhood == "latent":
            rows = search.rows.reshape(batch, len(places), -1)[item, column]
            new[item, place] = _around_latents(rows, own, ranks, book)
        else:
            new[item, place] = _around_codes(own, ranks, book)
    return new.view(codes.shape)


def _around_latents(rows: Tensor, own: Tensor, rank: Tensor, book: Codebook) -> Tensor:
    # The loss of this step will not be finite either, and whoever checks that says it better.
    if not bool(torch.isfinite(rows).all()):
        return own
    return around_latent(rows, rank, book)


def _around_codes(own: Tensor, rank: Tensor, book: Codebook) -> Tensor:
    each, which = own.unique(return_inverse=True)
    return around_code(which, rank, code_neighbours(book, each, int(rank.max()) + 1))


def _statistics(
    perturbation: TrainingPerturbation, codes: Tensor, new: Tensor
) -> Mapping[str, Tensor]:
    changed = torch.zeros((), device=codes.device)
    if new is not codes:
        changed = (new != codes).sum().float()
    both = sum_over_processes(torch.stack((changed, changed.new_tensor(codes.numel()))))
    found = {"perturbation/changed": both[0] / both[1].clamp(min=1)}
    if perturbation.config.annealing is not None:
        setting = perturbation.setting
        found["perturbation/alpha"] = changed.new_tensor(setting.alpha)
        found["perturbation/delta"] = changed.new_tensor(setting.delta)
    return found
