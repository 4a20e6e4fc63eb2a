"""RAR: an autoregressive model that has learned every order and generates in raster order.

    slot   0       1          2              3
    in     start   condition  code at o_0    code at o_1   ...   + positions of o, + next position
    out            o_0        o_1            o_2           ...   logits of the code at that place

Each slot says where its own code lies and, by a second table, which place it is to predict: without
the latter two orders with the same beginning could not be told apart.  Condition and slot number
set the norms of every block.  Yu et al., "Randomized Autoregressive Visual Generation", arXiv
2411.00776; with RobusTok's tokens Qiu et al., arXiv 2509.12474.  Letters: B samples, L positions, o
an order of them, F factors, V vocabulary, W width, R rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from generators.adaln_block import AdaLNTrunk, initialise_adaln
from generators.condition_embedding import ConditionEmbedding
from generators.contract import UNCONDITIONAL, Condition, Generator, GeneratorOutput
from generators.device_tables import DeviceTables
from generators.factors import padded_logits
from generators.random_order import check_orders, permuted, random_orders, restored
from generators.rar_config import RARConfig, parse_rar_config
from generators.rar_session import RARSession, StaticRARSession
from generators.token_loss import token_losses
from tok_core.errors import TokenError
from tok_core.fast_linear import Linear
from tok_core.official_source import OfficialSource


class RAR(OfficialSource, Generator):
    """Class-conditional generator of codes of a fixed number; the defaults are RAR-B's.

    Args:
        spec: JSON of the tokenizer's `TokenSpec`, all sizes fixed. Several factors at one position
            are drawn at once, each from logits of its own.
        width, layers, heads, hidden: W, blocks, heads, width inside of the MLPs (None is 4 W).
            RAR-B 768, 24, 16; L 1024, 24, 16; XL 1280, 32, 16; XXL 1408, 40, 16, 6144.
        classes: number of labels; 0 is an unconditional model.
        dropout: of what every branch adds. attention_dropout: of attention weights.
        condition_dropout: chance of a label to be dropped in training.
        norm_eps: of every layer norm.
        code_hash: of the tokenizer whose tokens it was trained on.

    Attributes:
        order_ratio: chance of a sample to be shuffled in training mode; a trainer sets it from
            `generators.random_order.RandomnessAnnealing` before every step.

    Raises:
        ConfigError: sizes that do not go together, a spec without fixed sizes. TokenError: no
            token spec.

    Example:
        >>> model = RAR(tokenizer.spec.to_json(), classes=1000)  # doctest: +SKIP
        >>> codes = sample(model, Condition(labels), seeds=[0, 1])  # doctest: +SKIP
    """

    settings: RARConfig
    static_steps = True
    _supports_gradient_checkpointing = True
    _no_split_modules = ["AdaLNBlock"]  # sharded as one
    _repeated_blocks = ["AdaLNBlock"]  # for diffusers' compile_repeated_blocks()
    # The official rule goes by parts of names: "embed", and "ln", which the last adaLN's name has.
    no_decay = (
        "tokens.", "condition.", "positions", "slots", "target_positions", "trunk.modulation.",
    )  # fmt: skip
    official_importer = "generators.import_rar:import_rar"

    @register_to_config
    def __init__(
        self,
        spec: Any = None,
        width: int = 768,
        layers: int = 24,
        heads: int = 16,
        hidden: int | None = None,
        classes: int = 1000,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        condition_dropout: float = 0.1,
        norm_eps: float = 1e-6,
        code_hash: str | None = None,
    ) -> None:
        config = parse_rar_config(locals())
        super().__init__()
        self.settings = config
        self.register_to_config(spec=config.spec.to_json())
        self.order_ratio = 1.0
        codes = sum(config.spec.vocabulary)
        self.condition = ConditionEmbedding(width, classes=classes, dropout=condition_dropout)
        # All factors in one table, one after the other.
        self.tokens = nn.Embedding(codes, width)
        self.start = nn.Parameter(torch.empty(width))
        # Rows 0 and 1 belong to the slots before the codes; so do those of the slot numbers.
        self.positions = nn.Parameter(torch.empty(config.length + 2, width))
        self.slots = nn.Parameter(torch.empty(config.length + 2, width))
        self.target_positions = nn.Parameter(torch.empty(config.length, width))
        self.trunk = AdaLNTrunk(
            layers, width, heads=heads, hidden=config.hidden, eps=norm_eps, dropout=dropout,
            attention_dropout=attention_dropout,
        )  # fmt: skip
        self.output = Linear(width, codes)
        self._tables = DeviceTables(config.tables)
        self._reset()

    @torch.no_grad()
    def _reset(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 or name == "start":
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        initialise_adaln(self.trunk)

    # -- what it is ------------------------------------------------------------------------------

    @property
    def tables(self) -> Mapping[str, Tensor]:
        """Constant tables, see `RARConfig.tables`."""
        return self._tables.on(self.start.device)

    def decays(self, name: str, parameter: Tensor) -> bool:
        """As every generator's; the start decays, too, which has more axes in published files."""
        return name == "start" or super().decays(name, parameter)

    # -- training --------------------------------------------------------------------------------

    def forward(
        self, codes: Tensor, *, condition: Condition = UNCONDITIONAL, orders: Tensor | None = None
    ) -> GeneratorOutput:
        """Predict every code from those before it in an order.

        Args:
            codes: int64 (B, *axes). condition: labels; some are dropped in training mode.
            orders: int64 (B, L) permutations; None is raster order, and in training mode a random
                one with chance ``order_ratio``.

        Returns:
            Logits, losses and statistics in sequence order, whatever the order of prediction.

        Raises:
            ConfigError: labels it cannot take. TokenError: codes or orders that do not fit.
        """
        self.spec.check(codes)
        sequence = self.spec.to_sequence(codes)
        batch, length, factors = sequence.shape
        if (length, factors) != (self.settings.length, self.spec.factors):
            raise TokenError(
                f"{length} positions of {factors} codes came in; this generator was made for "
                f"{self.settings.length} of {self.spec.factors}."
            )
        if orders is None:
            ratio = self.order_ratio if self.training else 0.0
            orders = random_orders(batch, length, ratio).to(codes.device)
        else:
            check_orders(orders, batch, length)
        embedded = self.condition(self.condition.checked(condition, batch), batch)
        logits = self.predict(permuted(sequence, orders)[:, :-1], orders, embedded)
        logits = restored(logits, orders)
        losses, statistics = token_losses(logits, sequence)
        return GeneratorOutput(logits, losses, statistics)

    def predict(self, codes: Tensor, orders: Tensor, condition: Tensor) -> Tensor:
        """Return float32 logits (R, n + 1, F, V) behind the condition and behind each of n codes.

        Args:
            codes: int64 (R, n, F) in the order of prediction, n from 0 to L.
            orders: int64 (R, L), where they lie. condition: (R, 1, W), embedded.
        """
        count = codes.shape[1]
        x = self.embedded(codes) + self.positions[2 + orders[:, :count]]
        x = torch.cat((self.prefix(condition), x), dim=1)
        target = self.target_positions[orders[:, : count + 1]]
        # The start predicts nothing, and neither does the last code.
        x = x + F.pad(target, (0, 0, 1, x.shape[1] - 1 - target.shape[1]))
        x = self.trunk(x, condition + self.slots[: count + 2])
        return self.logits(x[:, 1:])

    # -- sampling --------------------------------------------------------------------------------

    def session(self, condition: Condition, *, batch: int, guided: bool) -> RARSession:
        """Begin a generation in raster order; see `generators.sampling.sample`.

        Raises:
            ConfigError: labels it cannot take.
        """
        return RARSession(self, condition, batch=batch, guided=guided)

    def static_session(
        self, condition: Condition, *, batch: int, guided: bool
    ) -> StaticRARSession:
        """Begin a generation with steps of fixed shapes."""
        return StaticRARSession(self, condition, batch=batch, guided=guided)

    # -- parts -----------------------------------------------------------------------------------

    def embedded(self, codes: Tensor) -> Tensor:
        """Map codes (R, n, F) to (R, n, W), the sum over factors."""
        return self.tokens(codes + self.tables["starts"]).sum(dim=2)

    def prefix(self, condition: Tensor) -> Tensor:
        """Return the two slots (R, 2, W) before the codes."""
        start = self.start.expand(len(condition), 1, -1)
        return torch.cat((start, condition), dim=1) + self.positions[:2]

    def logits(self, x: Tensor) -> Tensor:
        """Map (R, n, W) to float32 logits (R, n, F, V), -inf behind a factor's own vocabulary."""
        return padded_logits(self.output(x).float().split(self.spec.vocabulary, dim=-1))
