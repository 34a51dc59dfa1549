"""Adapters: only they train, they are merged exactly, and runs with them are as exact as any other."""

import sys

import pytest
import torch

import gptwright as gw
from gptwright.errors import CheckpointError, ConfigError, GptwrightError
from gptwright.model.freeze import trainable_table
from gptwright.train.load import save_adapters
from gptwright.train.lora import LoraConfig, add_adapters, merged
from gptwright.train.saved import find_checkpoint

from .. import tiny
from ..tiny import train

peft = pytest.importorskip("peft")

LORA = {"rank": 4, "alpha": 8, "targets": ["attention", "down_proj"]}
MODELS = {
    "softmax": {"attention": {"type": "softmax", "n_heads": 4, "n_kv_heads": 2, "qkv_bias": True}},
    "local": {"attention": {"type": "local", "n_heads": 4, "window": 4}},
    "linear": {"attention": {"type": "linear", "n_heads": 4}},
    "gated_delta": {"attention": {"type": "gated_delta", "n_heads": 4}},
    "latent": {"attention": {"type": "latent", "n_heads": 4}},
    "latent with small queries": {"attention": {"type": "latent", "n_heads": 4, "q_rank": 6}},
    "experts": {"feed_forward": {"type": "moe", "n_experts": 3, "d_ff": 24, "n_shared": 1}},
    "narrow embedding": {"d_embedding": 8},
    "parallel": {"wiring": "parallel", "feed_forward": "glu", "value_residual": 0.5},
}


def build(changes=None, seed=0):
    """Return a model whose head is its own, so that every linear layer may have an adapter."""
    settings = {
        "vocab_size": 30,
        "d_model": 32,
        "n_layers": 2,
        "max_seq_len": 16,
        "attention": {"type": "softmax", "n_heads": 4},
        "position": "rotary",
        "tie_embeddings": False,
        **(changes or {}),
    }
    torch.manual_seed(seed)
    return gw.GPT(gw.ModelConfig.from_dict(settings)).eval()


def stir(model):
    """Give adapters values as training would."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return model


@pytest.fixture
def ids():
    return torch.randint(30, (2, 12), generator=torch.Generator().manual_seed(1))


def loss(model, ids):
    return model.summed_loss(model.hidden(ids, model.describe(ids)), ids.roll(-1, 1))


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_adapters_beside_every_linear_layer_work_and_merge(changes, ids):
    config = LoraConfig(rank=3, alpha=7, targets=["*"])
    model, plain = build(changes), build(changes)
    before = model(ids)
    add_adapters(model, config)
    assert torch.equal(model(ids), before)  # they begin at nothing
    stir(model)
    plain.load_state_dict(merged(model.state_dict(), config))
    assert (plain(ids) - before).abs().max() > 0.1
    torch.testing.assert_close(model(ids), plain(ids), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss(model, ids), loss(plain, ids), rtol=1e-5, atol=1e-4)
    model.train()
    loss(model, ids).backward()
    moved = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is not None and p.grad.any()]
    assert moved == [name for name, p in model.named_parameters() if "lora_" in name]


@pytest.mark.parametrize("kind", ["softmax", "gated_delta", "latent"])
def test_decoding_sees_the_adapters(kind, ids):
    model = build(MODELS[kind])
    add_adapters(model, LoraConfig(targets=["*"]))
    stir(model)
    states = model.init_states(batch=2, length=12)
    with torch.no_grad():
        parts = [model(part, states=states) for part in ids.split([5, 1, 6], 1)]
        torch.testing.assert_close(torch.cat(parts, 1), model(ids), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["softmax", "latent"])
def test_merging_is_what_peft_does(kind):
    config = LoraConfig(rank=3, alpha=7, targets=["*_proj"])
    model = build(MODELS[kind])
    add_adapters(model, config)
    stir(model)
    ours = merged(model.state_dict(), config)
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.Linear):
            module.merge()
            assert torch.equal(module.weight, module.base_layer.weight)
    theirs = {name.replace(".base_layer.", "."): x for name, x in model.state_dict().items() if "lora_" not in name}
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        torch.testing.assert_close(x, theirs[name], atol=1e-6, rtol=1e-6)


def test_gradients_are_those_of_the_merged_weights(ids):
    """The chain rule by hand: for W = W0 + s B A, dB is s dW A^T and dA is s B^T dW; also where W alone is used."""
    config = LoraConfig(rank=3, alpha=6, targets=["router", "lm_head", "q_proj"])
    model, plain = build(MODELS["experts"]), build(MODELS["experts"])
    add_adapters(model, config)
    stir(model)
    plain.load_state_dict(merged(model.state_dict(), config))
    loss(model, ids).backward()
    loss(plain, ids).backward()
    for name in ("lm_head", "layers.1.feed_forward.router", "layers.0.attention.q_proj"):
        layer, wanted = model.get_submodule(name), plain.get_submodule(name).weight.grad
        a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
        torch.testing.assert_close(b.grad, 2 * wanted @ a.T, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(a.grad, 2 * b.T @ wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["block", "selective"])
def test_gradients_are_the_same_when_layers_are_computed_again(mode, ids):
    grads = []
    for given in ("none", mode):
        model = build({**MODELS["latent"], "dropout": 0.1})
        add_adapters(model, LoraConfig(targets=["q_proj", "o_proj"], dropout=0.2))
        stir(model)
        model.gradient_checkpointing = given
        torch.manual_seed(3)
        loss(model.train(), ids).backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile tracing itself
def test_compiled_training_agrees(ids):
    model = build()
    add_adapters(model, LoraConfig(targets=["*"]))
    stir(model)
    plain, compiled = loss(model, ids), torch.compile(loss, backend="aot_eager")(model, ids)
    torch.testing.assert_close(compiled, plain)


@pytest.fixture(scope="module")
def base(tmp_path_factory, book):
    folder = tmp_path_factory.mktemp("base") / "base"
    train(tiny.settings(book), folder)
    return folder


@pytest.fixture
def tuning(base, book):
    """Return the settings of a run with adapters."""

    def make(changes=None):
        found = tiny.settings(book, {"lora": LORA, "train.seed": 3, **(changes or {})})
        return {"init_from": str(base), **{key: value for key, value in found.items() if key != "model"}}

    return make


def test_only_adapters_train_and_the_loaded_model_is_a_plain_one(tuning, base, tmp_path):
    train(tuning(), tmp_path / "r")
    model, before = gw.load(tmp_path / "r"), gw.load(base)
    assert model.config == before.config
    assert model.num_params() == before.num_params() == model.config.num_params()
    assert list(model.state_dict()) == list(before.state_dict())
    assert trainable_table(model).frozen == 0
    changed = {name for name, x in model.state_dict().items() if not torch.equal(x, before.state_dict()[name])}
    assert changed == {
        name for name in model.state_dict() if (".attention." in name or "down_proj" in name) and "_proj.weight" in name
    }
    as_trained, found = gw.load(base), find_checkpoint(tmp_path / "r")[0]
    add_adapters(as_trained, LoraConfig.from_dict(LORA))
    as_trained.load_state_dict(found.weights_as_trained(), strict=False)
    ids = torch.arange(16)[None] % model.config.vocab_size
    with torch.no_grad():
        torch.testing.assert_close(as_trained(ids), model(ids), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(model(ids), before(ids), atol=1e-3)


def test_other_parameters_may_train_besides(tuning, base, tmp_path):
    train(tuning({"lora": {"targets": ["q_proj"], "train": ["final_norm"]}}), tmp_path / "r")
    model, before = gw.load(tmp_path / "r").state_dict(), gw.load(base).state_dict()
    changed = {name for name in model if not torch.equal(model[name], before[name])}
    assert changed == {"final_norm.weight"} | {f"layers.{n}.attention.q_proj.weight" for n in (0, 1)}


@pytest.mark.parametrize(
    "changes",
    [
        {"lora": {**LORA, "dropout": 0.2}, "train.precision": "bf16"},
        {"optim": {"type": "muon", "lr": 0.01}, "train.gradient_checkpointing": "block", "train.micro_batch": 2},
        {"train.precision": "fp16"},
    ],
    ids=["bf16 with dropout", "muon, computed again, accumulated", "fp16"],
)
def test_a_run_with_adapters_continues_exactly(tuning, tmp_path, changes):
    settings = tuning(changes)
    train(settings, tmp_path / "whole")
    tiny.train_until(7, settings, tmp_path / "cut")
    assert gw.load(tmp_path / "cut").settings.lora is not None
    train(None, tmp_path / "cut", resume=True)
    tiny.assert_same_runs(tmp_path / "whole", tmp_path / "cut")


def test_a_run_may_begin_with_one_that_had_adapters(tuning, tmp_path):
    train(tuning(), tmp_path / "r")
    still = tuning({"train.steps": 1, "optim.lr": 1e-30, "optim.weight_decay": 0.0})
    train({**still, "lora": None, "init_from": str(tmp_path / "r")}, tmp_path / "s")
    first, second = gw.load(tmp_path / "r").state_dict(), gw.load(tmp_path / "s").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_adapters_alone_are_read_by_peft(tuning, base, tmp_path):
    train(tuning(), tmp_path / "r")
    save_adapters(tmp_path / "r", tmp_path / "adapters")
    whole, ids = gw.load(tmp_path / "r"), torch.arange(16)[None] % 20
    model = peft.PeftModel.from_pretrained(gw.load(base), str(tmp_path / "adapters"))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids), whole(ids), atol=1e-5, rtol=1e-5)
    with pytest.raises(CheckpointError, match=r"was trained without adapters, so there are none to save"):
        save_adapters(base, tmp_path / "no")


def test_adapters_alone_would_lose_what_else_was_trained(tuning, tmp_path):
    train(tuning({"lora": {**LORA, "train": ["final_norm"]}, "train.steps": 1}), tmp_path / "r")
    with pytest.raises(GptwrightError, match=r"lora\.train \['final_norm'\] trained parameters besides the adapters"):
        save_adapters(tmp_path / "r", tmp_path / "adapters")


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (
            {"targets": ["q_prj"]},
            r"^lora\.targets names 'q_prj', which matches no parameter; .*did you mean 'q_proj'\?",
        ),
        (
            {"targets": ["q_proj", "attention_norm"]},
            r"^lora\.targets names 'attention_norm', which is layers\.0\.attention_norm\.weight and .* more, and no "
            r"linear layer; adapters stand beside linear layers: q_proj, k_proj",
        ),
        ({"targets": ["token_embedding"]}, r"'token_embedding', which is token_embedding\.weight, and no linear layer"),
        ({"train": ["final_nrom"]}, r"^lora\.train names 'final_nrom', which .*; did you mean 'final_norm'\?"),
        ({"rank": 0}, r"^lora\.rank: must be more than 0"),
        ({"targets": []}, r"^lora\.targets"),
        ({"alpha": -1}, r"^lora\.alpha: .*must be more than 0"),
    ],
)
def test_what_cannot_be_is_refused(book, tmp_path, lora, words):
    with pytest.raises(ConfigError, match=words) as error:
        train({**tiny.settings(book), "lora": lora}, tmp_path / "r")
    assert "\n" not in str(error.value)


def test_a_tied_head_is_refused(book, tmp_path):
    with pytest.raises(ConfigError, match=r"'lm_head', which shares its matrix with token_embedding"):
        train({**tiny.settings(book), "lora": {"targets": ["lm_head"]}}, tmp_path / "r")


@pytest.mark.parametrize(("kind", "name"), [("latent", "kv_up_proj"), ("experts", "router"), ("softmax", "lm_head")])
def test_dropout_where_there_is_no_input_is_refused(kind, name):
    with pytest.raises(ConfigError, match=rf"lora\.dropout is 0\.1, and \S*{name} is used by its matrix alone"):
        add_adapters(build(MODELS[kind]), LoraConfig(targets=["q_proj", name], dropout=0.1))
    add_adapters(build(MODELS["experts"]), LoraConfig(targets=["experts"], dropout=0.1))


def test_training_needs_peft_and_loading_does_not(tuning, base, tmp_path, monkeypatch):
    train(tuning(), tmp_path / "r")
    monkeypatch.setitem(sys.modules, "peft", None)
    assert gw.load(tmp_path / "r").num_params() == gw.load(base).num_params()
    with pytest.raises(GptwrightError, match=r"lora needs the package peft; pip install 'gptwright\[finetune\]'"):
        train(tuning(), tmp_path / "s")


def test_the_table_says_what_trains(tuning, tmp_path, capfd):
    gw.train(tuning({"train.steps": 1}), run=tmp_path / "r")
    said = capfd.readouterr().err
    assert "lora_A.default.weight" in said
    assert "are frozen" in said
