"""The few kinds of error that a user can meet.

Each message is one clear sentence that carries the two values, the rule and the way out. The command
line prints it without a traceback and exits with code 2.
"""


class GptwrightError(Exception):
    """A mistake in what the user asked for; the message says what is wrong and how to mend it."""


class ConfigError(GptwrightError):
    """One or more settings are wrong; the message lists every problem with its path and place."""


class DataError(GptwrightError):
    """A source, tokenizer or prepared shard is missing, unreadable or not what its index says."""


class CheckpointError(GptwrightError):
    """A run folder or checkpoint is missing, damaged, or does not fit the settings given."""


class Unsupported(GptwrightError):  # noqa: N818 - it is the word used in the docs and contracts
    """The parts chosen cannot do what was asked, by their mathematics; the message says why."""
