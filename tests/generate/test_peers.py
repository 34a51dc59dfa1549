"""Greedy ids are those of transformers' `generate` on the same weights, in GPT-2's and in Llama's shape."""

import pytest
import torch

import gptwright as gw
from gptwright.generate.engine import Engine, Request
from gptwright.generate.sampling import Sampling

from .test_beam import renamed

transformers = pytest.importorskip("transformers", reason="the peer; it comes with gptwright[dev]")
NEW = 40
PROMPTS = [[5], [3, 60, 7, 7, 21], list(range(1, 30)), [64, 0, 64]]


def drawn(config: dict) -> gw.GPT:
    torch.manual_seed(0)
    model = gw.GPT(
        gw.ModelConfig.from_dict({"vocab_size": 65, "d_model": 48, "n_layers": 3, "max_seq_len": 96, **config})
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2) if weight.ndim > 1 else weight.data.add_(0.1 * torch.randn_like(weight))
    return model.eval()


def llama() -> tuple[gw.GPT, torch.nn.Module]:
    model = drawn(
        {
            "attention": {"type": "softmax", "n_heads": 4, "n_kv_heads": 2},
            "feed_forward": {"type": "glu", "d_ff": 80},
            "norm": {"type": "rms_norm", "eps": 1e-6},
            "position": {"type": "rotary", "theta": 10000.0},
            "tie_embeddings": False,
        }
    )
    config = transformers.LlamaConfig(
        vocab_size=65, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, rms_norm_eps=1e-6, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    parts = {
        "self_attn.": "attention.",
        "mlp.": "feed_forward.",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "feed_forward_norm",
        "model.embed_tokens": "token_embedding",
        "model.norm": "final_norm",
        "model.layers": "layers",
    }
    state, found = model.state_dict(), {}
    for name in (theirs := transformers.LlamaForCausalLM(config)).state_dict():
        ours = name
        for other, own in parts.items():
            ours = ours.replace(other, own)
        found[name] = state[ours]
    theirs.load_state_dict(found)
    return model, theirs.eval()


def gpt2() -> tuple[gw.GPT, torch.nn.Module]:
    model = drawn(
        {
            "attention": {"type": "softmax", "n_heads": 4},
            "feed_forward": {"type": "mlp", "activation": "gelu_tanh"},
            "norm": {"type": "layer_norm", "eps": 1e-5},
            "position": "learned",
            "bias": True,
        }
    )
    config = transformers.GPT2Config(
        vocab_size=65,
        n_positions=96,
        n_embd=48,
        n_layer=3,
        n_head=4,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.3,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    model.load_state_dict(renamed(theirs.state_dict()))
    return model, theirs


@pytest.mark.parametrize("shape", [gpt2, llama], ids=["gpt2", "llama"])
def test_greedy_ids_equal_transformers(shape):
    ours, theirs = shape()
    engine = Engine(ours, rows=3)
    tickets = [engine.submit(Request(ids, Sampling(max_new_tokens=NEW, temperature=0))) for ids in PROMPTS]
    engine.run()
    for ids, ticket in zip(PROMPTS, tickets, strict=True):
        given = torch.tensor([ids])
        with torch.no_grad():
            expected = theirs.generate(
                given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=NEW, pad_token_id=0
            )[0, len(ids) :]
        assert ticket.ids == expected.tolist()
