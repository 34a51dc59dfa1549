"""GPT-1 with its layers as classes of their own.

`ignore` is (B, T) bool, True where a token is padding, on either side; None where there is none.
"""

from gptwright.dropin.gpt1.layers import FeedForwardLayer, MultiHeadAttentionLayer, SelfAttentionLayer
from gptwright.dropin.gpt1.model import GPT, PreNormBlock, TransformerBlock

__all__ = [
    "GPT",
    "FeedForwardLayer",
    "MultiHeadAttentionLayer",
    "PreNormBlock",
    "SelfAttentionLayer",
    "TransformerBlock",
]
