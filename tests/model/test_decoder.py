"""Rows of a decoder: each as if it were alone, to the last bit; recorded steps are what they were recorded from."""

import pytest
import torch

import gptwright as gw
from gptwright.errors import GptwrightError, Unsupported
from gptwright.model.decoder import Decoder
from gptwright.model.rows import Apart, Together, can_record
from gptwright.model.tape import Recorder, Tape
from gptwright.ops.native.build import library, why_not

ATTENTIONS = {
    "softmax": {"type": "softmax", "n_heads": 4, "n_kv_heads": 2},
    "local": {"type": "local", "n_heads": 4, "window": 5},
    "linear": {"type": "linear", "n_heads": 4},
    "gated_delta": {"type": "gated_delta", "n_heads": 4},
    "latent": {"type": "latent", "n_heads": 4},
}
needs_kernels = pytest.mark.skipif(library() is None, reason=f"no native kernels: {why_not()}; they need a compiler")


def make(attention: str = "softmax", *, dtype: torch.dtype = torch.float32, **changes) -> gw.GPT:
    settings = {"vocab_size": 65, "d_model": 32, "n_layers": 2, "max_seq_len": 64, "position": "rotary"}
    torch.manual_seed(0)
    model = gw.GPT(gw.ModelConfig.from_dict({**settings, "attention": ATTENTIONS[attention], **changes}))
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return model.to(dtype).eval()


def ids(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 65, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_row_computes_the_same_bits_alone_and_beside_others(attention, dtype):
    model = make(attention, dtype=dtype)
    prompts = [ids(9), ids(1, 1), ids(20, 2)]
    together, alone = Decoder(model, rows=3), [Decoder(model) for _ in range(3)]
    for row, prompt in enumerate(prompts):
        together.extend(row, prompt)
        alone[row].extend(0, prompt)
    for step in range(4):
        tokens = [step, step + 7, step + 3]
        found = together.step(tokens).clone()
        for row, token in enumerate(tokens):
            assert torch.equal(found[row], alone[row].step([token])[0])


@needs_kernels
@pytest.mark.parametrize("attention", ["softmax", "latent"])
def test_several_tokens_at_once_are_the_same_bits_as_one_by_one(attention):
    model = make(attention, dtype=torch.bfloat16)
    at_once, singly = Decoder(model), Decoder(model)
    for decoder in (at_once, singly):
        decoder.extend(0, ids(10))
    found = at_once.extend(0, ids(5, 1), every=True)
    for at, token in enumerate(ids(5, 1)):
        assert torch.equal(found[at], singly.step([token])[0])


@needs_kernels
def test_a_standard_model_is_one_call_a_token():
    model = make(feed_forward="mlp", norm="layer_norm", position="learned", bias=True)
    decoder = Decoder(model)
    decoder.extend(0, [1])
    (step,) = decoder._rows._tapes.values()  # pyright: ignore
    assert len(step.tape) == 1


def test_states_grow_past_what_they_were_made_for():
    model = make()
    decoder = Decoder(model, rows=2, length=4)
    whole = ids(60)
    decoder.extend(0, whole[:3])
    decoder.extend(1, whole[:1])
    with torch.no_grad():
        full = model(torch.tensor([whole]))[0]
    for at in range(3, 40):
        found = decoder.step([whole[at], whole[at - 2]])
        torch.testing.assert_close(found, full[[at, at - 2]], rtol=1e-4, atol=1e-4)
    before = decoder.extend(1, whole[38:], every=True)
    torch.testing.assert_close(before, full[38:], rtol=1e-4, atol=1e-4)


def test_a_ring_and_a_sum_hold_as_much_however_long_it_gets():
    for attention in ("local", "linear", "gated_delta"):
        decoder = Decoder(make(attention), rows=2)
        decoder.extend(0, ids(20))
        before = decoder.nbytes
        for token in ids(300, 1):
            decoder.step([token])
        assert decoder.nbytes == before


def test_a_stranger_with_states_of_its_own_is_fed_row_by_row():
    class Own:
        def __init__(self, inner):
            self.inner = inner

        def select(self, rows):
            return Own(self.inner.select(rows))

        def truncate(self, length):
            self.inner.truncate(length)

        @property
        def nbytes(self):
            return self.inner.nbytes

    model = make()
    for layer in model.layers:
        attention = layer.attention
        born, run = attention.init_state, attention.forward
        attention.init_state = lambda *args, born=born, **kwargs: Own(born(*args, **kwargs))
        attention.forward = lambda x, seq, state=None, run=run: run(x, seq, state and state.inner)
    decoder, plain = Decoder(model, rows=2), Decoder(make(), rows=2)
    assert isinstance(decoder._rows, Apart)
    assert isinstance(plain._rows, Together)
    for each in (decoder, plain):
        each.extend(0, ids(5))
        each.extend(1, ids(3, 1))
    torch.testing.assert_close(decoder.step([1, 2]), plain.step([1, 2]), rtol=1e-4, atol=1e-5)


def test_experts_are_not_recorded():
    assert not can_record(make(feed_forward={"type": "moe", "n_experts": 3, "d_ff": 16, "top_k": 2}))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda d: d.extend(0, []), "the prompt has no token; give at least one"),
        (lambda d: d.extend(0, [65]), r"token ids run from 65 to 65, but the vocabulary has 65 tokens \(0 to 64\)"),
        (lambda d: d.step([-1]), "token ids run from -1 to -1"),
        (lambda d: d.extend(0, [1] * 63), "65 tokens were given, but learned positions end at max_seq_len 64; shorten"),
    ],
)
def test_bad_ids_are_refused_and_nothing_is_lost(call, sentence):
    decoder = Decoder(make(position="learned"))
    decoder.extend(0, [1, 2])
    with pytest.raises(GptwrightError, match=sentence):
        call(decoder)
    assert decoder.lengths == [2]
    assert torch.isfinite(decoder.step([3])).all()


@needs_kernels
def test_what_depends_on_values_is_not_recorded():
    x = torch.randn(4)
    for work in (lambda: x[x > 0], lambda: x.sum().item(), lambda: torch.rand(3) + x):
        with torch.inference_mode(), pytest.raises(Unsupported, match="recorded"), Recorder():
            work()


@needs_kernels
def test_a_tape_plays_views_changes_and_constants():
    x, memory, constant = torch.randn(3, 4), torch.zeros(4), torch.randn(4)
    with torch.inference_mode():
        recorder = Recorder([constant])
        with recorder:
            frequencies = constant.exp() * torch.arange(4)
            halves = (x * frequencies).chunk(2, -1)
            memory.add_(x.sum(0))
            out = torch.cat(halves[::-1], -1).softmax(-1) + memory
        tape = Tape(recorder.steps, out)
        for seed in range(3):
            x.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)))
            before = memory.clone()
            found = tape.play()
            halves = (x * constant.exp() * torch.arange(4)).chunk(2, -1)
            torch.testing.assert_close(memory, before + x.sum(0))
            torch.testing.assert_close(found, torch.cat(halves[::-1], -1).softmax(-1) + memory)
    assert not any("exp" in str(getattr(step, "func", "")) for step in recorder.steps)
