"""What a run came to."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    run: str
    """The run folder."""
    step: int
    """Optimizer steps taken."""
    tokens: int
    """Tokens learnt from: those that were predicted."""
    train_seconds: float
    """Seconds since the first step began, compiling included, evaluation and saving excluded."""
    tokens_per_second: float
    """Tokens over train_seconds."""
    val_loss: float
    """Cross-entropy of the whole validation split in nats a token."""
    val_bits_per_byte: float
    """The same in bits a byte of text."""
    best_step: int | None = None
    """The step with the lowest validation loss so far."""
    best_val_loss: float | None = None
    """That loss."""
    rollbacks: int = 0
    """How often the run went back to a checkpoint because nothing was finite any more."""
    interrupted: bool = False
    """True when a signal ended the run early; a checkpoint was saved."""
    stopped_because: str | None = None
    """Why the run ended before its last step, when a callback asked for it."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)
