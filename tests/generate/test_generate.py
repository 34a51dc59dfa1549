"""Text and token ids from a model: repeatable, exact, and continued past the end of the positions."""

import string

import pytest
import torch

import gptwright as gw

ATTENTIONS = {
    "softmax": {"type": "softmax", "n_heads": 2, "n_kv_heads": 1},
    "local": {"type": "local", "n_heads": 2, "window": 5},
    "linear": {"type": "linear", "n_heads": 2},
}
every_attention = pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)


def test_a_seed_repeats_and_another_differs(model):
    texts = [gw.generate(model, "the ", max_new_tokens=12, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 16
    assert texts[0].startswith("the ")


def test_without_a_seed_draws_differ_and_the_global_generator_is_untouched(model):
    before = torch.get_rng_state()
    assert len({gw.generate(model, "the ", max_new_tokens=12) for _ in range(3)}) == 3
    assert torch.equal(torch.get_rng_state(), before)


@every_attention
def test_greedy_takes_the_likeliest_token_of_the_full_forward(load, attention):
    model = load({"model.attention": attention, "model.position": "rotary"})
    ids = torch.tensor([model.tokenizer.encode("the cat sat on").tolist()])
    found = model.generate(input_ids=ids, max_new_tokens=60, do_sample=False)
    with torch.no_grad():
        logits = model(found[:, :-1])[:, ids.shape[1] - 1 :]
    assert torch.equal(logits.argmax(-1), found[:, ids.shape[1] :])
    assert torch.equal(found[:, : ids.shape[1]], ids)
    text = gw.generate(model, "the cat sat on", max_new_tokens=60, temperature=0)
    assert text == model.tokenizer.decode(found[0].tolist())


@every_attention
@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_a_batch_of_left_padded_prompts_is_each_alone(load, attention, position):
    model = load({"model.attention": attention, "model.position": position})
    prompts = [model.tokenizer.encode(text).tolist() for text in ("t", "the dog", "a bird fl")]
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[7] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    together = model.generate(ids, 7, do_sample=False, padding_mask=mask)
    for row, prompt in enumerate(prompts):
        alone = model.generate(torch.tensor([prompt]), 7, do_sample=False)
        assert together[row, width - len(prompt) :].tolist() == alone[0].tolist()


@pytest.mark.parametrize("tokenizer", ["char", "byte", {"type": "bpe", "vocab_size": 300}])
def test_pieces_joined_are_the_text(load, tokenizer):
    model = load({"data.tokenizer": tokenizer})
    pieces = list(gw.stream(model, "the ", max_new_tokens=30, seed=4, overflow="slide"))
    assert len(pieces) > 10
    assert all(pieces)
    assert "the " + "".join(pieces) == gw.generate(model, "the ", max_new_tokens=30, seed=4, overflow="slide")


def test_pieces_come_as_they_are_made(model):
    pieces = gw.stream(model, "the ", max_new_tokens=10**9, seed=0, overflow="slide")
    assert len([next(pieces) for _ in range(40)]) == 40


def test_characters_of_several_bytes_are_never_cut(load, tmp_path):
    book = tmp_path / "umlauts.txt"
    book.write_text("äöü — 日本語 🐈 " * 300, "utf-8")
    model = load({"data.source": str(book), "data.tokenizer": "byte", "train.steps": 60, "optim.lr": 0.02})
    how = {"max_new_tokens": 120, "temperature": 0.3, "seed": 0, "overflow": "slide"}
    pieces = list(gw.stream(model, "äöü ", **how))
    found = gw.generate(model, "äöü ", details=True, **how)
    assert "".join(pieces) == found.text == model.tokenizer.decode(found.ids)
    assert len(pieces) < len(found.ids)  # half a character is held back
    assert {"ä", "日"} & set(pieces)


def test_past_the_learned_positions_the_context_slides(load):
    model = load({"model.position": "learned"})
    text = gw.generate(model, "the cat sat on", max_new_tokens=100, seed=0, overflow="slide")
    assert len(text) == 114
    ids = torch.tensor([model.tokenizer.encode("the cat sat on").tolist()])
    found = model.generate(ids, 60, seed=3)
    generator, seen, out = torch.Generator().manual_seed(3), ids, ids
    for _ in range(60):
        if seen.shape[1] > 16:
            seen = seen[:, -8:]  # the latest half of the context, read anew
        with torch.no_grad():
            token = torch.multinomial(model(seen)[:, -1].softmax(-1), 1, generator=generator)
        seen, out = torch.cat((seen, token), 1), torch.cat((out, token), 1)
    assert torch.equal(found, out)


def test_past_the_learned_positions_a_padded_batch_slides_too(load):
    model = load({"model.position": "learned"})
    mask = torch.tensor([[False] * 6 + [True] * 4, [True] * 10])
    ids = torch.randint(5, 20, (2, 10), generator=torch.Generator().manual_seed(0))
    assert model.generate(ids, 50, do_sample=False, padding_mask=mask).shape == (2, 60)


def test_rotary_positions_go_on_without_end(load):
    model = load({"model.position": "rotary"})
    assert len(gw.generate(model, "the ", max_new_tokens=100, seed=0)) == 104


def test_a_token_that_ends_a_text_ends_the_answer(load, tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for number, letter in enumerate(string.ascii_letters):
        (shelf / f"{number}.txt").write_text(letter + ".")
    changes = {"data.source": str(shelf), "data.val_fraction": 0.3, "model.max_seq_len": 8, "model.dropout": 0.0}
    model = load({**changes, "train.steps": 80})
    assert gw.generate(model, "a", max_new_tokens=7, temperature=0) == "a."
    assert (
        len(gw.generate(model, "", max_new_tokens=50, seed=0, overflow="slide")) < 20
    )  # an empty prompt begins a document
    ids, eot = torch.tensor([model.tokenizer.encode(text).tolist() for text in "a."]), model.tokenizer.eot_id
    dot = int(ids[1, 0])
    assert model.generate(ids, 50, do_sample=False, eos_id=eot)[:, 1:].tolist() == [[dot, eot], [eot, eot]]


def test_dropout_is_off_while_generating(load):
    model = load({"model.dropout": 0.5})
    expected = gw.generate(model, "the ", max_new_tokens=12, temperature=0)
    model.train()
    try:
        assert gw.generate(model, "the ", max_new_tokens=12, temperature=0) == expected
        assert model.training
        ids = torch.tensor([[1, 2, 3]])
        assert torch.equal(model.generate(ids, 20, do_sample=False), model.generate(ids, 20, do_sample=False))
        assert model.training
    finally:
        model.eval()


def test_no_new_tokens(model):
    assert gw.generate(model, "the ", max_new_tokens=0) == "the "


def test_sampling_settings_are_obeyed(model):
    assert gw.generate(model, "the ", max_new_tokens=9, top_k=1, seed=1) == gw.generate(
        model, "the ", max_new_tokens=9, temperature=0
    )
    assert gw.generate(model, "the ", max_new_tokens=9, top_p=1e-6, seed=1) == gw.generate(
        model, "the ", max_new_tokens=9, temperature=0
    )


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"temperature": -0.1}, "temperature is -0.1 and must be 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0 and must be at least 1"),
        ({"top_p": 0.0}, "top_p is 0.0 and must be above 0"),
        ({"top_p": 1.5}, "top_p is 1.5 and must be above 0 and at most 1"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1 and cannot be negative"),
    ],
)
def test_settings_without_meaning_are_refused(model, how, words):
    for call in (lambda: gw.generate(model, "the ", **how), lambda: model.generate(torch.tensor([[1, 2]]), **how)):
        with pytest.raises(gw.GptwrightError, match=words):
            call()


def test_prompts_that_cannot_be_used_are_refused(model):
    with pytest.raises(
        gw.GptwrightError, match=r"has 26 tokens and the model's context \(max_seq_len\) is 16; shorten"
    ):
        gw.generate(model, "the cat sat on the mat and")
    with pytest.raises(gw.GptwrightError, match="the prompt is empty and this tokenizer has no token that begins"):
        gw.generate(model, "")
    with pytest.raises(gw.DataError, match="Q"):
        gw.generate(model, "Q")
    with pytest.raises(gw.GptwrightError, match="the prompt has no token; give at least one"):
        model.generate(torch.zeros(1, 0, dtype=torch.long), 3)
    with pytest.raises(
        gw.GptwrightError, match="the prompt has 17 tokens, but learned positions end at max_seq_len 16"
    ):
        model.generate(torch.ones(1, 17, dtype=torch.long), 3)
    with pytest.raises(gw.GptwrightError, match="ask for at most 6 new tokens, or let the context slide"):
        model.generate(torch.ones(1, 10, dtype=torch.long), 7, overflow="refuse")


def test_a_model_without_a_tokenizer_says_so():
    attention = {"type": "softmax", "n_heads": 2}
    config = {"vocab_size": 5, "d_model": 8, "n_layers": 1, "max_seq_len": 8, "attention": attention}
    model = gw.GPT(gw.ModelConfig.from_dict(config))
    with pytest.raises(gw.GptwrightError, match="this model has no tokenizer"):
        gw.generate(model, "the")
    with pytest.raises(gw.ConfigError, match="this model has no run behind it"):
        gw.evaluate(model)
