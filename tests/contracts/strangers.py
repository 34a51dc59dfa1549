"""Attentions as people outside the project write them: each obeys the contract and knows nothing of our insides."""

from textwrap import dedent

import torch
from torch import nn

from gptwright import Attention
from gptwright.nn.attention.softmax import Softmax


class Minimal(Attention):
    """One head, a constructor and a forward; no settings, no state of its own, no accounting."""

    def __init__(self, config, ctx):
        super().__init__(config, ctx)
        self.query = nn.Linear(ctx.d_model, ctx.d_model, bias=False)
        self.key_value = nn.Linear(ctx.d_model, 2 * ctx.d_model, bias=False)

    def forward(self, x, seq, state=None):
        q, (k, v) = self.query(x), self.key_value(x).chunk(2, -1)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return scores.masked_fill(~seq.visible(), -torch.inf).softmax(-1) @ v


class Louder(Softmax):
    """Ours with one line changed: inherits settings, state and accounting."""

    def merge(self, mixed):
        return 1.5 * super().merge(mixed)


MY_FILE = dedent('''
    """An attention in somebody's own file, with settings of its own."""

    import torch
    from pydantic import PositiveFloat, PositiveInt
    from torch import nn

    import gptwright as gw


    class MyAttention(gw.Attention):
        """Averages what is visible, newer tokens more, heads apart."""

        EXAMPLES = ({"heads": 2},)

        class Config(gw.Attention.Config):
            heads: PositiveInt
            """Groups of features, each with its own rate of forgetting."""
            memory: PositiveFloat = 8.0
            """Positions after which a value counts e times less."""

            def check(self, ctx):
                if ctx.d_model % self.heads:
                    yield "heads", f"heads {self.heads} must divide d_model {ctx.d_model}"

        def __init__(self, config, ctx):
            super().__init__(config, ctx)
            self.v_proj = nn.Linear(ctx.d_model, ctx.d_model)
            self.o_proj = nn.Linear(ctx.d_model, ctx.d_model)
            self.rate = nn.Parameter(torch.ones(config.heads) / config.memory)

        def forward(self, x, seq, state=None):
            v = self.v_proj(x).unflatten(-1, (self.config.heads, -1)).transpose(1, 2)  # (B, H, T, d)
            distance = (seq.positions[:, :, None] - seq.positions[:, None, :])[:, None]  # (B, 1, T, T)
            scores = -distance * self.rate.float().abs()[:, None, None]  # (B, H, T, T)
            weights = scores.masked_fill(~seq.visible()[:, None], -torch.inf).softmax(-1).to(v.dtype)
            return self.o_proj((weights @ v).transpose(1, 2).flatten(2))
''').lstrip()
"""The content of `my_file.py`, which lies in a folder outside the package."""
