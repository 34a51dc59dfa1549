"""Activations foreseen without data are those that real tensors leave."""

import pytest
import torch

import gptwright as gw
from gptwright.errors import Unsupported
from gptwright.model import memory
from gptwright.model.count import count
from gptwright.model.memory import Ledger, activation_bytes, with_activations

BASE = {
    "vocab_size": 50,
    "d_model": 32,
    "n_layers": 5,
    "max_seq_len": 96,
    "attention": {"type": "softmax", "n_heads": 4},
}
LOCAL = {"attention": {"type": "local", "n_heads": 4, "window": 8}, "feed_forward": "glu"}
MOE = {"feed_forward": {"type": "moe", "n_experts": 4, "top_k": 2, "d_ff": 24, "n_shared": 1}}
CASES = {
    "plain": {},
    "biased-dropout-untied": {"bias": True, "dropout": 0.1, "tie_embeddings": False, "position": "sinusoidal"},
    "post-rms": {"wiring": "post", "norm": "rms_norm", "position": "rotary"},
    "sandwich-scaled": {
        "wiring": "sandwich",
        "layer_scale": 0.1,
        "residual_scale": "depth",
        "embedding_norm": "rms_norm",
    },
    "parallel-grouped": {"wiring": "parallel", "attention": {"type": "softmax", "n_heads": 4, "n_kv_heads": 2}},
    "scored": {"attention": {"type": "softmax", "n_heads": 4, "softcap": 5.0, "sinks": True}, "position": "alibi"},
    "hybrid": {"blocks": {"near": LOCAL, "far": MOE}, "pattern": ["near", "near", "far"], "position": "rotary"},
    "positions": {
        "blocks": {"near": LOCAL, "far": {"position": {"type": "rotary", "theta": 50.0}}, "none": {"position": "none"}},
        "position": "rotary",
        "head_bias": True,
        "embedding_scale": "width",
        "norm": {"type": "rms_norm", "unit_offset": True},
        "wiring": "parallel_norms",
        "n_layers": 7,
    },
    "linear": {"attention": {"type": "linear", "n_heads": 4}},
    "gated-delta": {"attention": {"type": "gated_delta", "n_heads": 4}, "position": "none"},
    "moe": MOE,
    "value-residual": {"value_residual": 0.5},
}


def config(**changes) -> gw.ModelConfig:
    return gw.ModelConfig.from_dict({**BASE, **changes})


def really_kept(settings: gw.ModelConfig, batch: int, length: int, dtype: torch.dtype) -> int:
    """Bytes of the storages that a real forward pass keeps, without weights and ids."""
    model = gw.GPT(settings).to(dtype).train()
    ids = torch.randint(50, (batch, length))
    known = {x.untyped_storage()._cdata: x for x in (ids, *model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        key = tensor.untyped_storage()._cdata
        if key not in known:
            known[key], kept[key] = tensor, tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.summed_loss(model.hidden(ids, model.describe(ids)), ids)
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_the_sum_is_what_a_real_forward_pass_keeps(changes, dtype):
    settings = config(**changes)
    found = with_activations(count(settings), settings, 3, 70, dtype)
    foreseen = sum(part.activation_bytes or 0 for part in found.parts)
    assert foreseen == pytest.approx(really_kept(settings, 3, 70, dtype), rel=1e-3)


def test_each_part_has_its_own(build):
    """By hand, in fp32: 3 x 8 tokens of 8 features, 2 layers, 4 * 8 hidden features."""
    settings = build(feed_forward="mlp", position="none", tie_embeddings=False).config
    kept = {part.name: part.activation_bytes for part in with_activations(count(settings), settings, 3, 8).parts}
    tokens, width, layers = 3 * 8, 8, 2
    assert kept["norm"] == (2 * layers + 1) * 4 * tokens * (width + 2)  # what it reads, its mean and deviation
    assert kept["feed_forward"] == layers * 4 * tokens * (width + 2 * 4 * width)  # what it reads, around the bend
    assert kept["token_embedding"] == kept["position"] == 0
    assert kept["lm_head"] == 4 * (tokens * width + 13 * width)  # both gradients are made in the forward pass


def test_rows_of_a_hybrid_sum_over_their_own_layers():
    settings = config(**CASES["hybrid"])
    by_layer = activation_bytes(settings, 2, 64)
    parts = with_activations(count(settings), settings, 2, 64).parts
    rows = {(part.name, part.kind): part for part in parts}
    assert rows["attention", "local"].layers == (0, 1, 3, 4)
    assert rows["feed_forward", "moe"].layers == (2,)
    assert rows["attention", "local"].activation_bytes == sum(by_layer["attention", i] for i in (0, 1, 3, 4))
    assert rows["feed_forward", "moe"].activation_bytes == by_layer["feed_forward", 2]
    assert sum(part.activation_bytes or 0 for part in parts) == sum(by_layer.values())


def test_a_deep_model_runs_no_more_layers_than_it_has_kinds(monkeypatch):
    ran = []
    original = memory.FakeModel.keep_one_of_a_kind

    def counted(self):
        original(self)
        ran.append(len(self.model.layers))

    monkeypatch.setattr(memory.FakeModel, "keep_one_of_a_kind", counted)
    shallow, deep = (sum(activation_bytes(config(n_layers=n), 2, 64).values()) for n in (2, 40))
    one_more = sum(activation_bytes(config(n_layers=3), 2, 64).values()) - shallow
    assert deep == shallow + 38 * one_more
    assert ran == [2, 2, 2]


def test_nothing_is_allocated_and_no_generator_moves():
    before = torch.get_rng_state()
    huge = config(d_model=16384, n_layers=200, vocab_size=200_000, attention={"type": "softmax", "n_heads": 128})
    assert sum(activation_bytes(huge, 64, 96).values()) > 1e12
    assert torch.equal(torch.get_rng_state(), before)


class Curious(gw.Attention):
    """A stranger that looks at what it computes."""

    def forward(self, x, seq, state=None):
        return x * 2 if float(x.sum()) > 0 else x


class Plain(gw.Attention):
    """A stranger that can be followed."""

    def __init__(self, config, ctx):
        super().__init__(config, ctx)
        self.o_proj = torch.nn.Linear(ctx.d_model, ctx.d_model)

    def forward(self, x, seq, state=None):
        return self.o_proj(torch.tanh(x))


def test_a_strangers_part_is_followed():
    settings = config(attention={"type": f"{__name__}:Plain"})
    found = {part.name: part for part in with_activations(count(settings), settings, 2, 64).parts}
    assert found["attention"].activation_bytes == 5 * 4 * 2 * 64 * 32  # tanh keeps its result, which o_proj keeps too


def test_a_part_that_looks_at_its_data_is_said_to_be_unknown():
    settings = config(attention={"type": f"{__name__}:Curious"})
    with pytest.raises(Unsupported, match=r"memory cannot be foreseen: the model does not run without data \(aten"):
        activation_bytes(settings, 2, 64)


def test_more_tokens_than_there_are_positions():
    with pytest.raises(
        Unsupported, match=r"memory cannot be foreseen: 97 tokens were given, but learned positions end"
    ):
        activation_bytes(config(), 2, 97)


def test_the_ledger_counts_real_tensors_as_well():
    with Ledger() as ledger:
        a = torch.ones(1000)
        ledger.begin("two")
        b = a * 2
        view = b[:10]
        del a
        ledger.begin("three")
        del b
        assert ledger.live == 4000  # the view holds it
        del view
        assert ledger.live == 0
        ledger.begin("end")
    assert [(s.what, s.start, s.end, s.peak) for s in ledger.segments] == [
        ("start", 0, 4000, 4000),
        ("two", 4000, 4000, 8000),
        ("three", 4000, 0, 4000),
    ]
