"""Models with weights of few bits, and the folders they are kept in."""

import json
import shutil
from itertools import chain

import pytest
import torch
from torch import nn

import gptwright as gw
from gptwright.check.models import build, tokens
from gptwright.generate.quantize import quantize, quantize_run
from gptwright.model.decoder import Decoder
from gptwright.model.quantized import MIN_OUTPUTS, QuantizedGPT, weight_bytes
from gptwright.nn.quantized import QuantizedEmbedding, QuantizedLinear

from .. import tiny
from ..contracts.conftest import my_file
from ..contracts.parts import alone, as_params

__all__ = ["my_file"]

WIDE = {"d_model": 64, "n_layers": 3, "init": {"std": 0.06}}


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def bits_of(model: gw.GPT) -> dict[str, int]:
    layers = (QuantizedLinear, QuantizedEmbedding)
    return {name: module.packed.packed.bits for name, module in model.named_modules() if isinstance(module, layers)}


def unpacked(model: QuantizedGPT) -> gw.GPT:
    """Return a plain model with the weights that the few bits stand for."""
    plain = gw.GPT(model.config).eval()
    weights = dict(chain(model.named_parameters(), model.named_buffers()))
    for name in bits_of(model):
        weights[f"{name}.weight"] = model.get_submodule(name).weight
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain


@pytest.mark.parametrize("settings", as_params(alone()))
def test_every_component(settings):
    """The packed model is the plain one with rounded weights, whole and token by token, and near to the original."""
    model, ids = build(settings), tokens(2, 12)
    with torch.no_grad():
        exact = model(ids)
        for bits in (8, 4):
            packed = quantize(model, bits)
            found = packed(ids)
            assert error(found, unpacked(packed)(ids)) < 1e-4
            if "feed_forward" not in settings:  # an expert chosen otherwise is another model
                assert error(found, exact) < {8: 0.04, 4: 0.4}[bits]
            assert packed.num_params() == model.num_params()
            assert packed.num_params(non_embedding=True) == model.num_params(non_embedding=True)
    states = packed.init_states(batch=2, length=12)
    with torch.no_grad():
        steps = torch.cat([packed(ids[:, at : at + 1], states=states) for at in range(12)], 1)
    assert error(steps, found) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [8, 4])
def test_decoding_computes_what_a_forward_does(bits, dtype):
    model = quantize(build({**WIDE, "bias": True}), bits).twin(dtype)
    ids, decoder = tokens(2, 9), Decoder(model, rows=2, length=16)
    exact = unpacked(model)(ids)
    for row in range(2):
        decoder.extend(row, ids[row, :5].tolist())
    with torch.no_grad():
        for at in range(5, 9):
            found = decoder.step(ids[:, at].tolist())
            assert error(found, exact[:, at].detach()) < (1e-4 if dtype == torch.float32 else 0.03)


def test_the_original_is_left_alone():
    model = build(WIDE)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    packed = quantize(model, 4)
    assert type(model) is gw.GPT
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert not any(x.requires_grad for x in packed.parameters())
    assert all(x.requires_grad for x in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_what_has_how_many_bits(tied):
    packed = quantize(build({**WIDE, "tie_embeddings": tied}), 4)
    found = bits_of(packed)
    assert {name for name, bits in found.items() if bits == 8} == {"token_embedding", "lm_head"}
    assert (packed.token_embedding.packed is packed.lm_head.packed) == tied
    assert "layers.2.feed_forward.down_proj" in found
    assert not any(type(module) is nn.Linear for module in packed.modules())
    assert set(bits_of(quantize(build({**WIDE, "d_model": 40}), 4)).values()) == {8, 4}  # 40 is no multiple of 32


def test_matrices_used_without_their_layer_stay():
    latent = quantize(build({**WIDE, "attention": {"type": "latent", "n_heads": 4}}), 8)
    assert type(latent.layers[0].attention.kv_up_proj) is nn.Linear
    assert type(latent.layers[0].attention.kv_down_proj) is QuantizedLinear
    moe = quantize(build({**WIDE, "feed_forward": {"type": "moe", "n_experts": 24, "top_k": 1, "d_ff": 32}}), 4)
    assert type(moe.layers[0].feed_forward.router) is nn.Linear
    assert all(type(e.down_proj) is QuantizedLinear for layer in moe.layers for e in layer.feed_forward.experts)


def test_gates_of_few_outputs_stay():
    model = quantize(build({**WIDE, "attention": {"type": "gated_delta", "n_heads": 4}}), 8)
    assert type(model.layers[0].attention.a_proj) is nn.Linear
    assert model.layers[0].attention.a_proj.out_features < MIN_OUTPUTS


def test_a_matrix_offers_itself_unpacked():
    model = build(WIDE)
    packed = quantize(model, 8)
    assert error(packed.lm_head.weight, model.lm_head.weight.detach()) < 0.01
    assert packed.token_embedding.weight.shape == model.token_embedding.weight.shape


def test_casting_changes_what_is_computed_in_and_not_what_is_known():
    model, ids = build(WIDE), tokens(1, 8)
    packed = quantize(model, 4)
    half = packed.twin(torch.bfloat16)
    assert half(ids).dtype == torch.bfloat16
    assert half.init_states(1, 8)[0].k.dtype == torch.bfloat16
    assert half.lm_head.packed is half.token_embedding.packed
    assert half.lm_head.packed.scale.dtype == torch.float32
    assert packed(ids).dtype == torch.float32
    assert error(half(ids).float(), packed(ids)) < 0.05
    there = half.to(torch.float32)
    assert torch.equal(there(ids), packed(ids)) or error(there(ids), packed(ids)) < 0.02  # norms went through bf16


def test_ids_outside_the_vocabulary_are_a_sentence():
    packed = quantize(build(WIDE), 8)
    for wrong in (31, -1):
        with pytest.raises(gw.GptwrightError, match=r"token ids run from .* but the vocabulary has 31 tokens"):
            packed(torch.tensor([[1, wrong]]))


def test_what_is_refused():
    packed = quantize(build(WIDE), 8)
    with pytest.raises(gw.GptwrightError, match="this model has weights of 8 bits already; quantize the one it was"):
        quantize(packed, 4)
    with pytest.raises(gw.GptwrightError, match="has weights of 8 bits, whose steps are too large for training"):
        packed.train()
    with pytest.raises(gw.GptwrightError, match="bits is 2, and weights are packed to 8 or 4 bits"):
        quantize(build(WIDE), 2)
    broken = build(WIDE)
    with torch.no_grad():
        broken.layers[1].attention.o_proj.weight[0, 0] = float("inf")
    with pytest.raises(gw.GptwrightError, match=r"layers\.1\.attention\.o_proj cannot be quantized: .* not finite"):
        quantize(broken, 8)


@pytest.fixture(scope="module")
def run(book, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "run"
    changes = {"model.d_model": 32, "train.steps": 120, "train.checkpoint_every": 0, "train.tokens_per_step": 256}
    tiny.train(tiny.settings(book, changes), folder)
    return folder


@pytest.mark.parametrize(("bits", "most"), [(8, 0.01), (4, 0.04)])
def test_perplexity_hardly_grows(run, tmp_path, bits, most):
    found = quantize_run(run, bits, out=tmp_path / "q")
    assert found.perplexity_before == gw.evaluate(gw.load(run)).perplexity < 20
    assert found.perplexity_after == gw.evaluate(gw.load(tmp_path / "q")).perplexity
    assert 0 < abs(found.change) < most
    assert found.bytes_before == weight_bytes(gw.load(run))
    assert found.bytes_after == weight_bytes(gw.load(tmp_path / "q")) < {8: 0.4, 4: 0.3}[bits] * found.bytes_before


@pytest.mark.parametrize("changes", [{}, {"model.tie_embeddings": False, "model.norm": "rms_norm"}])
def test_a_folder_gives_back_the_model_bit_for_bit(book, tmp_path, changes):
    tiny.train(tiny.settings(book, {"model.d_model": 32, "train.steps": 2, **changes}), tmp_path / "r")
    plain = gw.load(tmp_path / "r")
    for bits in (8, 4):
        quantize_run(tmp_path / "r", bits)
        made, found = quantize(plain, bits), gw.load(tmp_path / f"r-int{bits}")
        assert isinstance(found, QuantizedGPT)
        assert (found.bits, found.training, bits_of(found)) == (bits, False, bits_of(made))
        weights = found.state_dict()
        assert set(weights) == set(made.state_dict())
        assert all(torch.equal(x, weights[name]) for name, x in made.state_dict().items())
        assert found.generate(tokens(1, 3) % 20, 5, temperature=0).shape == (1, 8)
        assert gw.generate(found, "the", max_new_tokens=5).startswith("the")
        assert found.settings == plain.settings


def test_a_checkpoint_is_quantized_beside_itself(run):
    checkpoint = next((run / "checkpoints").glob("step-*"))
    found = quantize_run(checkpoint, 8)
    assert found.folder == checkpoint.with_name(f"{checkpoint.name}-int8")
    assert isinstance(gw.load(found.folder), QuantizedGPT)
    assert type(gw.load(run)) is gw.GPT  # the folder beside is no checkpoint of the run
    shutil.rmtree(found.folder)


def test_a_quantized_folder_cannot_be_trained(run, book, tmp_path):
    small = quantize_run(run, 8, out=tmp_path / "q").folder
    sentence = "holds weights of 8 bits, which can generate and be evaluated and nothing else; name the run"
    with pytest.raises(gw.CheckpointError, match=f"init_from: .*{sentence}"):
        tiny.train(tiny.settings(book, {"init_from": str(small)}), tmp_path / "new")
    with pytest.raises(gw.CheckpointError, match=sentence):
        quantize_run(small, 8, out=tmp_path / "again")
    with pytest.raises(gw.CheckpointError, match="holds saved weights and is not a run, so there is nothing to resume"):
        tiny.train(tiny.settings(book), small, resume=True)
    assert isinstance(gw.load(small), QuantizedGPT)


@pytest.mark.parametrize("file", ["model.safetensors", "config.yaml", "tokenizer/tokenizer.json", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_folder_is_a_sentence(small, tmp_path, file, damage):
    folder = shutil.copytree(small, tmp_path / "q")
    path = folder / file if (folder / file).exists() else next((folder / "tokenizer").iterdir())
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(gw.CheckpointError, match=f"checkpoint .* is damaged: .*{path.name}"):
        gw.load(folder)


@pytest.fixture(scope="module")
def small(run, tmp_path_factory):
    return quantize_run(run, 8, out=tmp_path_factory.mktemp("small") / "q").folder


def test_weights_that_do_not_fit_are_a_sentence(small, tmp_path):
    """The manifest is right, and the settings are those of another model."""
    folder = shutil.copytree(small, tmp_path / "q")
    text = (folder / "config.yaml").read_text().replace("d_model: 32", "d_model: 48")
    (folder / "config.yaml").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    from gptwright.data.checked import file_hash

    manifest["files"]["config.yaml"] = {"bytes": len(text.encode()), "sha256": file_hash(folder / "config.yaml")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(gw.CheckpointError, match="does not fit the model"):
        gw.load(folder)


def test_nothing_is_overwritten_unasked(run, tmp_path):
    folder = quantize_run(run, 8, out=tmp_path / "q").folder
    with pytest.raises(gw.CheckpointError, match="q exists already; choose another folder with --out, or replace it"):
        quantize_run(run, 4, out=folder)
    assert gw.load(folder).bits == 8
    quantize_run(run, 4, out=folder, force=True)
    assert gw.load(folder).bits == 4
    with pytest.raises(gw.CheckpointError, match="is not a quantized folder, and --force replaces nothing else"):
        quantize_run(run, 8, out=run, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


def test_without_its_data_a_run_is_quantized_unmeasured(book, tmp_path):
    text = shutil.copy(book, tmp_path / "gone.txt")
    tiny.train(tiny.settings(text, {"train.steps": 2}), tmp_path / "r")
    text.unlink()
    found = quantize_run(tmp_path / "r", 8)
    assert (found.perplexity_before, found.perplexity_after, found.change) == (None, None, None)
    assert "gone.txt" in found.unmeasured
    assert gw.load(found.folder).bits == 8
    measured = quantize_run(tmp_path / "r", 8, out=tmp_path / "q", data=str(book))
    assert measured.change is not None


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(gw.CheckpointError, match=r"q could not be written: .*; free some space, or choose another"):
        quantize_run(run, 8, out=tmp_path / "file" / "q")
