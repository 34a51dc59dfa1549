"""lm_eval through our engine equals lm_eval through transformers on the same weights: requests, figures and text."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import gptwright as gw
from gptwright.evaluate.harness import _apart, plain, run_tasks, table
from gptwright.evaluate.requests import harness_model
from gptwright.evaluate.task_settings import read_settings
from gptwright.interop.importing import from_pretrained

lm_eval = pytest.importorskip("lm_eval", reason="it comes with gptwright[eval]")
pytestmark = pytest.mark.usefixtures("apart")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def both(request, folders):
    """Return our model and lm_eval's, of the same weights and tokenizer."""
    from lm_eval.models.huggingface import HFLM

    folder = getattr(folders, request.param)
    theirs = HFLM(pretrained=str(folder), device="cpu", batch_size=4, dtype="float32")
    return SimpleNamespace(model=from_pretrained(folder), theirs=theirs, name=request.param)


def asked(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=each, idx=n) for n, each in enumerate(arguments)]


PAIRS = [
    ("the cat sat on the", " mat"),
    ("the cat sat on the", " log slowly again"),
    ("the cat sat on the ", "tree"),  # the space goes to the continuation
    ("the cat sat on the", " mat"),
    ("", "a dog ran home"),
    ("a dog ran", " home <|end|> again"),  # a special token written in the text
    ("the bird flew over the tree " * 40, "and the mat"),  # more than fits
    ("é ü 日本", " 語"),
]


def test_log_likelihoods_equal(both):
    ours = harness_model(both.model)
    requests = asked("loglikelihood", *PAIRS)
    expected = both.theirs.loglikelihood(requests, disable_tqdm=True)
    for found, theirs in zip(ours.loglikelihood(requests, disable_tqdm=True), expected, strict=True):
        assert found[0] == pytest.approx(theirs[0], abs=1e-4)
        assert found[1] == theirs[1]
    for context, continuation in PAIRS:
        if context:
            assert ours._encode_pair(context, continuation) == both.theirs._encode_pair(context, continuation)
    assert (ours.prefix_token_id, ours.max_length) == (both.theirs.prefix_token_id, both.theirs.max_length)


def test_rolling_text_and_written_text_equal(both):
    ours = harness_model(both.model)
    texts = asked("loglikelihood_rolling", ("the cat sat " * 60,), ("home",), ("a bird and a dog on a tree.",))
    expected = both.theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    assert ours.loglikelihood_rolling(texts) == pytest.approx(expected, abs=1e-4)
    settings = {"until": ["tree", "o"], "max_gen_toks": 30}
    prompts = ["the cat", "a dog ran home and", "under the tree " * 40]
    requests = asked("generate_until", *((prompt, settings) for prompt in prompts), ("the", {"max_gen_toks": 40}))
    assert ours.generate_until(requests) == both.theirs.generate_until(requests, disable_tqdm=True)


def test_whole_tasks_equal(both, tasks):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    how = {"num_fewshot": 3, "limit": 8}
    ours = run_tasks(both.model, str(tasks), samples=True, **how)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    names = ["tiny_pick", "tiny_roll", "tiny_write"]
    theirs = simple_evaluate(both.theirs, tasks=names, task_manager=manager, bootstrap_iters=10, **how)
    for task in names:
        assert ours["n-shot"][task] == theirs["n-shot"][task]
        for figure, value in theirs["results"][task].items():
            if "," in figure and "stderr" not in figure:
                assert ours["results"][task][figure] == pytest.approx(value, rel=1e-5), figure
        for mine, other in zip(ours["samples"][task], theirs["samples"][task], strict=True):
            assert mine["arguments"] == other["arguments"]
            for answer, expected in zip(answers(mine), answers(other), strict=True):
                assert answer[0] == (
                    expected[0] if isinstance(expected[0], str) else pytest.approx(expected[0], abs=1e-4)
                )
                assert answer[1:] == expected[1:]


def answers(sample):
    """Return what a model answered to the requests of one document, each as a tuple."""
    found = [answer for (answer,) in sample["resps"]]
    return [answer if isinstance(answer, tuple) else (answer,) for answer in found]


@pytest.fixture(scope="module")
def llama(folders):
    return from_pretrained(folders.llama)


def test_batches_change_nothing(llama, tasks):
    pick = str(tasks / "pick.yaml")
    found = [run_tasks(llama, [pick], batch_size=rows, samples=True)["samples"]["tiny_pick"] for rows in (None, 1, 5)]
    for other in found[1:]:
        for first, second in zip(found[0], other, strict=True):
            for (one,), (two,) in zip(first["resps"], second["resps"], strict=True):
                assert one == (pytest.approx(two[0], abs=1e-4), two[1])


def test_results_are_lm_evals_and_stdout_is_left_alone(llama, tasks, capsys):
    found = run_tasks(llama, "tiny_pick,tiny_roll", include_path=tasks, limit=3, quiet=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert "scoring" in said.err
    assert set(found) >= {"results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config"}
    assert set(found["results"]) == {"tiny_pick", "tiny_roll"}
    assert (
        json.loads(json.dumps(plain(found)))["results"]["tiny_pick"]["acc,none"]
        == found["results"]["tiny_pick"]["acc,none"]
    )
    rows = table(found)
    assert [row[:4] for row in rows if row[0] == "tiny_pick"] == [
        ("tiny_pick", "none", "0", "acc"),
        ("tiny_pick", "none", "0", "acc_norm"),
    ]
    assert all(float(row[4]) >= 0 for row in rows)
    run_tasks(llama, "tiny_pick", include_path=tasks, limit=1)
    assert capsys.readouterr() == ("", "")


def test_bf16_is_near(llama, tasks):
    exact, rounded = (
        run_tasks(llama, str(tasks / "roll.yaml"), precision=name)["results"]["tiny_roll"]["bits_per_byte,none"]
        for name in ("fp32", "bf16")
    )
    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact


def test_chats_are_written_as_the_tokenizer_does(folders):
    transformers = pytest.importorskip("transformers")
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant] {% endif %}"
    theirs = transformers.AutoTokenizer.from_pretrained(folders.llama)
    theirs.chat_template = template
    model = from_pretrained(folders.llama)
    ours = harness_model(model)
    with pytest.raises(gw.GptwrightError, match="this model's tokenizer has no chat template"):
        ours.apply_chat_template([{"role": "user", "content": "hi"}])
    model.tokenizer.chat_template = template
    chat = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat "}]
    for opened in (True, False):
        expected = theirs.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=opened, continue_final_message=not opened
        )
        assert ours.apply_chat_template(chat, opened) == expected
    written = ours.apply_chat_template(chat)
    assert ours.tok_encode(written) == theirs.encode(written, add_special_tokens=False)


def test_what_a_task_says_about_writing():
    assert read_settings({}).max_new_tokens == 256
    greedy = read_settings({"until": "\n", "do_sample": False, "top_p": 0.9, "temperature": 0.7, "max_tokens": "8"})
    assert (greedy.stop, greedy.temperature, greedy.top_p, greedy.max_new_tokens) == (("\n",), 0, None, 8)
    drawn = read_settings({"until": ["a", ""], "do_sample": True, "top_k": 5, "num_beams": 1}, seed=7)
    assert (drawn.stop, drawn.temperature, drawn.top_k, drawn.seed) == (("a",), 1.0, 5, 7)
    assert read_settings({"temperature": 0.5}).temperature == 0.5
    with pytest.raises(gw.GptwrightError, match=r"generation setting 'num_beams' \(4\), which is not known here"):
        read_settings({"num_beams": 4})


def test_drawn_text_repeats_with_the_seed(llama):
    settings = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12}
    requests = asked("generate_until", ("the cat", settings), ("the cat", settings))
    first, second = harness_model(llama, seed=1).generate_until(requests)
    assert first != second
    assert harness_model(llama, seed=1).generate_until(requests) == [first, second]
    assert harness_model(llama, seed=2).generate_until(requests) != [first, second]


@pytest.fixture
def few(monkeypatch):
    """Index the folders given, without the fourteen thousand tasks of lm_eval, which take ten seconds."""
    from lm_eval.tasks._index import TaskIndex

    build = TaskIndex.build
    own = list(map(Path, lm_eval.__path__))
    monkeypatch.setattr(
        TaskIndex, "build", staticmethod(lambda paths: build([path for path in paths if path.parent not in own]))
    )


BAD = "task: bad\ndataset_path: {path}\noutput_type: multiple_choice\ndoc_to_text: a\ndoc_to_target: 0\n"


@pytest.mark.parametrize(
    ("tasks_given", "how", "sentence"),
    [
        ("tiny_pikc", {}, "there is no task 'tiny_pikc' among .*; similar names: tiny_pick"),
        ("nowhere.yaml", {}, "there is no task file nowhere.yaml"),
        ("empty", {}, "the folder empty has no task"),
        ("far.yaml", {}, "the tasks far.yaml cannot be loaded .*most tasks fetch their data from the Hugging Face hub"),
        ("broken.yaml", {}, "the tasks broken.yaml cannot be loaded"),
        ("", {}, "no task is named"),
        ("tiny_pick", {"include_path": "nowhere"}, "there is no folder nowhere"),
        ("tiny_pick", {"limit": 0}, "limit is 0 and must be above 0"),
        ("tiny_pick", {"num_fewshot": -1}, "num_fewshot is -1 and cannot be negative"),
        ("tiny_pick", {"batch_size": 0}, "batch_size is 0 and must be at least 1"),
        ("tiny_write", {"gen_kwargs": {"max_gen_toks": 96}}, "a task asks for 96 new tokens .* room for 96 in all"),
        ("tiny_pick", {"precision": "fp8"}, "precision 'fp8' is unknown"),
    ],
)
def test_mistakes_are_sentences(llama, tasks, tmp_path, monkeypatch, few, tasks_given, how, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "far.yaml").write_text(BAD.format(path="nobody/nothing"))
    (tmp_path / "broken.yaml").write_text("task: [")
    names = tasks_given.split(",") if tasks_given else []
    with pytest.raises(gw.GptwrightError, match=sentence):
        run_tasks(llama, names, **{"include_path": tasks, **how})


def test_tasks_that_execute_code_need_consent(llama, tasks, tmp_path):
    pick = (tasks / "pick.yaml").read_text().replace("task: tiny_pick", "task: unsafe\nunsafe_code: true")
    (tmp_path / "unsafe.yaml").write_text(pick)
    with pytest.raises(gw.GptwrightError, match="the task 'unsafe' executes code that the model wrote"):
        run_tasks(llama, [str(tmp_path / "unsafe.yaml")], limit=1)


def test_text_without_a_beginning_is_said():
    attention = {"type": "softmax", "n_heads": 2}
    settings = {"vocab_size": 256, "d_model": 16, "n_layers": 1, "max_seq_len": 16, "attention": attention}
    model = gw.GPT(gw.ModelConfig.from_dict(settings))
    with pytest.raises(gw.GptwrightError, match="this model has no tokenizer"):
        harness_model(model)
    from gptwright.tokenizer.kinds.byte import Byte

    model.tokenizer = Byte.train(Byte.Config(), [], with_eot=False)
    with pytest.raises(gw.GptwrightError, match="the tokenizer has no token that begins or ends a text"):
        harness_model(model).loglikelihood(asked("loglikelihood", ("", "abc")))


def test_without_the_extra_the_pip_line_is_said(monkeypatch, llama):
    monkeypatch.setitem(sys.modules, "lm_eval.evaluator", None)
    with pytest.raises(
        gw.GptwrightError, match=r"needs lm-eval, which is not installed: pip install 'gptwright\[eval\]'"
    ):
        run_tasks(llama, ["tiny_pick"])


def test_what_libraries_print_stays_off_stdout(capsys):
    with _apart(quiet=False):
        print("said by a task")
    assert capsys.readouterr() == ("", "said by a task\n")
    with _apart(quiet=True):
        print("said by a task")
    assert capsys.readouterr() == ("", "")
