"""A callback that writes into the shard that its own run learns from."""

from gptwright.train.callback import Callback


class Meddler(Callback):
    """After step 12 it changes one token of the training text."""

    def on_step(self, run, result):
        if run.step == 12:
            path = run.data.prepared.folder / "train-00000.bin"
            content = bytearray(path.read_bytes())
            content[0] ^= 1
            path.write_bytes(bytes(content))
