"""Decoding over token ids: prefill once, then one token at a time on decode states.

Shapes: B batch, T prompt, V vocabulary.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gptwright.errors import GptwrightError
from gptwright.ops.sampling import sample

if TYPE_CHECKING:
    from gptwright.model.gpt import GPT


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


def check_room(model: "GPT", prompt: int, max_new_tokens: int) -> None:
    """Refuse a prompt that leaves no room; a model without a last position has room for everything."""
    limit = model.config.position.limit(model.config.context(0))
    if prompt < 1:
        raise GptwrightError("the prompt has no token; give at least one")
    if limit is not None and prompt + max_new_tokens > limit:
        raise GptwrightError(
            f"the prompt has {prompt} tokens and {max_new_tokens} new ones were asked for, but "
            f"{model.config.position.type} positions end at max_seq_len {limit}; shorten the prompt "
            f"or ask for at most {max(0, limit - prompt)} new tokens"
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
) -> Iterator[Tensor]:
    """Yield the next token (B,) of every row, ``max_new_tokens`` times, after ``ids`` (B, T) padded on the left."""
    check_sampling(max_new_tokens, temperature, top_k, top_p)
    check_room(model, ids.shape[1], max_new_tokens)
    states = model.init_states(batch=len(ids), length=ids.shape[1] + max_new_tokens)
    feed = ids
    for _ in range(max_new_tokens):
        seq = model.describe(feed, padding_mask, None, states)
        last = model.hidden(feed, seq, states)[:, -1]  # (B, D): only the last position needs logits
        token = sample(model.lm_head(last), temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        yield token
        feed, padding_mask = token[:, None], None


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
