import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gptwright.ops.attention_reference import attention_reference
from gptwright.ops.attention_rules import Scoring
from gptwright.ops.latent_attention import Latents, Queries, absorbed_attention, expanded_attention
from gptwright.ops.reference import reference_paths

B, H, S, C, PLAIN, TURNED, VALUE = 2, 3, 20, 5, 4, 2, 7
LAST = (1, 2, 9, 20)
"""Numbers of queries, the newest of S tokens."""

SLOPES = torch.tensor([0.5, 0.1, 0.02])
SCORINGS = {
    "plain": Scoring(),
    "scale": Scoring(scale=0.3),
    "softcap": Scoring(softcap=2.0),
    "slopes": Scoring(slopes=SLOPES),
    "sinks": Scoring(sinks=torch.tensor([0.3, -1.0, 2.0])),
    "all": Scoring(2.0, SLOPES, torch.tensor([0.3, -1.0, 2.0]), 0.3),
}
every_scoring = pytest.mark.parametrize("scoring", SCORINGS.values(), ids=SCORINGS)


def inputs(draw, times: int):
    shapes = (B, H, times, PLAIN), (B, H, times, TURNED), (B, 1, S, C), (B, 1, S, TURNED), (H, PLAIN + VALUE, C)
    return draw(*shapes)


def causal(times: int) -> torch.Tensor:
    """Hide the future, and in row 1 the first three keys of all but themselves."""
    mask = torch.ones(B, S, S, dtype=torch.bool).tril()
    mask[1, 3:, :3] = False
    return mask[:, S - times :]


def run(function, times: int, **more):
    at = torch.arange(S).expand(B, S)
    more = {"mask": causal(times), "positions": (at[:, S - times :], at), **more}
    mask = more.pop("mask")
    return lambda plain, turned, latent, key, up: function(
        Queries(plain, turned), Latents(latent, key), up, mask, **more
    )


def by_hand(q: Queries, kept: Latents, up, mask, *, scoring, positions):
    """Each key and value of each head, made of the latent one by one."""
    outs = []
    for head in range(H):
        expanded = kept.latent[:, 0] @ up[head].T  # (B, S, d + e)
        keys = torch.cat((expanded[..., :PLAIN], kept.turned[:, 0]), -1)[:, None]
        one = scoring._replace(
            slopes=None if scoring.slopes is None else scoring.slopes[head : head + 1],
            sinks=None if scoring.sinks is None else scoring.sinks[head : head + 1],
        )
        query = torch.cat((q.plain, q.turned), -1)[:, head : head + 1]
        values = expanded[:, None, :, PLAIN:]
        outs.append(attention_reference(query, keys, values, mask, scoring=one, positions=positions))
    return torch.cat(outs, 1)


@every_scoring
@pytest.mark.parametrize("times", LAST)
def test_expanded_is_made_by_hand(agree, draw, times, scoring):
    agree(run(expanded_attention, times, scoring=scoring), run(by_hand, times, scoring=scoring), inputs(draw, times))


@every_scoring
@pytest.mark.parametrize("times", LAST)
def test_absorbed_is_expanded(agree, draw, times, scoring):
    ours, other = (run(function, times, scoring=scoring) for function in (absorbed_attention, expanded_attention))
    agree(ours, other, inputs(draw, times))


def test_gradients_reach_the_sinks(agree, draw):
    drawn = inputs(draw, 3)

    def with_sinks(function):
        return lambda sinks: run(function, 3, scoring=Scoring(sinks=sinks))(*drawn)

    agree(with_sinks(absorbed_attention), with_sinks(expanded_attention), draw((H,)))


def test_without_a_mask_every_key_is_seen(agree, draw):
    ours, other = (run(function, 1, mask=None) for function in (absorbed_attention, expanded_attention))
    agree(ours, other, inputs(draw, 1))


@pytest.mark.parametrize("times", LAST)
def test_positions_are_the_last_indices_by_default(draw, times):
    drawn, scoring = inputs(draw, times), Scoring(slopes=SLOPES)
    found = run(absorbed_attention, times, scoring=scoring, positions=None)(*drawn)
    torch.testing.assert_close(found, run(absorbed_attention, times, scoring=scoring)(*drawn))


def test_weights_are_dropped(draw):
    drawn = inputs(draw, 1)
    whole = run(absorbed_attention, 1)(*drawn)
    torch.manual_seed(0)
    found = torch.stack([run(absorbed_attention, 1, scoring=Scoring(dropout=0.5))(*drawn) for _ in range(2000)])
    assert found.std(0).min() > 0.01
    torch.testing.assert_close(found.mean(0), whole, rtol=0, atol=0.15)


def test_nothing_is_expanded_over_the_keys(draw):
    """What each further key costs is its products with all heads, not its expansion."""
    plain, turned, latent, key, up = inputs(draw, 1)

    def flops(keys: int) -> int:
        with FlopCounterMode(display=False) as counter:
            absorbed_attention(Queries(plain, turned), Latents(latent[:, :, :keys], key[:, :, :keys]), up, None)
        return counter.get_total_flops()

    assert flops(S) - flops(S // 2) == 2 * B * H * (S - S // 2) * (2 * C + TURNED)


def test_the_reference_takes_over(draw):
    drawn = inputs(draw, 2)
    with reference_paths():
        assert torch.equal(run(absorbed_attention, 2)(*drawn), run(expanded_attention, 2)(*drawn))
    assert not torch.equal(run(absorbed_attention, 2)(*drawn), run(expanded_attention, 2)(*drawn))


def test_weights_are_computed_in_fp32(draw):
    """What distance costs is hundreds here, where bf16 knows whole numbers at best."""
    drawn = [x.bfloat16() for x in inputs(draw, 1)]
    at = torch.arange(S).expand(B, S)
    far = {"mask": None, "scoring": Scoring(slopes=torch.full((H,), 0.5)), "positions": (at[:, -1:] + 1000, at)}
    found, expected = (run(absorbed_attention, 1, **far)(*x) for x in (drawn, [x.float() for x in drawn]))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
