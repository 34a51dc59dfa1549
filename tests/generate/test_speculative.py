"""Guessing ahead changes no token, and costs no run more than it may."""

import itertools
import random
from collections import Counter

import pytest
import torch

from gptwright.errors import GptwrightError
from gptwright.generate.engine import Engine, Request
from gptwright.generate.gate import Gate
from gptwright.generate.guess import Draft, PromptLookup
from gptwright.generate.sampling import Sampling
from gptwright.generate.speculative import Speculation, speculation
from gptwright.model.config import ModelConfig
from gptwright.model.gpt import GPT
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char

SOFTMAX = {"type": "softmax", "n_heads": 2}
LOCAL = {"type": "local", "n_heads": 2, "window": 6}
GATED = {"type": "gated_delta", "n_heads": 2}
KINDS = {
    "softmax": {"attention": SOFTMAX, "position": "rotary"},
    "learned": {"attention": SOFTMAX, "position": "learned"},
    "local": {"attention": LOCAL, "position": "rotary"},
    "linear": {"attention": {"type": "linear", "n_heads": 2}},
    "gated_delta": {"attention": GATED},
    "latent": {"attention": {"type": "latent", "n_heads": 2, "kv_rank": 8}},
    "hybrid": {
        "blocks": {"near": {"attention": LOCAL}, "sum": {"attention": GATED}, "far": {"attention": SOFTMAX}},
        "pattern": ["near", "sum", "far"],
    },
}
PROMPT = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]


def make(kind="softmax", seed=0, **changes) -> GPT:
    settings = {"vocab_size": 8, "d_model": 16, "n_layers": 3, "max_seq_len": 64, "init": {"std": 0.25}}
    torch.manual_seed(seed)
    return GPT(ModelConfig.from_dict({**settings, **KINDS[kind], **changes})).eval()


def near(model: GPT) -> GPT:
    """Return a draft that often agrees with ``model``."""
    draft = model.twin(torch.float32)
    with torch.no_grad():
        for weight in draft.parameters():
            weight.mul_(1 + 0.05 * torch.randn_like(weight))
    return draft


def eager() -> Gate:
    """Return a gate to which every step takes equally long, so that guesses pay."""
    return Gate(itertools.count().__next__)


def write(model: GPT, request: Request, guesses: Speculation | None = None):
    """Return the ticket of ``request`` when it is done, written plainly or with guesses."""
    engine = Engine(model, rows=1, speculation=guesses)
    ticket = engine.submit(request)
    engine.run()
    return ticket


GUESSERS = {
    "lookup": lambda model: PromptLookup(),
    "draft": lambda model: Draft(near(model)),
    "poor draft": lambda model: Draft(make(seed=9)),
}
SETTINGS = {
    "greedy": Sampling(temperature=0, max_new_tokens=40),
    "sampled": Sampling(temperature=0.7, max_new_tokens=40),
    "penalised": Sampling(
        temperature=0.9, top_k=5, repetition_penalty=1.3, frequency_penalty=0.4, logprobs=2, max_new_tokens=40
    ),
}


@pytest.mark.parametrize("guesser", GUESSERS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_token_changes(kind, guesser):
    model = make(kind)
    for sampling in SETTINGS.values():
        request = Request(PROMPT, sampling, seed=3)
        plain = write(model, request)
        guesses = Speculation(model, GUESSERS[guesser](model), eager())
        found = write(model, request, guesses)
        assert (found.ids, found.finish_reason) == (plain.ids, plain.finish_reason)
        assert len(found.ids) == 40
        assert guesses.guessed > 0
        for ours, theirs in zip(found.choices, plain.choices, strict=True):
            assert ours.logprob == (None if theirs.logprob is None else pytest.approx(theirs.logprob, abs=1e-4))


def test_a_model_that_drafts_for_itself_is_always_right():
    model = make()
    guesses = Speculation(model, Draft(model), eager())
    write(model, Request(PROMPT, Sampling(max_new_tokens=40), seed=1), guesses)
    assert guesses.accepted == guesses.guessed > 20
    assert guesses.steps < 15


@pytest.mark.parametrize("kind", ["softmax", "local", "gated_delta"])
def test_a_stop_id_in_the_middle_of_a_guess(kind):
    model = make(kind)
    plain = write(model, Request(PROMPT, Sampling(temperature=0.7, max_new_tokens=40), seed=5))
    counts = Counter(plain.ids)
    stop = min(counts, key=counts.__getitem__)
    for request in (
        Request(PROMPT, Sampling(temperature=0.7, max_new_tokens=40, stop_ids=(stop,)), seed=5),
        Request(PROMPT, Sampling(temperature=0.7, max_new_tokens=40), seed=5, end_ids=(stop,)),
    ):
        expected = write(model, request)
        found = write(model, request, Speculation(model, Draft(model), eager()))
        assert (found.ids, found.finish_reason) == (expected.ids, "stop")
        assert len(found.ids) < 40


def test_nothing_is_guessed_beyond_where_positions_end():
    model = make("learned", max_seq_len=24)
    request = Request(PROMPT, Sampling(temperature=0, max_new_tokens=14), seed=0)
    for guesser in (PromptLookup(), Draft(model)):
        found = write(model, request, Speculation(model, guesser, eager()))
        assert found.ids == write(model, request).ids
        assert len(found.ids) == 14


def test_no_more_is_guessed_than_is_asked_for():
    model = make()
    guesses = Speculation(model, Draft(model, length=32), eager())
    found = write(model, Request(PROMPT, Sampling(temperature=0, max_new_tokens=9)), guesses)
    assert len(found.ids) == 9
    assert guesses.guessed == guesses.accepted


def test_one_guesser_serves_one_text_after_another():
    model = make("hybrid")
    guesses = Speculation(model, Draft(near(model)), eager())
    for seed in range(3):
        request = Request(PROMPT[seed:], Sampling(max_new_tokens=20), seed=seed)
        assert write(model, request, guesses).ids == write(model, request).ids


def test_sampled_tokens_have_the_model_s_distribution():
    model = make(vocab_size=5)
    draft = near(model)
    prompt, seen = [1, 2, 3, 1, 2], Counter()
    for seed in range(250):
        guesses = Speculation(model, Draft(draft), eager())
        ticket = write(model, Request(prompt, Sampling(temperature=1.0, max_new_tokens=5), seed=seed), guesses)
        seen[tuple(ticket.ids[3:])] += 1  # the fourth is a guess that was checked
    logits_of = {}
    for ids in itertools.product(range(5), repeat=4):
        logits_of[ids] = torch.tensor([*prompt, *ids])
    with torch.no_grad():
        chances = model(torch.stack(list(logits_of.values()))).softmax(-1).double()  # (625, T, V)
    expected = Counter()
    for ids, rows in zip(logits_of, chances, strict=True):
        before = torch.stack([rows[len(prompt) - 1 + n, token] for n, token in enumerate(ids)]).prod()
        for last in range(5):
            expected[ids[3], last] += 250 * float(before * rows[len(prompt) + 3, last])
    pooled = [(seen[pair], mean) for pair, mean in expected.items() if mean >= 5]
    rest = 250 - sum(n for n, _ in pooled), 250 - sum(mean for _, mean in pooled)
    chi_square = sum((n - mean) ** 2 / mean for n, mean in [*pooled, rest])
    assert chi_square < len(pooled) + 4 * (2 * len(pooled)) ** 0.5  # four standard deviations


def test_lookup_takes_the_latest_and_longest_match():
    lookup = PromptLookup(max_ngram=3, length=4)
    ids = [7, 1, 2, 3, 9, 9, 1, 2, 3, 5, 6, 0, 2, 3]
    assert lookup.look(ids) == 2
    assert lookup.guess(ids, 4) == [5, 6, 0, 2]
    assert lookup.look([*ids, 5]) == 3
    assert lookup.guess([*ids, 5], 2) == [6, 0]
    assert lookup.look([*ids, 5, 4]) is None


def test_lookup_goes_round_where_the_text_repeats_itself():
    lookup = PromptLookup()
    ids = [4, 5, 6, 4, 5, 6, 4]
    assert lookup.look(ids) == 3
    assert lookup.guess(ids, 8) == [5, 6, 4, 5, 6, 4, 5, 6]


def test_lookup_knows_nothing_of_an_earlier_text():
    lookup, model = PromptLookup(), make()
    engine = Engine(model, rows=1)
    lookup.look([1, 2, 3, 4])
    lookup.begin(engine.submit(Request([1])))
    assert lookup.look([3]) is None


def run(gate: Gate, slope: float, right, tokens: int, most: int = 10) -> float:
    """Return the time of a run: a guessed token costs ``slope`` plain steps, ``right(place)`` says if it was."""
    gate.begin(tokens)
    elapsed = written = 0
    while written < tokens:
        length = gate.length(1, min(most, tokens - written - 1))
        accepted = next((n for n in range(length) if not right(written + n)), length)
        elapsed += 1 + slope * length
        written += accepted + 1
        gate.checked(1, length, accepted, 1 + slope * length) if length else gate.stepped(1)
    return elapsed


@pytest.mark.parametrize("slope", [0.02, 0.2, 1.0])
@pytest.mark.parametrize("chance", [0.0, 0.02, 0.2, 0.5])
@pytest.mark.parametrize("tokens", [100, 256, 3000])
def test_guesses_never_cost_three_percent(slope, chance, tokens):
    draw = random.Random(0)
    assert run(Gate(), slope, lambda place: draw.random() < chance, tokens) <= 1.03 * tokens


def test_guesses_that_are_right_are_made():
    assert run(Gate(), 0.05, lambda place: True, 256) < 256 / 4


def test_a_text_that_begins_to_repeat_itself_is_noticed():
    assert run(Gate(), 0.05, lambda place: place > 300, 2000) < 2000 / 2


def test_guesses_too_dear_are_given_up():
    assert run(Gate(), 1.5, lambda place: True, 4000) <= 4000 + 12  # trials that lose half a step, ever more seldom


def test_what_the_first_guess_set_up_is_not_held_against_the_next():
    gate = Gate()
    for _ in range(3):
        gate.stepped(1.0)
    assert gate.length(1, 10) == 1
    gate.checked(1, 1, 1, 6.0)
    elapsed = run(gate, 0.05, lambda place: True, 1000)
    assert elapsed < 2 * 1000 / 3


def test_a_model_with_other_tokens_is_no_draft():
    with pytest.raises(GptwrightError, match=r"the draft has a vocabulary of 9 tokens and the model one of 8"):
        speculation(make(), make(vocab_size=9))
    ours, theirs = make(vocab_size=256), make(vocab_size=256)
    ours.tokenizer = Byte.train(Byte.Config(), (), with_eot=False)
    theirs.tokenizer = Char.train(Char.Config(), ("abc",), with_eot=False)
    with pytest.raises(GptwrightError, match=r"the draft's char tokenizer is not the model's byte tokenizer"):
        speculation(ours, theirs)
    assert isinstance(speculation(ours, near(ours)).guesser, Draft)


def test_what_guesses_is_named():
    assert isinstance(speculation(make(), "lookup", length=4).guesser, PromptLookup)
    with pytest.raises(GptwrightError, match="guesses come by 'lookup' or from a model, not from 'magic'"):
        speculation(make(), "magic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(GptwrightError, match="length is 0, and must be at least 1"):
        speculation(make(), "lookup", length=0)
