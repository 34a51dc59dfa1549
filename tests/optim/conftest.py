"""A tiny model with the parameter names, shapes and kinds that the optimizers have to tell apart."""

import pytest
import torch
from torch import nn


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up_proj = nn.Parameter(torch.randn(3, 8, 6) * 0.1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm = nn.LayerNorm(6)
        self.q_proj = nn.Linear(6, 6)
        self.o_proj = nn.Linear(6, 6, bias=False)
        self.conv = nn.Conv1d(6, 6, 3)
        self.experts = Experts()
        self.down_proj = nn.Linear(8, 6, bias=False)

    def forward(self, x):
        x = x + self.o_proj(self.q_proj(self.attention_norm(x)))
        x = x + self.conv(nn.functional.pad(x.mT, (2, 0))).mT
        return x + self.down_proj(torch.relu(torch.einsum("btd,efd->btf", x, self.experts.up_proj)))


class Toy(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.token_embedding = nn.Embedding(11, 6)
        self.position = nn.Embedding(16, 6)
        self.layers = nn.ModuleList([Block(), Block()])
        self.final_norm = nn.LayerNorm(6)
        self.lm_head = nn.Linear(6, 11, bias=False)
        if tied:
            self.lm_head.weight = self.token_embedding.weight

    def forward(self, ids):
        x = self.token_embedding(ids) + self.position.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.final_norm(x))


def build_toy(tied=False, seed=0):
    torch.manual_seed(seed)
    return Toy(tied)


def take_steps(model, optimizer, steps, first=0):
    """Take real steps on batches that depend on the step alone; return the losses."""
    losses = []
    for step in range(first, first + steps):
        ids = torch.randint(11, (4, 12), generator=torch.Generator().manual_seed(step % 3))
        loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def toy():
    """Build a model: `toy(tied=False, seed=0)`."""
    return build_toy


@pytest.fixture
def train():
    """Take steps: `train(model, optimizer, steps, first=0)`."""
    return take_steps
