"""Requests of lm-evaluation-harness, answered by our engine.

`harness_model` gives an object of lm_eval's `TemplateLM`. Its rules for text and tokens are those of lm_eval's own
`HFLM`, so that the same weights get the same figures either way, only sooner.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from gptwright.data.jinja import JinjaTemplate
from gptwright.errors import GptwrightError
from gptwright.evaluate.libraries import library
from gptwright.evaluate.scoring import scoring
from gptwright.evaluate.shared import score_pairs
from gptwright.evaluate.task_settings import read_settings
from gptwright.generate.writer import Continuation, How, Writer, tokenizer_of
from gptwright.model.gpt import GPT

ROWS = 16
"""Texts that are written at once, unless a batch size is given."""


def harness_model(model: GPT, **settings: Any) -> Any:
    """Return ``model`` as lm_eval's harness wants it; ``settings`` are those of `Answers`.

    Raises:
        GptwrightError: lm_eval is not installed, or the model has no tokenizer.
    """
    return _harness_class()(model, **settings)


@lru_cache
def _harness_class() -> type:
    """Return `Answers` on top of lm_eval's class, which is not there before somebody evaluates tasks."""
    base = library("lm_eval.api.model", "evaluating tasks").TemplateLM
    return type("GptwrightLM", (Answers, base), {"__doc__": Answers.__doc__})


class Answers:
    """What lm_eval asks of a model; use `harness_model` to make one.

    Args:
        model: a model with its tokenizer.
        batch_size: rows that are fed at once, at most; by default as many as suit their lengths.
        max_length: tokens that are read at most, by default the model's ``max_seq_len``.
        precision: ``fp32`` (exact) or ``bf16``.
        seed: of what is drawn, where a task draws.
        quiet: show no progress on stderr.
    """

    backend = "causal"

    def __init__(
        self,
        model: GPT,
        *,
        batch_size: int | None = None,
        max_length: int | None = None,
        precision: str = "fp32",
        seed: int = 1234,
        quiet: bool = True,
    ) -> None:
        super().__init__()
        _check(model, batch_size, max_length)
        self.model, self.precision, self.seed, self.quiet = model, precision, seed, quiet
        self.tokenizer = tokenizer_of(model)
        self.batch_size = batch_size
        self.max_length = max_length or model.config.max_seq_len
        """Tokens that are read at most; older ones are left out."""
        self._encoded = lru_cache(256)(self._encode)  # each context comes with several continuations

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text."""
        return self.tokenizer.eot_id

    @cached_property
    def prefix_token_id(self) -> int:
        """The token that stands before a text which has no context.

        Raises:
            GptwrightError: the tokenizer has none.
        """
        named = self.tokenizer.special_tokens.get("bos_token")
        written = self.tokenizer.encode_marked(named).tolist() if named is not None else []
        before = written if len(written) == 1 else self.tokenizer.prefix_ids
        found = before[0] if before else self.eot_token_id
        if found is None:
            raise GptwrightError(
                "this task scores text without a context, and the tokenizer has no token that begins or ends a text; "
                "use a tokenizer with one, or score the text with gptwright eval RUN --text FILE"
            )
        return found

    @property
    def tokenizer_name(self) -> str:
        """What tells this tokenizer from others."""
        return f"{self.tokenizer.type_name()}-{self.tokenizer.fingerprint[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **ignored: Any) -> list[int]:
        """Return the ids of a text, with those that every text begins with unless they are not to be added."""
        del ignored
        return list(self._encoded(string, add_special_tokens))

    def _encode(self, string: str, add: bool | None) -> tuple[int, ...]:
        prefix = self.tokenizer.prefix_ids
        ids = tuple(self.tokenizer.encode_marked(string).tolist())
        if add is False or not prefix:
            return ids
        already = add is None and ids[: len(prefix)] == prefix  # a chat template has written it
        return ids if already else (*prefix, *ids)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **ignored: Any) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of each ``(texts, context ids, continuation ids)``."""
        del ignored
        pairs = [(context, continuation) for _, context, continuation in requests]
        with scoring(self.model, self.precision) as ready, self._bar("scoring", len(pairs)) as bar:
            found = score_pairs(ready, pairs, limit=self.max_length, most=self.batch_size, done=bar.update)
        for (texts, *_), answer in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)  # pyright: ignore[reportAttributeAccessIssue]
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in windows side by side as lm_eval cuts them."""
        del disable_tqdm
        utils = library("lm_eval.utils", "evaluating tasks")
        windows: list[Any] = []
        owners: list[int] = []
        limit = self.max_length
        for number, request in enumerate(requests):
            ids, prefix = self.tok_encode(request.args[0]), self.prefix_token_id
            found = [utils.make_disjoint_window(w) for w in utils.get_rolling_token_windows(ids, prefix, limit, 1)]
            windows += [(None, *window) for window in found]
            owners += [number] * len(found)
        totals = [0.0] * len(requests)
        for number, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[number] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)  # pyright: ignore[reportAttributeAccessIssue]
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each context, up to what a task says ends it."""
        del disable_tqdm
        cut = library("lm_eval.models.utils", "evaluating tasks").postprocess_generated_text
        rows = min(self.batch_size or ROWS, max(1, len(requests)))
        with scoring(self.model, self.precision) as ready, self._bar("writing", len(requests)) as bar:
            writer = Writer(ready, How(rows=rows))
            going = [self._submit(writer, number, *request.args) for number, request in enumerate(requests)]
            while writer.busy:
                for ticket in writer.engine.step():
                    if ticket.error is not None:
                        raise ticket.error
                    bar.update(int(ticket.done))
            texts = [cut(each.completion().text, list(each.sampling.stop), None) for each in going]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)  # pyright: ignore[reportAttributeAccessIssue]
        return texts

    def _submit(self, writer: Writer, number: int, context: str, settings: Mapping[str, Any]) -> Continuation:
        sampling = read_settings(settings, self.seed)
        room = self.max_length - (sampling.max_new_tokens or 0)
        if room < 1:
            raise GptwrightError(
                f"a task asks for {sampling.max_new_tokens} new tokens (max_gen_toks) and the model has room for "
                f"{self.max_length} in all (max_seq_len); ask for fewer (--gen-kwargs max_gen_toks=32)"
            )
        ids = self.tok_encode(context)[-room:] or [self.prefix_token_id]
        return Continuation(writer, context, ids, sampling, number)

    def _bar(self, what: str, total: int) -> Any:
        return library("tqdm", "evaluating tasks").tqdm(total=total, desc=what, disable=self.quiet)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a chat as the tokenizer's own template writes it.

        Without ``add_generation_prompt`` the last message stays open, for the model to go on with it.

        Raises:
            GptwrightError: it has none, or cannot write this chat.
        """
        text = self.tokenizer.chat_template
        if text is None:
            raise GptwrightError(
                "this model's tokenizer has no chat template; leave the chat template out, or use a model that has one"
            )
        template = JinjaTemplate.with_tokens(text, self.tokenizer.special_tokens)
        written = template.render(chat_history, reply=add_generation_prompt)
        return written if add_generation_prompt or not chat_history else _opened(written, chat_history[-1]["content"])


def _opened(written: str, last: str) -> str:
    """Return a chat up to the end of its last message, with the space that ends it where the template keeps that."""
    bare, kept = last.strip(), last.lstrip()
    start = written.rfind(bare)
    if start < 0:
        raise GptwrightError(
            f"the chat template changes the last message ({bare[:40]!r}), so that it cannot be gone on with; leave the "
            "chat template out"
        )
    return written[: start + len(kept if written.startswith(kept, start) else bare)]


def _check(model: GPT, batch_size: int | None, max_length: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise GptwrightError(f"batch_size is {batch_size} and must be at least 1; leave it out to have it chosen")
    limit = model.config.position.limit(model.config.context(0))
    if max_length is not None and (max_length < 1 or (limit is not None and max_length > limit)):
        most = "" if limit is None else f" and at most {limit}, where {model.config.position.type} positions end"
        raise GptwrightError(f"max_length is {max_length} and must be at least 1{most}")
