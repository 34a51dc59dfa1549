"""Every pair scored with what it shares equals the pair scored alone, for every mixer and every way of sharing."""

import random

import pytest
import torch

import gptwright as gw
from gptwright.evaluate import clusters as clusters_module
from gptwright.evaluate import scoring as scoring_module
from gptwright.evaluate.clusters import Context, clusters
from gptwright.evaluate.scoring import batches, scoring
from gptwright.evaluate.shared import score_pairs

LIMIT = 48
MIXERS = {
    "softmax": {"attention": {"type": "softmax", "n_heads": 2}, "position": "learned"},
    "local": {"attention": {"type": "local", "n_heads": 2, "window": 5}, "position": "rotary"},
    "linear": {"attention": {"type": "linear", "n_heads": 2}, "position": "rotary"},
    "gated_delta": {"attention": {"type": "gated_delta", "n_heads": 2}, "position": "none"},
    "latent": {"attention": {"type": "latent", "n_heads": 2, "kv_rank": 8}, "position": "rotary"},
    "hybrid": {
        "position": "rotary",
        "blocks": {
            "near": {"attention": {"type": "local", "n_heads": 2, "window": 6}, "feed_forward": {"type": "mlp"}},
            "far": {
                "attention": {"type": "softmax", "n_heads": 2},
                "feed_forward": {"type": "moe", "n_experts": 4, "top_k": 2, "d_ff": 24},
            },
        },
        "pattern": ["near", "far"],
    },
}


def drawn(**config) -> gw.GPT:
    torch.manual_seed(0)
    settings = {"vocab_size": 29, "d_model": 16, "n_layers": 2, "max_seq_len": LIMIT, **config}
    model = gw.GPT(gw.ModelConfig.from_dict(settings))
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def questions(seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Return pairs with everything that can be shared: beginnings, contexts, continuations, none of it."""
    draw = random.Random(seed)

    def ids(least, most):
        return [draw.randrange(29) for _ in range(draw.randint(least, most))]

    pairs = []
    examples = ids(20, 20)
    for number in range(7):  # few-shot: long common beginning, contexts of several lengths, some with one continuation
        context = examples + ids(1, 9)
        pairs += [(context, ids(1, 6)) for _ in range(1 + number % 4)]
    for _ in range(4):  # nothing in common
        context = ids(1, 12)
        pairs += [(context, ids(1, 5)) for _ in range(3)]
    context = ids(4, 4)
    pairs += [(context, [token]) for token in range(4)]  # letters as answers
    pairs += [(examples, ids(2, 2)), (examples[:12], ids(3, 3)), (context, ids(30, 30))]
    pairs += [(ids(60, 60), ids(5, 5)), (ids(60, 60), ids(LIMIT, LIMIT)), pairs[0]]  # too long; twice the same
    draw.shuffle(pairs)
    return pairs


def alone(model, context, continuation):
    """Return what the law of equality says: one forward pass a pair."""
    ids = [*context, *continuation][-(LIMIT + 1) :]
    with torch.no_grad():
        logprobs = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)[-len(continuation) :]
    expected = torch.tensor(continuation)
    return float(logprobs.gather(1, expected[:, None]).sum()), bool((logprobs.argmax(-1) == expected).all())


def agree(model, pairs, **how):
    with scoring(model) as ready:
        found = score_pairs(ready, pairs, limit=LIMIT, **how)
    for (context, continuation), (logprob, greedy) in zip(pairs, found, strict=True):
        expected = alone(model, context, continuation)
        assert logprob == pytest.approx(expected[0], abs=1e-4)
        assert greedy == expected[1]
    return found


@pytest.mark.parametrize("most", [None, 1, 3])
@pytest.mark.parametrize("mixer", MIXERS)
def test_pairs_equal_those_scored_alone(mixer, most, monkeypatch):
    monkeypatch.setattr(clusters_module, "WORTH", 16)  # tiny texts share little
    found = agree(drawn(**MIXERS[mixer]), questions(), most=most)
    assert len({logprob for logprob, _ in found}) == len(found) - 1  # one pair is there twice


def test_greedy_is_what_the_model_writes():
    model = drawn(**MIXERS["softmax"])
    context = [3, 1, 4, 1, 5]
    written = model.generate(torch.tensor([context]), 4, do_sample=False)[0, 5:].tolist()
    found = agree(model, [(context, written), (context, written[:2]), (context, [*written[:3], (written[3] + 1) % 29])])
    assert [greedy for _, greedy in found] == [True, True, False]


def test_logits_in_pieces_are_the_same(monkeypatch):
    monkeypatch.setattr(scoring_module, "LOGITS", 29 * 3)
    agree(drawn(**MIXERS["softmax"]), questions(1))


def test_shared_tokens_are_read_once(monkeypatch):
    monkeypatch.setattr(clusters_module, "WORTH", 16)
    model, read = drawn(**MIXERS["softmax"]), []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids, *rest: (read.append(ids.numel()), hidden(ids, *rest))[1])
    examples = list(range(20))
    pairs = [([*examples, question], [answer, 7]) for question in (1, 2, 3) for answer in (4, 5, 6, 8)]
    with scoring(model):
        score_pairs(model, pairs, limit=LIMIT)
    assert sum(read) == 20 + 3 * 1 + 12 * 1  # the examples, the questions, and all but the last token of each answer
    read.clear()
    with scoring(model):
        score_pairs(model, [(examples, [answer]) for answer in range(10)], limit=LIMIT)
    assert sum(read) == 20  # answers of a single token cost nothing


def test_batches_are_full_and_little_of_them_is_padding():
    draw = random.Random(0)
    lengths = [draw.randint(1, 400) for _ in range(500)] + [5000]
    found = list(batches(lengths))
    assert sorted(number for batch in found for number in batch) == list(range(501))
    assert lengths[found[0][0]] == 5000
    assert len(found[0]) == 1  # a row that is longer than there is room stands alone
    fed = [max(lengths[number] for number in batch) * len(batch) for batch in found[1:]]
    assert max(fed) <= scoring_module.ROOM
    assert sum(lengths) - 5000 > 0.93 * sum(fed)
    assert all(len(batch) <= 7 for batch in batches(lengths, most=7))


def test_clusters_are_cut_where_they_stop_paying(monkeypatch):
    monkeypatch.setattr(clusters_module, "WORTH", 20)
    first, second = tuple(range(30)), tuple(range(100, 130))
    contexts = [Context((*first, n)) for n in range(3)] + [Context((*second, n)) for n in range(3)] + [Context((7,))]
    found = sorted((cluster.shared, len(cluster.contexts)) for cluster in clusters(contexts))
    assert found == [(0, 1), (30, 3), (30, 3)]


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        (([], [1]), "the context of a request has no token"),
        (([1], []), "the continuation of a request has no token"),
        (([1], [1] * (LIMIT + 1)), f"a continuation has {LIMIT + 1} tokens and the model reads {LIMIT} at most"),
    ],
)
def test_what_cannot_be_scored_is_said(pair, sentence):
    with pytest.raises(gw.GptwrightError, match=sentence):
        score_pairs(drawn(**MIXERS["softmax"]), [pair], limit=LIMIT)


def test_no_pairs_are_no_work():
    assert score_pairs(drawn(**MIXERS["softmax"]), [], limit=LIMIT) == []
