"""Text in, text out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gptwright.errors import GptwrightError
from gptwright.model.decode import check_sampling, stream_ids
from gptwright.model.gpt import GPT


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    max_new_tokens: int = 200
    """Tokens to add at most."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Sample among this many likeliest tokens."""
    top_p: float | None = None
    """Sample among the likeliest tokens that together reach this probability."""
    seed: int | None = None
    """Makes the draw repeatable."""


def generate(
    model: GPT,
    prompt: str,
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> str:
    """Return ``prompt`` continued by ``model``, which `gptwright.load` returned.

    Raises:
        GptwrightError: the settings have no meaning, or the prompt does not fit.
    """
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    return prompt + "".join(stream(model, prompt, sampling))


def stream(model: GPT, prompt: str, sampling: Sampling) -> Iterator[str]:
    """Yield the continuation of ``prompt``: a piece a token, of whole characters or empty, then what was left over."""
    check_sampling(sampling.max_new_tokens, sampling.temperature, sampling.top_k, sampling.top_p)
    tokenizer = _tokenizer(model)
    ids = encode_prompt(model, prompt)
    generator = torch.Generator(model.device)
    generator.manual_seed(sampling.seed) if sampling.seed is not None else generator.seed()
    text = tokenizer.stream()
    for token in stream_ids(
        model,
        torch.tensor([ids], device=model.device),
        sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        generator=generator,
    ):
        if int(token) == tokenizer.eot_id:
            break
        yield text.push(int(token))
    yield text.flush()


def encode_prompt(model: GPT, prompt: str) -> list[int]:
    """Return the token ids of ``prompt``; an empty one begins a new document.

    Raises:
        GptwrightError: it is longer than the model's context, or empty where no token begins a document.
    """
    tokenizer, limit = _tokenizer(model), model.config.max_seq_len
    ids = tokenizer.encode(prompt).tolist()
    if not ids and tokenizer.eot_id is None:
        raise GptwrightError("the prompt is empty and this tokenizer has no token that begins a text; give a prompt")
    if len(ids) > limit:
        raise GptwrightError(
            f"the prompt has {len(ids)} tokens and the model's context (max_seq_len) is {limit}; shorten the prompt "
            "or train with a larger model.max_seq_len"
        )
    return ids or [tokenizer.eot_id]


def _tokenizer(model: GPT) -> Any:
    if model.tokenizer is None:
        raise GptwrightError(
            "this model has no tokenizer; load a run with gptwright.load('runs/NAME'), or use token ids"
        )
    return model.tokenizer
