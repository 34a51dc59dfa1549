"""A talk through a pipe, and one on a terminal that is real."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

import gptwright as gw

CHATS = [
    {"messages": [{"role": "user", "content": "say a"}, {"role": "assistant", "content": "aaa"}]},
    {"messages": [{"role": "user", "content": "say b"}, {"role": "assistant", "content": "bbb"}]},
]
CHAT_SETTINGS = """\
model: {d_model: 16, n_layers: 1, max_seq_len: 128, attention: {type: softmax, n_heads: 2}}
optim: {type: adamw, lr: 1e-2}
train: {steps: 30, tokens_per_step: 512, eval_every: 0, sample_every: 0, trackers: []}
data: {source: chats.jsonl, format: chat, template: plain, tokenizer: byte}
"""


@pytest.fixture
def chatty(gptwright, workshop):
    (workshop / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in CHATS * 20))
    (workshop / "chat.yaml").write_text(CHAT_SETTINGS)
    done = gptwright("train", "chat.yaml", "--quiet", "--run", "runs/chat")
    assert done.code == 0, done.err
    return "runs/chat"


@pytest.fixture
def talk(gptwright, monkeypatch):
    def talk(run, lines, *options):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
        return gptwright("chat", run, "--seed", 1, *options)

    return talk


def test_each_line_of_a_pipe_is_answered(talk, chatty):
    done = talk(chatty, ["say a", "", "say b"], "--max-new-tokens", 12)
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) == 2  # the template ends an answer with its line
    assert done.out == talk(chatty, ["say a", "say b"], "--max-new-tokens", 12).out


def test_what_was_said_is_in_view(talk, chatty):
    model = gw.load(chatty)
    first = talk(chatty, ["say a"], "--temperature", 0, "--max-new-tokens", 12).out.removesuffix("\n")
    second = talk(chatty, ["say a", "say b"], "--temperature", 0, "--max-new-tokens", 12).out.splitlines()[1]
    prompt = f"user: say a\nassistant: {first}\nuser: say b\nassistant: "
    assert gw.generate(model, prompt, temperature=0, max_new_tokens=12)[len(prompt) :].partition("\n")[0] == second


def test_a_run_without_chats_is_continued(talk, trained):
    done = talk(trained, ["The cat"], "--max-new-tokens", 5)
    assert done.err.startswith("this run has no chat template: what you type is continued as text")
    assert len(done.out) == 6
    assert done.err.count("\n") == 1


def test_orders(talk, chatty, workshop):
    lines = ["/system Be brief.", "say a", "/save talk.jsonl", "/reset", "say b", "/save talk.jsonl", "/quit", "say a"]
    done = talk(chatty, ["/help", *lines], "--max-new-tokens", 6)
    assert done.code == 0
    assert "/save FILE" in done.err
    assert len(done.out.splitlines()) == 2
    one, two = map(json.loads, (workshop / "talk.jsonl").read_text().splitlines())
    assert [message["role"] for message in one["messages"]] == ["system", "user", "assistant"]
    assert [message["content"] for message in two["messages"][:2]] == ["Be brief.", "say b"]
    assert gptwright_reads(workshop / "talk.jsonl")


def gptwright_reads(file) -> bool:
    """Return whether training on chats can read ``file``."""
    from gptwright.data.config import DataConfig
    from gptwright.data.formats import Chat

    config = DataConfig.from_dict({"source": str(file), "format": "chat", "template": "plain"})
    chat = Chat(config, config.parts[0])
    return all(chat.spans(json.loads(line), "a line") for line in file.read_text().splitlines())


def test_a_full_context_leaves_out_the_oldest(talk, chatty):
    done = talk(chatty, ["this is a long line"] * 5, "--max-new-tokens", 16)
    assert done.code == 0, done.err
    assert "the context of 128 tokens is full: the oldest turn is left out" in done.err


@pytest.mark.parametrize(
    ("lines", "options", "sentence"),
    [
        (["/sav x"], [], "there is no command /sav; did you mean 'save'?; /help lists them, and //sav says it"),
        (["/save"], [], "/save needs a file, as in: /save talk.jsonl"),
        (["/save x"], [], "nothing was said yet, so there is nothing to save"),
        (["/system"], [], "/system needs a text"),
        (["/system Be kind."], [], "this run has no chat template, and so no place for a system message"),
        (["The cat", "/save no/such/folder"], [], "no/such/folder cannot be written: No such file or directory"),
        (["Żaba"], [], "the character 'Ż' (U+017B) at position 0 is not among the"),
        (["The cat sat on the mat"], [], "this has 22 tokens and the model's context is 16"),
        ([], ["--system", "Be kind."], "there is no chat template"),
        ([], ["--template", "nice"], "--template is 'nice' and must be one of chatml, plain, headings"),
        ([], ["--max-new-tokens", 0], "--max-new-tokens is 0 and must be at least 1"),
        ([], ["--top-k", 0], "top_k is 0 and must be at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(talk, trained, lines, options, sentence):
    done = (
        talk(trained, lines, "--max-new-tokens", 2, *options)
        if options[:1] != ["--max-new-tokens"]
        else talk(trained, lines, *options)
    )
    assert done.code == 2
    assert f"error: {sentence}" in done.err.splitlines()[-1]


class Terminal:
    """A talk on a terminal of its own, in another process."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "gptwright", "chat", *arguments]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.seen, self.total = b"", 0

    def read(self) -> None:
        """Read what was printed."""
        piece = os.read(self.master, 4096)
        self.seen, self.total = self.seen + piece, self.total + len(piece)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Read until ``text`` was printed since the last call."""
        end = time.monotonic() + seconds
        while text.encode() not in self.seen:
            assert time.monotonic() < end, self.seen
            self.read()
        self.seen = self.seen.partition(text.encode())[2]

    def type(self, text: str) -> None:
        """Type ``text``."""
        os.write(self.master, text.encode())


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(gptwright, workshop):
    (workshop / "text.txt").write_text("The cat sat on the mat.\n" * 1000)
    settings = ["model.max_seq_len=2000", "train.tokens_per_step=2000", "train.steps=1", "train.eval_every=0"]
    assert gptwright("train", "tiny.yaml", *settings, "--quiet").code == 0
    terminal = Terminal("runs/tiny", "--max-new-tokens", "1900", "--seed", "1")
    terminal.wait_for("> ")
    terminal.type("The cat\n")
    terminal.wait_for("The cat\r\n")
    while len(terminal.seen) < 20:
        terminal.read()
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("> ")
    terminal.type("/sav\n")
    terminal.wait_for("there is no command /sav")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0
    assert terminal.total < 1500  # of an answer of 1900 characters
