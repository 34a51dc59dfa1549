"""The slots that components of this floor fill."""

from typing import Annotated

from gptwright.config.slot import Slot
from gptwright.nn.base import Attention, FeedForward, Norm, Position


def _slot(kind: str, base: str) -> Slot:
    return Slot(kind, package=f"gptwright.nn.{kind}", base=f"gptwright.nn.base:{base}")


ATTENTION = _slot("attention", "Attention")
FEED_FORWARD = _slot("feed_forward", "FeedForward")
NORM = _slot("norm", "Norm")
POSITION = _slot("position", "Position")

AttentionSlot = Annotated[Attention.Config, ATTENTION]
FeedForwardSlot = Annotated[FeedForward.Config, FEED_FORWARD]
NormSlot = Annotated[Norm.Config, NORM]
PositionSlot = Annotated[Position.Config, POSITION]
