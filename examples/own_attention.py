"""An attention of your own: one class, in one file, trained and decoded like any other.

Run it: python examples/own_attention.py

In YAML it is named by where Python finds it:  attention: {type: own_attention:Fading, n_heads: 4}
"""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

import gptwright as gw


class Fading(gw.Attention):
    """Softmax attention in which distance costs: a straight penalty, steeper in earlier heads (Press et al., 2022)."""

    class Config(gw.Attention.Config):
        """Settings of fading attention."""

        n_heads: PositiveInt
        """Heads, a divisor of `d_model`; each fades half as fast as the one before."""

    def __init__(self, config: Config, ctx: gw.LayerContext) -> None:
        super().__init__(config, ctx)
        self.qkv_proj = nn.Linear(ctx.d_model, 3 * ctx.d_model, bias=False)
        self.o_proj = nn.Linear(ctx.d_model, ctx.d_model, bias=False)

    def forward(self, x: Tensor, seq: gw.Sequence, state: None = None) -> Tensor:
        """Mix ``x`` (B, T, D)."""
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.config.n_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, d)
        slopes = 2.0 ** -torch.arange(1, self.config.n_heads + 1, device=x.device)[:, None, None]  # (H, 1, 1)
        distance = seq.positions[:, None, :, None] - seq.positions[:, None, None, :]  # (B, 1, T, T)
        scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5 - slopes * distance  # (B, H, T, T)
        weights = scores.masked_fill(~seq.visible()[:, None], -torch.inf).softmax(-1)
        return self.o_proj((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2))  # (B, T, D)


def main() -> None:
    """Build a model with it, and see that decoding token by token agrees with reading all at once."""
    config = gw.ModelConfig.from_dict(
        {
            "vocab_size": 65,
            "d_model": 64,
            "n_layers": 2,
            "max_seq_len": 128,
            "attention": {"type": f"{__name__}:Fading", "n_heads": 4},
            "position": "none",  # the distances say enough
        }
    )
    torch.manual_seed(0)
    model = gw.GPT(config).eval()
    ids = torch.randint(65, (1, 12))
    with torch.no_grad():
        whole = model(ids)
        states = model.init_states(batch=1, length=12)
        pieces = [model(ids[:, :5], states=states)]  # a prompt, then one token at a time
        pieces += [model(ids[:, at : at + 1], states=states) for at in range(5, 12)]
    print(f"{config.num_params():,} parameters, {config.flops_per_token():,} FLOPs a token in training")
    print(f"largest difference, token by token against all at once: {(torch.cat(pieces, 1) - whole).abs().max():.1e}")


if __name__ == "__main__":
    main()
