"""Computing again instead of keeping: the same numbers and gradients, and less that is kept."""

import pytest
import torch

import gptwright as gw
from gptwright.train.memory import training_memory

PARTS = {
    "softmax": {"attention": {"type": "softmax", "n_heads": 2, "attention_dropout": 0.1}, "dropout": 0.1},
    "local": {"attention": {"type": "local", "n_heads": 2, "window": 8}, "position": "rotary"},
    "linear": {"attention": {"type": "linear", "n_heads": 2, "decay": "gated"}},
    "gated_delta": {"attention": {"type": "gated_delta", "n_heads": 2}},
    "latent": {
        "attention": {"type": "latent", "n_heads": 2, "kv_rank": 16, "head_dim": 16, "rope_dim": 8},
        "position": "rotary",
    },
    "moe": {
        "attention": {"type": "softmax", "n_heads": 2},
        "feed_forward": {"type": "moe", "n_experts": 4, "top_k": 2, "d_ff": 32},
    },
}


def model_of(parts, **more) -> gw.GPT:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "d_model": 32, "n_layers": 3, "max_seq_len": 64}
    return gw.GPT(gw.ModelConfig.from_dict({**sizes, **parts, **more}))


def learnt(model: gw.GPT, mode: str, dtype: torch.dtype, segments=None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the loss and every gradient, of the same draw of dropout each time."""
    model = model.to(dtype)
    model.gradient_checkpointing = mode
    model.zero_grad()
    torch.manual_seed(1)
    ids = torch.randint(40, (3, 48), generator=torch.Generator().manual_seed(2))
    seq = model.describe(ids, segments=segments)
    loss = model.summed_loss(model.hidden(ids, seq), ids.roll(-1, 1))
    sum(seq.aux_losses, loss).backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("mode", ["block", "selective"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_what_is_computed_again_is_the_same_bit_for_bit(parts, dtype, mode):
    model = model_of(parts).train()
    loss, gradients = learnt(model, "none", dtype)
    again, found = learnt(model, mode, dtype)
    assert torch.equal(again, loss)
    assert all(torch.equal(one, other) for one, other in zip(found, gradients, strict=True))


@pytest.mark.parametrize("mode", ["block", "selective"])
def test_packed_documents_too(mode):
    segments = torch.tensor([[1] * 20 + [2] * 28, [1] * 48, [1] * 30 + [0] * 18])
    model = model_of(PARTS["softmax"]).train()
    loss, gradients = learnt(model, "none", torch.float32, segments)
    again, found = learnt(model, mode, torch.float32, segments)
    assert torch.equal(again, loss)
    assert all(torch.equal(one, other) for one, other in zip(found, gradients, strict=True))


def test_less_is_kept_the_more_is_computed_again():
    """Bytes that the forward pass of a real training step leaves for the backward pass."""
    model = {"vocab_size": 40, "d_model": 64, "n_layers": 6, "max_seq_len": 64, "feed_forward": "glu"}
    kept = {}
    for mode in ("none", "selective", "block"):
        train = {"tokens_per_step": 256, "gradient_checkpointing": mode}
        config = {"model": {**model, "attention": {"type": "softmax", "n_heads": 2}}, "train": train}
        kept[mode] = training_memory(gw.RunConfig.from_dict(config)).activations
    assert 3 * kept["block"] < kept["selective"] < 0.75 * kept["none"]
