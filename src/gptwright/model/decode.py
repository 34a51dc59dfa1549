"""Decoding over token ids: prefill once, then one token at a time on decode states.

Shapes: B batch, T prompt, V vocabulary.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gptwright.errors import GptwrightError
from gptwright.model.states import ModelStates
from gptwright.ops.sampling import sample

if TYPE_CHECKING:
    from gptwright.model.gpt import GPT

Overflow = Literal["slide", "refuse"]


def check_sampling(max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Refuse sampling settings that have no meaning."""
    if max_new_tokens < 0:
        raise GptwrightError(f"max_new_tokens is {max_new_tokens} and cannot be negative; use 0 or more")
    if not temperature >= 0 or temperature == float("inf"):
        raise GptwrightError(f"temperature is {temperature} and must be 0 or more; 0 takes the likeliest token")
    if top_k is not None and top_k < 1:
        raise GptwrightError(f"top_k is {top_k} and must be at least 1; leave it out to allow every token")
    if top_p is not None and not 0 < top_p <= 1:
        raise GptwrightError(f"top_p is {top_p} and must be above 0 and at most 1; leave it out to allow every token")


def check_room(model: "GPT", prompt: int, max_new_tokens: int, overflow: Overflow) -> None:
    """Refuse a prompt that has no token or no room, and new tokens without room unless the context may slide."""
    limit = model.config.position.limit(model.config.context(0))
    if prompt < 1:
        raise GptwrightError("the prompt has no token; give at least one")
    if limit is None:
        return
    kind = f"{model.config.position.type} positions end at max_seq_len {limit}"
    if prompt > limit:
        raise GptwrightError(f"the prompt has {prompt} tokens, but {kind}; shorten the prompt")
    if overflow == "refuse" and prompt + max_new_tokens > limit:
        raise GptwrightError(
            f"the prompt has {prompt} tokens and {max_new_tokens} new ones were asked for, but {kind}; shorten the "
            f"prompt, ask for at most {limit - prompt} new tokens, or let the context slide"
        )


@torch.no_grad()
def stream_ids(
    model: "GPT",
    ids: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    padding_mask: Tensor | None = None,
    overflow: Overflow = "slide",
) -> Iterator[Tensor]:
    """Yield the next token (B,) of every row, ``max_new_tokens`` times, after ``ids`` (B, T) padded on the left.

    Where positions end, ``slide`` goes on from the latest half of the context, read anew.
    """
    check_sampling(max_new_tokens, temperature, top_k, top_p)
    check_room(model, ids.shape[1], max_new_tokens, overflow)
    window = _Window(model, ids, padding_mask, max_new_tokens)
    for _ in range(max_new_tokens):
        last = window.read()  # (B, D)
        token = sample(model.logits(last), temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        yield token
        window.add(token)


class _Window:
    """The tokens that decoding looks back on, and the decode states that have seen them."""

    def __init__(self, model: "GPT", ids: Tensor, mask: Tensor | None, room: int) -> None:
        self.model = model
        self.limit = model.config.position.limit(model.config.context(0))
        self.ids = ids  # (B, T) all tokens since the last slide
        self.mask = None if mask is None else mask.bool()
        self.fed, self.room = 0, room
        self.states = self._fresh()

    def _fresh(self) -> ModelStates:
        length = self.ids.shape[1] + self.room
        return self.model.init_states(batch=len(self.ids), length=min(length, self.limit or length))

    def read(self) -> Tensor:
        """Feed what has not been fed yet; return the last position's vectors (B, D), which alone need logits."""
        if self.limit is not None and self.ids.shape[1] > self.limit:
            self._slide()
        feed = self.ids[:, self.fed :]
        mask = None if self.mask is None else self.mask[:, self.fed :]
        self.fed = self.ids.shape[1]
        seq = self.model.describe(feed, mask, None, self.states)
        return self.model.hidden(feed, seq, self.states)[:, -1]

    def add(self, token: Tensor) -> None:
        """Append one token (B,) to every row."""
        self.ids = torch.cat((self.ids, token[:, None]), 1)
        if self.mask is not None:
            self.mask = torch.cat((self.mask, torch.ones_like(token, dtype=torch.bool)[:, None]), 1)

    def _slide(self) -> None:
        assert self.limit is not None
        keep = max(1, self.limit // 2)
        self.ids = self.ids[:, -keep:]
        self.mask = None if self.mask is None else self.mask[:, -keep:]
        self.fed, self.states = 0, self._fresh()


def generate_ids(
    model: "GPT",
    ids: Tensor,
    max_new_tokens: int = 50,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    do_sample: bool = True,
    seed: int | None = None,
    padding_mask: Tensor | None = None,
    eos_id: int | None = None,
    overflow: Overflow = "slide",
) -> Tensor:
    """Return ``ids`` (B, T) followed by ``max_new_tokens`` new ones: (B, T + max_new_tokens).

    Args:
        model: the model, which is put into eval mode for the time being.
        ids: prompts, padded on the left where ``padding_mask`` is False.
        max_new_tokens: tokens to add to every row.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: sample among this many likeliest tokens.
        top_p: sample among the likeliest tokens that together reach this probability.
        do_sample: False takes the likeliest token, whatever the temperature.
        seed: makes the draw repeatable without touching torch's global generator.
        padding_mask: (B, T) bool, True at real tokens.
        eos_id: stop when every row has produced it; rows go on with it once they have.
        overflow: where positions end, ``slide`` goes on from the latest half of the context, ``refuse`` does not begin.
    """
    generator = None if seed is None else torch.Generator(ids.device).manual_seed(seed)
    was_training = model.training
    model.eval()
    out, done = [ids], torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    try:
        for token in stream_ids(
            model,
            ids,
            max_new_tokens,
            temperature=temperature if do_sample else 0,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
            padding_mask=padding_mask,
            overflow=overflow,
        ):
            if eos_id is not None:
                token = torch.where(done, eos_id, token)
                done = done | (token == eos_id)
            out.append(token[:, None])
            if eos_id is not None and bool(done.all()):
                break
    finally:
        model.train(was_training)
    return torch.cat(out, 1)
