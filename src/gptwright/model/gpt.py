"""The GPT: tokens in, logits out, through interchangeable parts.

Shapes: B batch, T query positions, D d_model, E width of the token embedding, V vocabulary.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptwright.errors import GptwrightError
from gptwright.model.block import WIRINGS
from gptwright.model.config import ModelConfig
from gptwright.model.decode import generate_ids
from gptwright.model.init import initialise
from gptwright.model.recompute import Recompute, run_layer
from gptwright.model.states import ModelStates
from gptwright.model.vocabulary import unknown
from gptwright.nn.state.base import State
from gptwright.ops.loss import chunked_loss, softcapped
from gptwright.ops.precision import Precision
from gptwright.ops.sequence import Sequence


class GPT(nn.Module):
    """A decoder-only transformer built from a `ModelConfig`, initialised under torch's current seed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: Any = None
        """The run's tokenizer, when the model was loaded from one that has it."""
        self.settings: Any = None
        """The settings of the run that the model was loaded from, with its data."""
        self.precision: Precision | None = None
        """The precision that the run computed in."""
        self.gradient_checkpointing: Recompute | bool = "none"
        """What training computes again in the backward pass instead of keeping it; True means `block`."""
        self.token_embedding = nn.Embedding(config.require_vocab_size(), config.embedding_width)
        if config.embedding_width != config.d_model:
            self.embedding_proj = nn.Linear(config.embedding_width, config.d_model, bias=False)
        if config.embedding_norm is not None:
            self.embedding_norm = config.embedding_norm.build(config.context(0))
        self.position = config.position.build(config.context(0))
        self.dropout = nn.Dropout(config.dropout)
        block = WIRINGS[config.wiring]
        self.layers = nn.ModuleList(block(config, index) for index in range(config.n_layers))
        self.final_norm = nn.Identity() if config.wiring == "post" else config.norm.build(config.context(0))
        self.lm_head = nn.Linear(config.d_model, config.require_vocab_size(), bias=config.head_bias)
        if config.tie_embeddings:
            self.lm_head.weight = self.token_embedding.weight
        initialise(self, config)

    def forward(
        self,
        ids: Tensor,
        *,
        padding_mask: Tensor | None = None,
        segments: Tensor | None = None,
        states: ModelStates | None = None,
    ) -> Tensor:
        """Return the logits (B, T, V) of the token after each of ``ids`` (B, T).

        Args:
            ids: token ids, int64.
            padding_mask: (B, T) bool, True at real tokens; padding may stand on either side.
            segments: (B, T) int, packed documents: each has its number, 0 is padding.
            states: decode states; the tokens then follow those fed before.

        Raises:
            GptwrightError: shapes or ids do not fit, or there are more positions than the model has.
        """
        return self.logits(self.hidden(ids, self.describe(ids, padding_mask, segments, states), states))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of vectors (..., D) that `hidden` returned."""
        return softcapped(self.lm_head(hidden), self.config.logit_softcap)

    def summed_loss(
        self, hidden: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> Tensor:
        """Return the summed cross-entropy of ``targets`` (B, T), without holding all logits of ``hidden`` (B, T, D).

        ``label_smoothing`` and ``z_loss`` are those of `gptwright.loss`, for training; validation uses neither.
        """
        return chunked_loss(
            hidden.flatten(0, 1),
            self.lm_head.weight,
            targets.flatten(),
            bias=self.lm_head.bias,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            softcap=self.config.logit_softcap,
        )

    def describe(
        self,
        ids: Tensor,
        padding_mask: Tensor | None = None,
        segments: Tensor | None = None,
        states: ModelStates | None = None,
    ) -> Sequence:
        """Return the sequence that ``ids`` (B, T) and what is said about them amount to."""
        _check_ids(ids, padding_mask, segments, states)
        if states is not None:
            return states.describe(ids.shape[1], padding_mask, segments)
        if segments is not None:
            return Sequence.packed(segments)
        if padding_mask is not None:
            return Sequence.padded(padding_mask)
        return Sequence.plain(*ids.shape, device=ids.device)

    def hidden(self, ids: Tensor, seq: Sequence, states: ModelStates | list[Any] | None = None) -> Tensor:
        """Return the vectors (B, T, D) that the head reads, for ``ids`` described by ``seq``."""
        if not seq.ragged:  # whoever moves rows one by one knows where each of them stands
            self._check_positions(seq)
        x = self.dropout(self.position(self._enter(ids), seq))
        for index, layer in enumerate(self.layers):
            if states is None:
                x = run_layer(layer, self.gradient_checkpointing, x, seq)
            else:
                x = layer(x, seq, states[index])
        if isinstance(states, ModelStates):
            states.advance(seq)
        return self.final_norm(x)

    def init_states(
        self,
        batch: int,
        length: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ModelStates:
        """Return fresh decode states for ``batch`` rows of about ``length`` tokens; caches grow when it is passed."""
        layers: list[State] = []
        for layer in self.layers:
            place = device or next(layer.parameters()).device  # each beside its layer, wherever that stands
            layers.append(layer.attention.init_state(batch, length, device=place, dtype=dtype))  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        return ModelStates(layers, batch, device or self.device)

    def generate(self, input_ids: Tensor, max_new_tokens: int = 50, **sampling: Any) -> Tensor:
        """Continue ``input_ids`` (B, T) and return them with the new tokens; see `model.decode.generate_ids`."""
        return generate_ids(self, input_ids, max_new_tokens, **sampling)

    def twin(self, dtype: torch.dtype) -> "GPT":
        """Return a copy of this model with its weights in ``dtype``."""
        shared = {id(x): x for x in (self.tokenizer, self.settings, self.precision)}
        return copy.deepcopy(self, shared).to(dtype)

    def num_params(self, *, non_embedding: bool = False) -> int:
        """Count parameters, shared ones once; ``non_embedding`` leaves out the token and position tables."""
        total = sum(p.numel() for p in self.parameters())
        if not non_embedding:
            return total
        return total - self.token_embedding.weight.numel() - sum(p.numel() for p in self.position.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights compute in."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def _enter(self, ids: Tensor) -> Tensor:
        """Return the vectors (B, T, D) that enter the residual stream, without positions."""
        x = self._embed(ids)  # (B, T, E)
        if self.config.embedding_width != self.config.d_model:
            x = self.embedding_proj(x)  # (B, T, D)
        if self.config.embedding_norm is not None:
            x = self.embedding_norm(x)
        return x if self.config.embedding_factor == 1 else x * self.config.embedding_factor

    def _embed(self, ids: Tensor) -> Tensor:
        try:
            return F.embedding(ids, self.token_embedding.weight)
        except IndexError:
            raise unknown(int(ids.min()), int(ids.max()), self.config.require_vocab_size()) from None

    def _check_positions(self, seq: Sequence) -> None:
        limit = self.config.position.limit(self.config.context(0))
        if limit is None or torch.compiler.is_compiling():
            return
        needed = seq.start + len(seq) if seq.start is not None else int(seq.positions.max()) + 1
        if needed > limit:
            raise GptwrightError(
                f"{needed} tokens were given, but {self.config.position.type} positions end at max_seq_len {limit}; "
                "shorten the input, or use positions that do not end (rotary)"
            )


def _check_ids(ids: Tensor, padding_mask: Tensor | None, segments: Tensor | None, states: ModelStates | None) -> None:
    if ids.ndim != 2:
        raise GptwrightError(
            f"ids have shape {tuple(ids.shape)}, and must be (batch, length); use ids[None] for one row"
        )
    if ids.shape[1] == 0:
        raise GptwrightError(f"ids have shape {tuple(ids.shape)}; give at least one token a row")
    if ids.dtype not in (torch.int64, torch.int32):
        raise GptwrightError(f"ids are {ids.dtype}, and must be whole numbers; use ids.long()")
    if padding_mask is not None and segments is not None:
        raise GptwrightError("padding_mask and segments were both given; segments say it all (0 is padding), use one")
    for name, given in (("padding_mask", padding_mask), ("segments", segments)):
        if given is not None and given.shape != ids.shape:
            raise GptwrightError(
                f"{name} has shape {tuple(given.shape)} and ids {tuple(ids.shape)}; they must be equal"
            )
    if states is not None and states.batch != ids.shape[0]:
        raise GptwrightError(
            f"states were made for {states.batch} rows and ids have {ids.shape[0]}; "
            f"use model.init_states(batch={ids.shape[0]}, ...)"
        )
