"""`gptwright chat RUN`: talk with a trained GPT."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptwright.cli.output import PrecisionOption, TrustOption, say, say_if_compiling, write
from gptwright.cli.terminal import interruptions, lines, note, shown
from gptwright.config.report import did_you_mean
from gptwright.errors import DataError, GptwrightError

if TYPE_CHECKING:
    from gptwright.data.chat_template import AnyTemplate
    from gptwright.generate.choose import Choice
    from gptwright.generate.conversation import Conversation
    from gptwright.generate.engine import Ticket
    from gptwright.generate.sampling import Sampling
    from gptwright.model.gpt import GPT
    from gptwright.tokenizer.base import Tokenizer

HELP = """\
/help          print this
/reset         forget the conversation
/system TEXT   begin anew with this system message
/save FILE     add the conversation to a JSONL file, as data.format=chat reads it
/quit          leave, as Ctrl-D does
//TEXT         say /TEXT
Ctrl-C stops an answer."""
_COMMANDS = ("help", "reset", "system", "save", "quit")


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")],
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message to begin with.")] = None,
    template: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How turns are written: chatml, plain, headings, a .jinja file, or tokenizer for the model's own. "
            "Default: as in training, or the model's own.",
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 256,
    temperature: Annotated[
        float, typer.Option(help="Below 1 is safer, above 1 is bolder, 0 takes the likeliest.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw among this many likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw among the likeliest tokens of this joint probability.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the answers repeatable.")] = None,
    precision: PrecisionOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Talk with a trained GPT: each line is answered, as the answer is written, with what was said before in view.

    Turns are written by the chat template of the run's data, or by the one that the model's tokenizer brings along; a
    run without either continues what is typed. Lines may also come from a pipe.
    """
    if max_new_tokens < 1:
        raise GptwrightError(f"--max-new-tokens is {max_new_tokens} and must be at least 1")
    from gptwright.generate.conversation import Conversation
    from gptwright.generate.sampling import Sampling
    from gptwright.generate.speed import prepared
    from gptwright.train.load import load

    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=_seed(seed)
    )
    model = prepared(load(run, trust_code=trust_code), precision)
    say_if_compiling()
    sampling.check(model.config.require_vocab_size())
    if model.tokenizer is None:
        raise GptwrightError(f"{run} has no tokenizer, and so cannot read or write text; chat with a run that has one")
    style = _template(model, template)
    talk = Conversation(model.tokenizer, model.config.max_seq_len, style, system)
    if style is None:
        say("this run has no chat template: what you type is continued as text (--template NAME gives it one)")
    Chat(model, talk, sampling).run()


def _seed(given: int | None) -> int:
    return int.from_bytes(os.urandom(7), "little") if given is None else given


def _template(model: "GPT", name: str | None) -> "AnyTemplate | None":
    """Return the template that was asked for, that of the chats which the run learnt from, or the tokenizer's own."""
    from gptwright.data.chat_template import OWN, chat_template
    from gptwright.data.template import TEMPLATES

    if name is not None:
        if name not in (*TEMPLATES, OWN) and "{" not in name and "." not in name:
            raise GptwrightError(
                f"--template is '{name}' and must be one of {', '.join(TEMPLATES)}, {OWN} (the model's own), a .jinja "
                "file, or text with {role} and {content}"
            )
        return chat_template(name, model.tokenizer)
    data = None if model.settings is None else model.settings.data
    if data is not None and data.format == "chat":
        return chat_template(data.template, model.tokenizer)
    own = model.tokenizer is not None and model.tokenizer.chat_template is not None
    return chat_template(OWN, model.tokenizer) if own else None


class Chat:
    """A conversation with somebody at a terminal, or with lines from a pipe."""

    def __init__(self, model: "GPT", talk: "Conversation", sampling: "Sampling") -> None:
        from gptwright.generate.engine import Engine

        self.talk, self.sampling, self.tokenizer = talk, sampling, model.tokenizer
        self.engine = Engine(model, rows=1, reuse="all")
        self.terminal = sys.stdin.isatty()
        self._answers = 0

    def run(self) -> None:
        """Answer line after line until they end."""
        if self.terminal:
            note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves")
        for line in lines(self.terminal):
            try:
                if not self.handle(line):
                    return
            except GptwrightError as error:
                if not self.terminal:
                    raise
                say(f"error: {error}")

    def handle(self, line: str) -> bool:
        """Answer a line, or do what it orders; return whether to go on."""
        if line.startswith("/") and not line.startswith("//"):
            return self.order(line[1:])
        if line.strip():
            self.answer(line[1:] if line.startswith("//") else line)
        return True

    def order(self, line: str) -> bool:
        """Do what a line orders; return whether to go on."""
        name, _, rest = line.partition(" ")
        if name not in _COMMANDS:
            near = did_you_mean(name, _COMMANDS)
            raise GptwrightError(f"there is no command /{name}{near}; /help lists them, and //{name} says it")
        if name == "help":
            say(HELP)
        elif name == "save":
            self._save(rest.strip())
        elif name == "system":
            self._begin_with(rest.strip())
        elif name == "reset":
            self.talk.reset()
            note("the conversation is forgotten")
        return name != "quit"

    def answer(self, text: str) -> None:
        """Write the answer to ``text`` as it comes."""
        ids, dropped = self.talk.say(text, self.sampling.max_new_tokens or 1)
        if dropped:
            note(f"the context of {self.talk.context:,} tokens is full: the oldest {_turns(dropped)} left out")
        answer = _Answer(self.tokenizer, self.talk.stops, shown())
        try:
            written = self._write(ids, answer)
        except GptwrightError:
            self.talk.unsay()
            raise
        answer.end()
        self.talk.answered(answer.text, written)

    def _write(self, ids: list[int], answer: "_Answer") -> list[int]:
        """Continue ``ids`` until the answer ends, the context is full or Ctrl-C; return the new ids."""
        from gptwright.generate.engine import Request

        room = self.talk.context - len(ids)
        sampling = replace(self.sampling, max_new_tokens=min(self.sampling.max_new_tokens or room, room))
        request = Request(ids, sampling, sample=self._answers, end_ids=self.talk.end_ids, on_token=answer.take)
        self._answers += 1
        ticket = self.engine.submit(request)
        with interruptions(self.terminal) as interrupted:
            while not ticket.done:
                self.engine.step()
                if interrupted:
                    ticket.cancel()
        self.engine.run()  # which lets go of what was cancelled
        if ticket.error is not None:
            raise ticket.error
        return list(ticket.ids)

    def _begin_with(self, text: str) -> None:
        if not text:
            raise GptwrightError("/system needs a text, as in: /system You answer in one sentence.")
        if self.talk.template is None:
            raise GptwrightError("this run has no chat template, and so no place for a system message; see --template")
        self.talk.system = text
        self.talk.reset()
        note("the conversation begins anew with this system message")

    def _save(self, name: str) -> None:
        if not name:
            raise GptwrightError("/save needs a file, as in: /save talk.jsonl")
        if not self.talk.turns:
            raise GptwrightError("nothing was said yet, so there is nothing to save")
        line = json.dumps({"messages": self.talk.messages()}, ensure_ascii=False)
        try:
            with Path(name).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise DataError(f"{name} cannot be written: {error.strerror}; give another file") from None
        note(f"added to {name}")


class _Answer:
    """The text of an answer, written as it comes, up to what ends it."""

    def __init__(self, tokenizer: "Tokenizer", stops: tuple[str, ...], show: Callable[[str], str]) -> None:
        from gptwright.generate.stop import StopStrings

        self.text = ""
        self._tokenizer, self._characters, self._show = tokenizer, tokenizer.stream(), show
        self._stops = StopStrings(stops)

    def take(self, ticket: "Ticket", choice: "Choice") -> bool:
        """Take in a token; return whether it ends the answer."""
        del ticket
        known = choice.token < self._tokenizer.vocab_size
        self._add(self._stops.push(self._characters.push(choice.token) if known else "\ufffd"))
        return self._stops.found is not None

    def end(self) -> None:
        """Write what was held back, and end the line."""
        self._add(self._stops.push(self._characters.flush()) + self._stops.flush())
        write("\n")

    def _add(self, piece: str) -> None:
        self.text += piece
        write(self._show(piece))


def _turns(count: int) -> str:
    return "turn is" if count == 1 else f"{count} turns are"
