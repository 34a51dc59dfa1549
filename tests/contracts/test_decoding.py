"""The engine writes what the whole forward would: greedy ids of ragged prompts, over combinations of parts."""

import random

import pytest
import torch

from gptwright.check.models import build
from gptwright.generate.engine import Engine, Request
from gptwright.generate.sampling import Sampling

from . import parts

TIE = 3e-5
"""Two logits so near to each other, relative to the largest, are equal to within rounding."""
ROWS = parts.as_params(parts.pairs())


def written_like_the_full_forward(settings, new: int) -> None:
    model = build({**settings, "max_seq_len": 320}).eval()
    draw = random.Random(0)
    prompts = [[draw.randrange(model.config.require_vocab_size()) for _ in range(length)] for length in (1, 7, 33, 60)]
    engine = Engine(model, rows=3, chunk=32)
    tickets = [engine.submit(Request(ids, Sampling(max_new_tokens=new, temperature=0))) for ids in prompts]
    engine.run()
    for ids, ticket in zip(prompts, tickets, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([ids + ticket.ids[:-1]]))[0, len(ids) - 1 :]
        chosen = logits.gather(1, torch.tensor(ticket.ids)[:, None])[:, 0]
        assert bool((logits.amax(-1) - chosen <= TIE * logits.abs().amax()).all())


@pytest.mark.parametrize("settings", ROWS[::9])
def test_greedy_ids_are_those_of_the_full_forward(settings):
    written_like_the_full_forward(settings, 40)


@pytest.mark.exhaustive
@pytest.mark.parametrize("settings", ROWS)
def test_greedy_ids_are_those_of_the_full_forward_for_long(settings):
    written_like_the_full_forward(settings, 256)
