"""Tasks of EleutherAI's lm-evaluation-harness, run on our engine (https://github.com/EleutherAI/lm-evaluation-harness)."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from gptwright.errors import GptwrightError
from gptwright.evaluate.libraries import library
from gptwright.evaluate.requests import harness_model
from gptwright.evaluate.tasks import load_tasks
from gptwright.model.gpt import GPT

RESAMPLES = 1000
"""Draws of lm_eval's own standard errors, for the metrics that have no formula for it."""


def run_tasks(
    model: GPT,
    tasks: str | Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | float | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    precision: str = "fp32",
    include_path: str | Path | None = None,
    gen_kwargs: Mapping[str, Any] | None = None,
    apply_chat_template: bool = False,
    samples: bool = False,
    seed: int = 1234,
    quiet: bool = True,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Evaluate ``model``, which `gptwright.load` returned, on tasks, and return lm_eval's own results.

    Log-likelihoods are those that lm_eval computes with transformers on the same weights. Tokens that several
    requests share are computed once.

    Args:
        model: the model, with its tokenizer.
        tasks: names of lm_eval's tasks, YAML files, or folders of them; several in a list or joined by commas.
        num_fewshot: worked examples before each question, where the task does not fix it.
        limit: documents of each task, or below 1 a part of them, to try things out.
        batch_size: rows that are fed at once, at most; by default as many as suit their lengths.
        max_length: tokens that are read at most, by default the model's ``max_seq_len``.
        precision: ``fp32`` is exact, ``bf16`` faster on some machines.
        include_path: a folder of YAML files whose tasks may be named.
        gen_kwargs: generation settings that win over those of the tasks.
        apply_chat_template: write questions as the tokenizer's chat template does.
        samples: keep what was asked and answered, a list for each task, under ``samples``.
        seed: of the choice of worked examples and of what is drawn.
        quiet: show no progress on stderr.
        trust_code: run tasks that execute code which the model wrote.

    Returns:
        lm_eval's results: ``results`` by task and metric, ``versions``, ``n-shot``, ``configs`` and more.

    Raises:
        GptwrightError: lm_eval is not installed, a task is not there or its data cannot be read, or a setting has no
            meaning.
    """
    if limit is not None and limit <= 0:
        raise GptwrightError(f"limit is {limit} and must be above 0: documents of each task, or a part below 1")
    if num_fewshot is not None and num_fewshot < 0:
        raise GptwrightError(f"num_fewshot is {num_fewshot} and cannot be negative; 0 gives no worked examples")
    with _apart(quiet):
        evaluator = library("lm_eval.evaluator", "evaluating tasks")
        answers = harness_model(
            model, batch_size=batch_size, max_length=max_length, precision=precision, seed=seed, quiet=quiet
        )
        manager, loaded = load_tasks(tasks.split(",") if isinstance(tasks, str) else tasks, include_path)
        _refuse_unsafe(loaded["tasks"], trust_code)
        manager.load = lambda specs: loaded  # it is loaded already, where what goes wrong could be said in a sentence
        found = evaluator.simple_evaluate(
            model=answers,
            tasks=list(loaded["tasks"]),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            batch_size=batch_size,
            gen_kwargs=dict(gen_kwargs) if gen_kwargs else None,
            apply_chat_template=apply_chat_template,
            log_samples=samples,
            bootstrap_iters=RESAMPLES,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            confirm_run_unsafe_code=trust_code,
        )
    return dict(found)


def plain(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results as JSON can hold them, in the way that lm_eval writes its files."""
    convert = library("lm_eval.utils", "evaluating tasks").handle_non_serializable
    return json.loads(json.dumps(results, default=convert, ensure_ascii=False))


def table(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each task and metric: task, filter, worked examples, metric, value and standard error."""
    rows = []
    for task, figures in {**results["results"], **results.get("groups", {})}.items():
        shots = results.get("n-shot", {}).get(task, "")
        for key, value in figures.items():
            metric, comma, chosen_by = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            error = figures.get(f"{metric}_stderr,{chosen_by}")
            rows.append((task, chosen_by, str(shots), metric, _figure(value), _figure(error)))
    return rows


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""


def _refuse_unsafe(tasks: Mapping[str, Any], trust_code: bool) -> None:
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False) and not trust_code:
            raise GptwrightError(
                f"the task '{name}' executes code that the model wrote; if you trust this machine to it, add "
                "--trust-code (trust_code=True)"
            )


@contextmanager
def _apart(quiet: bool) -> Iterator[None]:
    """Keep what lm_eval and its libraries print away from stdout, which is for the result; if ``quiet``, altogether."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    with ExitStack() as stack:
        if quiet:
            stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(redirect_stdout(sys.stderr))
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)
