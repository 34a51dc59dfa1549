"""Saving beside training: a snapshot is taken at once, and a thread writes it while the next steps run."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from gptwright.data.place import write_file
from gptwright.train.checkpoint import prune, save
from gptwright.train.contents import Contents

BEST = "best.json"
"""Beside the checkpoints: which of them has the lowest validation loss, and that loss."""


class Saver:
    """Writes the checkpoints of one run below ``parent``, one at a time, and keeps the latest and the best.

    ``before`` is called in the background before each: what belongs to a checkpoint has to be on the disk first.
    """

    def __init__(self, parent: Path, keep: int, before: Callable[[], None] = lambda: None) -> None:
        self._parent, self._keep, self._before = parent, keep, before
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, contents: Contents, best: tuple[int, float] | None) -> None:
        """Write a checkpoint of what ``contents`` are now; where the one before is not finished yet, wait for it.

        Raises:
            CheckpointError: the one before could not be written.
        """
        snapshot = contents.snapshot()
        self.wait()
        self._thread = Thread(target=self._write, args=(step, snapshot, best), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def finish_quietly(self) -> None:
        """Let a save that is under way come to its end; another error is being raised already."""
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise what went wrong in the background, if anything did."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, step: int, contents: Contents, best: tuple[int, float] | None) -> None:
        try:
            self._before()
            save(self._parent, step, contents)
            if best is not None:
                words = json.dumps({"step": best[0], "val_loss": best[1]}) + "\n"
                write_file(self._parent / BEST, words.encode())
            prune(self._parent, self._keep, newest=step, best=None if best is None else best[0])
        except BaseException as error:  # it belongs to the thread that trains
            self._error = error
