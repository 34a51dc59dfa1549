"""Samples of text during a run."""

import torch

from gptwright.model.decode import stream_ids
from gptwright.model.evaluating import evaluating
from gptwright.model.gpt import GPT
from gptwright.train.config import TrainConfig
from gptwright.train.data import RunData

PROMPT_TOKENS = 16
TEMPERATURE = 0.8


def sample_text(model: GPT, data: RunData, train: TrainConfig) -> str:
    """Return a continuation of the run's prompt, the same draw at every step, prompt included."""
    tokenizer = data.tokenizer
    ids = data.prompt(PROMPT_TOKENS) if train.sample_prompt is None else tokenizer.encode(train.sample_prompt)
    ids = ids[-data.context + 1 :] if len(ids) else data.prompt(1)
    prompt = torch.from_numpy(ids).to(data.device)[None]
    generator = torch.Generator(data.device).manual_seed(train.seed)
    with evaluating(model):
        new = stream_ids(model, prompt, train.sample_tokens, temperature=TEMPERATURE, generator=generator)
        return tokenizer.decode([*ids.tolist(), *(int(token) for token in new)])
