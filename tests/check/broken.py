"""Components with one mistake each, as people make them: its law is written above each class."""

import torch
import torch.nn.functional as F
from torch import nn

from gptwright import Attention, FeedForward, Norm, Position, Sequence
from gptwright.nn.attention.softmax import Softmax
from gptwright.nn.feed_forward.mlp import MLP
from gptwright.nn.state.cache import KeyValueCache
from gptwright.ops.reference import PAIRS, beside


class Plain(Attention):
    """Nothing wrong: what the others are written on."""

    def __init__(self, config, ctx):
        super().__init__(config, ctx)
        self.qkv_proj = nn.Linear(ctx.d_model, 3 * ctx.d_model, bias=False)

    def sees(self, seq):
        return seq.visible()

    def forward(self, x, seq, state=None):
        q, k, v = self.qkv_proj(x).chunk(3, -1)
        scores = (q @ k.mT).float() / q.shape[-1] ** 0.5
        return scores.masked_fill(~self.sees(seq), -torch.inf).softmax(-1).to(v.dtype) @ v


def earlier(seq):
    index = torch.arange(len(seq))
    return index[:, None] >= index


# shapes are kept
class Raises(Plain):
    def forward(self, x, seq, state=None):
        raise ValueError("the kernel is asleep\nand dreams")


# shapes are kept
class Narrows(Plain):
    def forward(self, x, seq, state=None):
        return super().forward(x, seq)[..., :-1]


# shapes are kept
class ReturnsWeightsToo(Plain):
    def forward(self, x, seq, state=None):
        return super().forward(x, seq), None


# calls are independent
class CountsItsCalls(Plain):
    calls = 0

    def forward(self, x, seq, state=None):
        self.calls += 1
        return super().forward(x, seq) * (1 + 0.01 * self.calls)


# the future is unseen
class Peeks(Plain):
    def sees(self, seq):
        return seq.segments[:, :, None] == seq.segments[:, None, :]


# padding stays finite
class NothingForPadding(Plain):
    def sees(self, seq):
        return seq.visible() & seq.real[:, None, :]


# padding changes nothing
class SeesPadding(Plain):
    def sees(self, seq):
        return seq.visible() | (earlier(seq) & ~seq.real[:, None, :])


# packing changes nothing
class SeesOtherDocuments(Plain):
    def sees(self, seq):
        return seq.visible() | (earlier(seq) & seq.real[:, None, :] & seq.real[:, :, None])


# gradients ignore neighbours
class LearnsTwiceFromPaddedRows(Plain):
    def forward(self, x, seq, state=None):
        out = super().forward(x, seq)
        return out + (out - out.detach()) * (~seq.real).any(1)[:, None, None].to(x.dtype)


# everything learns
class Idles(Plain):
    def __init__(self, config, ctx):
        super().__init__(config, ctx)
        self.unused = nn.Parameter(torch.ones(ctx.d_model))

    def forward(self, x, seq, state=None):
        return super().forward(x, seq) + 0 * self.unused


# steps equal full
class Forgets(Softmax):
    def forward(self, x, seq, state=None):
        if state is not None:
            state.v.mul_(0.9)
        return super().forward(x, seq, state)


# padded steps equal full
class ForgetsInPaddedBatches(Softmax):
    def forward(self, x, seq, state=None):
        if state is not None and seq.start is None:
            state.v.mul_(0.9)
        return super().forward(x, seq, state)


class Cache(KeyValueCache):
    @classmethod
    def of(cls, cache):
        cache.__class__ = cls
        return cache


class SelectsAll(Cache):
    def select(self, rows):
        return self


class TruncatesNothing(Cache):
    def truncate(self, length):
        pass

    def select(self, rows):
        return type(self).of(super().select(rows))


# states can be selected
class SelectsWrongly(Softmax):
    def init_state(self, *args, **kwargs):
        return SelectsAll.of(super().init_state(*args, **kwargs))


# states can be truncated
class TruncatesWrongly(Softmax):
    def init_state(self, *args, **kwargs):
        return TruncatesNothing.of(super().init_state(*args, **kwargs))


# rows go on by themselves
class TakesRowsForEquals(Softmax):
    def forward(self, x, seq, state=None):
        if seq.ragged:
            seq = Sequence.at(seq.positions[:1].expand_as(seq.positions).contiguous())
        return super().forward(x, seq, state)


def scaled_reference(x):
    return x * 2


@beside(scaled_reference)
def scaled(x):
    return x * 2 if x.shape[1] != 1000 else x * 2.001


PAIRS.pop("scaled")  # which no component of ours reaches


# fast paths equal references
class FastAndWrong(Plain):
    def forward(self, x, seq, state=None):
        return scaled(super().forward(x, seq))


# compiled equals eager
class Untraceable(Plain):
    def forward(self, x, seq, state=None):
        out = super().forward(x, seq)
        return out if float(x.detach().abs().max()) < 1e9 else 2 * out


# slices sum to the whole
class CutThroughANorm(MLP):
    def forward(self, x, seq):
        inner = self.up_proj(x)
        return self.down_proj(F.rms_norm(inner, inner.shape[-1:]))


# low precision is kept
class Widens(Plain):
    def forward(self, x, seq, state=None):
        return super().forward(x, seq).float()


# weights can be saved
class HidesItsWeights(Plain):
    def __init__(self, config, ctx):
        super().__init__(config, ctx)
        self.scales = [torch.rand(ctx.d_model) + 0.5]

    def forward(self, x, seq, state=None):
        return super().forward(x, seq) * self.scales[0].to(x.dtype)


# nothing is read before it is written
class ReadsEmptyMemory(Plain):
    def forward(self, x, seq, state=None):
        return super().forward(x, seq) + torch.empty_like(x).isnan().all()


# parameters are counted
class ClaimsFewParameters(Plain):
    class Config(Plain.Config):
        def num_params(self, ctx):
            return 1000


# flops are counted
class ClaimsManyFlops(Plain):
    class Config(Plain.Config):
        def flops_per_token(self, ctx, context):
            return 10 * super().flops_per_token(ctx, context)


# flops are counted
class ClaimsFewFlops(Plain):
    class Config(Plain.Config):
        def flops_per_token(self, ctx, context):
            return super().flops_per_token(ctx, context) + context


# state bytes are counted
class ClaimsNoState(Plain):
    class Config(Plain.Config):
        def state_bytes(self, ctx, length, element_size=4):
            return 0


# works beside other parts
class KnowsNoBias(Plain):
    def __init__(self, config, ctx):
        if ctx.bias:
            raise ValueError("biases are out of fashion")
        super().__init__(config, ctx)


# padding changes nothing, steps equal full
class MixesTokens(FeedForward):
    def __init__(self, config, ctx):
        super().__init__(config, ctx)
        self.down_proj = nn.Linear(ctx.d_model, ctx.d_model, bias=False)

    def forward(self, x, seq):
        return self.down_proj(x + F.pad(x, (0, 0, 1, 0))[:, :-1])


# the future is unseen, padding changes nothing
class NormOverTokens(Norm):
    def forward(self, x):
        return x / x.square().mean((-1, -2), keepdim=True).sqrt()


# padding changes nothing
class CountsPadding(Position):
    def __init__(self, config, ctx):
        super().__init__(config, ctx)
        self.rate = nn.Parameter(torch.rand(ctx.d_model))

    def forward(self, x, seq):
        start = seq.start or 0
        index = torch.arange(start, start + len(seq))
        return x + torch.sin(index[:, None] * self.rate.float()).to(x.dtype)
