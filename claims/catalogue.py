"""All claims, in the order of the document."""

from __future__ import annotations

from claims.audio_carried_over import CLAIM as AUDIO_CARRIED_OVER
from claims.claim import Claim
from claims.codebook_use import CLAIM as CODEBOOK_USE
from claims.dimension_wise import CLAIM as DIMENSION_WISE
from claims.dual_codebook import CLAIM as DUAL_CODEBOOK
from claims.latent_perturbation import CLAIM as LATENT_PERTURBATION
from claims.post_training import CLAIM as POST_TRAINING
from claims.tail_drop import CLAIM as TAIL_DROP
from claims.token_shuffle import CLAIM as TOKEN_SHUFFLE

CLAIMS: tuple[Claim, ...] = (
    TAIL_DROP, DUAL_CODEBOOK, LATENT_PERTURBATION, POST_TRAINING, CODEBOOK_USE, TOKEN_SHUFFLE,
    DIMENSION_WISE, AUDIO_CARRIED_OVER,
)  # fmt: skip
