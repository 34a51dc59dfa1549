"""Many sequences at once: each written as if it were alone, whoever joins, leaves, is cancelled or fails."""

import itertools
import random

import pytest
import torch

import gptwright as gw
from gptwright.errors import GptwrightError
from gptwright.generate.engine import Engine, Request
from gptwright.generate.sampling import Sampling

ATTENTIONS = {
    "softmax": {"type": "softmax", "n_heads": 2},
    "local": {"type": "local", "n_heads": 2, "window": 5},
    "linear": {"type": "linear", "n_heads": 2},
    "latent": {"type": "latent", "n_heads": 2},
}
GREEDY = Sampling(max_new_tokens=10, temperature=0)


def make(attention="softmax", *, dtype=torch.float32, **changes) -> gw.GPT:
    settings = {"vocab_size": 40, "d_model": 16, "n_layers": 2, "max_seq_len": 48, "position": "rotary"}
    torch.manual_seed(0)
    model = gw.GPT(gw.ModelConfig.from_dict({**settings, "attention": ATTENTIONS[attention], **changes}))
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model.to(dtype).eval()


def prompts(seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    found = [[draw.randrange(40) for _ in range(length)] for length in (3, 31, 17, 1, 9, 24)]
    return [*found, found[1][:20], found[0]]  # one that begins like another, and one that comes twice


def write(model, requests, **how) -> list[list[int]]:
    engine = Engine(model, **how)
    tickets = [engine.submit(request) for request in requests]
    engine.run()
    assert not engine.busy
    return [ticket.ids for ticket in tickets]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_seed_gives_the_same_text_alone_and_in_any_batch_and_order(attention, dtype):
    model = make(attention, dtype=dtype)
    sampling = Sampling(max_new_tokens=25, temperature=1.0, seed=5, repetition_penalty=1.1)
    requests = [Request(ids, sampling) for ids in prompts()]
    alone = [write(model, [request], rows=1, chunk=8)[0] for request in requests]
    assert len({tuple(ids) for ids in alone}) > 5
    draw = random.Random(1)
    for rows in (2, 3, 16):
        order = list(range(len(requests)))
        draw.shuffle(order)
        found = write(model, [requests[i] for i in order], rows=rows, chunk=8)
        assert [found[order.index(i)] for i in range(len(order))] == alone


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_greedy_is_the_likeliest_token_of_the_full_forward(attention):
    model = make(attention)
    for ids, new in zip(prompts(3), write(model, [Request(ids, GREEDY) for ids in prompts(3)], rows=4), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([ids + new[:-1]]))[0, len(ids) - 1 :]
        assert new == logits.argmax(-1).tolist()


def test_samples_of_one_prompt_differ_and_are_those_that_each_number_draws():
    model = make()
    sampling = Sampling(max_new_tokens=12, temperature=1.0, seed=3)
    requests = [Request([1, 2, 3], sampling, sample=n) for n in range(4)]
    together = write(model, requests)
    assert together == [write(model, [request], rows=1)[0] for request in requests]
    assert len({tuple(ids) for ids in together}) == 4


def test_without_a_seed_texts_differ():
    model = make()
    texts = {tuple(write(model, [Request([1], Sampling(max_new_tokens=12, temperature=1.0))])[0]) for _ in range(3)}
    assert len(texts) == 3


def test_a_prompt_that_was_read_is_not_read_again():
    model, fed = make(), []
    engine = Engine(model, rows=3, chunk=8)
    extend = engine.decoder.extend
    engine.decoder.extend = lambda row, ids, **how: fed.append(len(ids)) or extend(row, ids, **how)
    shared = prompts()[1]
    expected = write(model, [Request([*shared, 7], GREEDY)], rows=1, chunk=8)[0]
    for ids in (shared, [*shared, 7]):
        fed.clear()
        ticket = engine.submit(Request(ids, GREEDY))
        engine.run()
    assert sum(fed) == len(shared) + 1 - 24  # three whole chunks of 8 were there
    assert ticket.ids == expected
    fed.clear()
    for sample in range(3):
        engine.submit(Request([5] * 9, GREEDY, sample=sample))
    engine.run()
    assert sum(fed) == 9


def test_everything_can_be_reused_or_nothing():
    model = make()
    for reuse, read in (("none", 22), ("all", 2)):
        engine, fed = Engine(model, rows=1, reuse=reuse), []
        first = engine.submit(Request(prompts()[2][:11], GREEDY))
        engine.run()
        extend = engine.decoder.extend
        engine.decoder.extend = lambda row, ids, fed=fed, extend=extend, **how: (
            fed.append(len(ids)) or extend(row, ids, **how)
        )
        engine.submit(Request([*prompts()[2][:11], *first.ids, 3], GREEDY))
        engine.run()
        assert sum(fed) == read


def test_sequences_join_and_leave_between_steps():
    model = make()
    engine = Engine(model, rows=2)
    long = engine.submit(Request([1, 2], Sampling(max_new_tokens=30, temperature=0)))
    for _ in range(5):
        engine.step()
    short = engine.submit(Request([3], Sampling(max_new_tokens=2, temperature=0)))
    third = engine.submit(Request([4], Sampling(max_new_tokens=2, temperature=0)))
    engine.step()
    assert (len(short.ids), len(third.ids)) == (1, 0)  # there is room for two
    engine.run()
    assert (len(long.ids), short.finish_reason, third.finish_reason) == (30, "length", "length")


def test_cancelled_ones_leave_and_the_others_go_on():
    model = make()
    expected = write(model, [Request(ids, GREEDY) for ids in prompts()[:3]], rows=1)
    for at, who in itertools.product((0, 1, 4), range(3)):
        engine = Engine(model, rows=2)
        tickets = [engine.submit(Request(ids, GREEDY)) for ids in prompts()[:3]]
        for _ in range(at):
            engine.step()
        tickets[who].cancel()
        engine.run()
        for number, ticket in enumerate(tickets):
            if number == who and len(ticket.ids) < 10:
                assert ticket.finish_reason == "cancelled"
            else:
                assert ticket.ids == expected[number]


def test_what_is_called_with_each_token_can_end_it():
    seen = []

    def look(ticket, choice):
        seen.append((len(ticket.ids), choice.token))
        return len(seen) == 3

    model = make()
    engine = Engine(model)
    ticket = engine.submit(Request([1, 2], GREEDY, on_token=look))
    engine.run()
    assert (ticket.finish_reason, [token for _, token in seen]) == ("stop", ticket.ids)
    assert [length for length, _ in seen] == [1, 2, 3]


def test_ends_stops_and_lengths():
    model = make()
    ids = write(model, [Request([1, 2], GREEDY)])[0]
    for how, sampling, ends, expected in (
        ("stop", GREEDY, [ids[4]], ids[: ids.index(ids[4])]),
        ("stop", Sampling(max_new_tokens=10, temperature=0, stop_ids=(ids[4],)), [], ids[: ids.index(ids[4]) + 1]),
        ("length", Sampling(max_new_tokens=10, temperature=0, ignore_end=True), [ids[4]], ids),
        ("length", Sampling(max_new_tokens=0), [], []),
        ("length", Sampling(temperature=0, max_new_tokens=1), [], ids[:1]),
    ):
        engine = Engine(model)
        ticket = engine.submit(Request([1, 2], sampling, end_ids=ends))
        engine.run()
        assert (ticket.finish_reason, ticket.ids) == (how, expected)


def test_one_that_cannot_go_on_does_not_take_the_others_with_it():
    class Nothing:
        finished = False

        def mask(self):
            return torch.zeros(40, dtype=torch.bool)

        def take(self, token):
            pass

    model = make()
    engine = Engine(model)
    bad = engine.submit(Request([1, 2], GREEDY, constraint=Nothing()))
    good = engine.submit(Request([1, 2], GREEDY))
    with pytest.raises(GptwrightError, match="no token is left"):
        engine.run()
    assert (bad.finish_reason, good.finish_reason) == ("error", "length")
    assert good.ids == write(model, [Request([1, 2], GREEDY)])[0]


@pytest.mark.parametrize("attention", ["softmax", "linear"])
def test_where_positions_end_it_slides_on_as_if_read_anew(attention):
    model = make(attention, position="learned", max_seq_len=16)
    for rows in (1, 3):
        requests = [Request(ids[:14], Sampling(max_new_tokens=40, temperature=0)) for ids in prompts()[:4]]
        for request, new in zip(requests, write(model, requests, rows=rows, overflow="slide"), strict=True):
            seen = list(request.ids)
            for token in new:
                if len(seen) > 16:
                    seen = seen[-8:]
                with torch.no_grad():
                    assert token == int(model(torch.tensor([seen]))[0, -1].argmax())
                seen.append(token)


def test_rings_and_sums_go_on_without_end():
    for attention in ("local", "linear"):
        model = make(attention)
        assert len(write(model, [Request([1], Sampling(max_new_tokens=300, temperature=0))])[0]) == 300


def test_default_length_is_what_has_room():
    model = make(position="learned")
    engine = Engine(model)
    ticket = engine.submit(Request([1] * 40, Sampling(temperature=0)))
    engine.run()
    assert (len(ticket.ids), ticket.finish_reason) == (8, "length")


@pytest.mark.parametrize(
    ("ids", "sampling", "sentence"),
    [
        ([], GREEDY, "the prompt has no token; give at least one"),
        ([40], GREEDY, r"token ids run from 40 to 40, but the vocabulary has 40 tokens \(0 to 39\); encode"),
        ([-1, 3], GREEDY, "token ids run from -1 to 3"),
        ([1] * 49, GREEDY, "the prompt has 49 tokens, but learned positions end at max_seq_len 48; shorten the prompt"),
        ([1] * 48, Sampling(), "the prompt has 48 tokens, but learned positions end at max_seq_len 48"),
        ([1] * 40, GREEDY, "40 tokens and 10 new ones were asked for, .* ask for at most 8 new tokens, or let the con"),
        ([1], Sampling(temperature=0, top_k=5), "top_k"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(ids, sampling, sentence):
    engine = Engine(make(position="learned"))
    with pytest.raises(GptwrightError, match=sentence):
        engine.submit(Request(ids, sampling))
    assert not engine.busy


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"rows": 0}, "rows is 0, and must be at least 1"),
        ({"overflow": "wrap"}, "overflow is 'wrap', and must be refuse or slide"),
        ({"chunk": 0}, "chunk is 0, and must be at least 1"),
        ({"reuse": "some"}, "reuse is 'some', and must be chunks, all or none"),
    ],
)
def test_an_engine_that_has_no_meaning(how, sentence):
    with pytest.raises(GptwrightError, match=sentence):
        Engine(make(), **how)
