"""Models of transformers with weights drawn on the spot, the same read by us, and small tasks in local files."""

import json
import random
from types import SimpleNamespace

import pytest
import torch

WORDS = [
    "the",
    "cat",
    "dog",
    "bird",
    "sat",
    "ran",
    "flew",
    "on",
    "under",
    "mat",
    "log",
    "tree",
    "slowly",
    "home",
    "again",
]


def sentence(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(words))


@pytest.fixture
def apart(monkeypatch, tmp_path_factory):
    """Keep Hugging Face's libraries off the network, and what they cache out of the user's home.

    Spare each evaluation too the two seconds in which lm_eval asks pip for every package of this machine.
    """
    from torch.utils import collect_env

    monkeypatch.setattr(collect_env, "get_pretty_env_info", lambda: "not asked")
    hub = pytest.importorskip("huggingface_hub", reason="it comes with gptwright[hf]")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    datasets = pytest.importorskip("datasets", reason="it comes with gptwright[eval]")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return folders as `save_pretrained` writes them: GPT-2's shape, and Llama's with a token that begins texts."""
    transformers = pytest.importorskip("transformers", reason="the peer; it comes with gptwright[dev]")
    home = tmp_path_factory.mktemp("peers")
    shapes = {
        "gpt2": transformers.GPT2Config(
            vocab_size=300, n_positions=96, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0,
        ),
        "llama": transformers.LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=96, bos_token_id=1, eos_token_id=0, pad_token_id=0,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    for name, config in shapes.items():
        model = transformers.AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.25)
        model.save_pretrained(home / name)
        tokenizer(begins=name == "llama").save_pretrained(home / name)
    return SimpleNamespace(home=home, **{name: home / name for name in shapes})


def tokenizer(*, begins: bool):
    """Return a byte-level BPE tokenizer learnt on the spot; with ``begins`` every text begins with `<s>`."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    draw = random.Random(0)
    learnt = tokenizers.Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learnt.train_from_iterator([sentence(draw, 30) for _ in range(40)], trainer)
    if begins:
        learnt.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    named = {"bos_token": "<s>"} if begins else {"bos_token": "<|end|>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=learnt, eos_token="<|end|>", pad_token="<|end|>", **named
    )


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """Return a folder of tasks with their data: choices with shared contexts, rolling text, and text to write."""
    folder, draw = tmp_path_factory.mktemp("tasks"), random.Random(1)
    rows = [
        {
            "text": sentence(draw, 5),
            "choices": [sentence(draw, 1 + n % 3) for n in range(4)],
            "gold": draw.randrange(4),
            "long": sentence(draw, draw.randint(3, 150)),
        }
        for _ in range(12)
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
    (folder / "pick.yaml").write_text(
        f"task: tiny_pick\n{common}output_type: multiple_choice\ndoc_to_text: 'Question: {{{{text}}}}\\nAnswer:'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: '{{gold}}'\nfewshot_split: test\n"
        "fewshot_config: {sampler: first_n}\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n"
    )
    (folder / "roll.yaml").write_text(
        f"task: tiny_roll\n{common}output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{{{long}}}}'\n"
        "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n"
    )
    (folder / "write.yaml").write_text(
        f"task: tiny_write\n{common}output_type: generate_until\ndoc_to_text: '{{{{text}}}} and'\n"
        "doc_to_target: '{{choices[0]}}'\ngeneration_kwargs: {until: ['tree', 'o'], max_gen_toks: 24}\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    return folder
