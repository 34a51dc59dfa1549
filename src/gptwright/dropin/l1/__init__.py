"""L1: a decoder-only transformer with norms before each part, in four sizes."""

from gptwright.dropin.l1.config import SIZES, L1Config
from gptwright.dropin.l1.spread import spread
from gptwright.dropin.l1.transformer import L1Model

__all__ = ["SIZES", "L1Config", "L1Model", "spread"]
