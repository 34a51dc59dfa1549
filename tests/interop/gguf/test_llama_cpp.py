"""GGUF files as llama.cpp reads them: logits, greedy text and ids, in a Python of its own that has llama-cpp-python.

Named by GPTWRIGHT_LLAMA_PYTHON; without it these tests are skipped.
"""

import json
import os
import random
import subprocess
from typing import Any

import pytest
import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from gptwright.interop.gguf.splitting import REGEXES
from gptwright.interop.gguf.write import write_gguf
from gptwright.interop.trained import Trained
from gptwright.tokenizer.kinds.bpe import Bpe
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char
from gptwright.tokenizer.kinds.pretrained import Pretrained

from .models import CASES, VOCAB, build

PYTHON = os.environ.get("GPTWRIGHT_LLAMA_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not PYTHON,
    reason="set GPTWRIGHT_LLAMA_PYTHON to a Python with llama-cpp-python to compare with llama.cpp",
)
pytest.importorskip("gguf", reason="writing GGUF needs gguf: pip install 'gptwright[gguf]'")

CHILD = """
import json, sys
import llama_cpp, numpy
for line in sys.stdin:
    asked = json.loads(line)
    how = {"n_ctx": 64, "logits_all": True, "verbose": False, "n_threads": 1}
    cache = {"type_k": 0, "type_v": 0, "flash_attn": False}  # fp32: by default keys and values are rounded to f16
    model = llama_cpp.Llama(asked["file"], **how, **cache)
    found = {"ids": [model.tokenize(text.encode(), add_bos=False, special=False) for text in asked["texts"]]}
    found["text"] = [model.detokenize(ids).decode(errors="replace") for ids in found["ids"]]
    if asked["prompt"]:
        model.eval(asked["prompt"])
        found["logits"] = model.scores[: len(asked["prompt"])].tolist()
        found["greedy"] = []
        while len(found["greedy"]) < asked["new_tokens"]:
            found["greedy"].append(int(numpy.argmax(model.scores[model.n_tokens - 1])))
            model.eval(found["greedy"][-1:])
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def llama():
    """Ask llama.cpp about a file."""
    process = subprocess.Popen(
        [PYTHON, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    to, back = process.stdin, process.stdout
    assert to is not None
    assert back is not None

    def ask(file, texts=(), prompt=(), new_tokens=0) -> dict[str, Any]:
        asked = {"file": str(file), "texts": list(texts), "prompt": list(prompt), "new_tokens": new_tokens}
        to.write(json.dumps(asked) + "\n")
        to.flush()
        return json.loads(back.readline() or "null") or pytest.fail(f"llama.cpp ended at {file}")

    yield ask
    to.close()
    process.wait()
    back.close()


@torch.inference_mode()
def ours(model, prompt, new_tokens):
    ids = list(prompt)
    for _ in range(new_tokens):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return model(torch.tensor([prompt]))[0], ids[len(prompt) :]


def differ(tmp_path, llama, changes, dtype, prompt=(), new_tokens=32):
    """Return how far logits are apart, their range, and whether greedy ids are the same."""
    model = build(changes)
    prompt = prompt or torch.randint(VOCAB, (20,), generator=torch.Generator().manual_seed(1)).tolist()
    write_gguf(Trained.of_model(model), tmp_path / "m.gguf", dtype=dtype)
    found = llama(tmp_path / "m.gguf", prompt=prompt, new_tokens=new_tokens)
    logits, greedy = ours(model, prompt, new_tokens)
    off = float((logits - torch.tensor(found["logits"])).abs().max())
    return off, float(logits.max() - logits.min()), found["greedy"] == greedy


@pytest.mark.parametrize("name", CASES)
def test_logits_and_greedy_ids_of_each_architecture_agree(name, tmp_path, llama):
    off, _, same = differ(tmp_path, llama, CASES[name][1], "f32")
    gelu = "mlp" in repr(CASES[name]) or "gelu" in repr(CASES[name])  # which llama.cpp looks up in a table of f16
    assert off < (8e-3 if gelu else 2e-5)
    assert same


@pytest.mark.parametrize(("dtype", "near"), [("f16", 2e-3), ("bf16", 2e-2), ("q8_0", 5e-2)])
@pytest.mark.parametrize("name", ["llama, experts", "gptneox"])
def test_rounded_types_stay_near(name, dtype, near, tmp_path, llama):
    off, spread, _ = differ(tmp_path, llama, CASES[name][1], dtype, new_tokens=1)
    assert off < near * spread


BOOK = (
    "Don't say we'll go, café 12345 67,890.12 \n\n\t\tdef f(x):\n    return x**2\r\n 日本語 Привет 🎉 e\u0301 \u00a0½ "
    * 30
)
DRAW = random.Random(0)
LETTERS = [*range(32, 127), *range(0xA0, 0x500), *range(0x4E00, 0x4E50), *range(0x1F600, 0x1F640)]
WILD = [
    *("Hello world", " leading", "trailing ", "a\n\n\nb", "  many   spaces  \n \n x", "I'm DON'T we'LL", "3.14 999999"),
    *("日本語 mixed", "\t\ttabs\r\n", "x" * 100, "  ", "\n", "\x00nul\x7f", "a<|endoftext|>b [PAD12]", "\\x41 \\n"),
    *("".join(DRAW.choice(BOOK) for _ in range(60)) for _ in range(20)),
    *("".join(chr(DRAW.choice(LETTERS)) for _ in range(40)) for _ in range(20)),
]


def byte_level(split, *, ignore_merges=False):
    library = Library(models.BPE(ignore_merges=ignore_merges))
    library.pre_tokenizer, library.decoder = split, decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator([BOOK], trainer)
    return Bpe(Bpe.Config.from_dict({}), library)


def by_expression(expression, whole):
    split = pre_tokenizers.Split(Regex(expression), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return byte_level(pre_tokenizers.Sequence([split, bytes_]), ignore_merges=whole)


def sentencepiece_like(folder, *, space):
    """Return a tokenizer as those converted from sentencepiece are: bytes to fall back on, every merge there is."""
    first = Library(models.BPE())
    first.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+|▁+"), "isolated")
    first.train_from_iterator([BOOK.replace(" ", "▁")], trainers.BpeTrainer(vocab_size=400, show_progress=False))
    pieces = sorted(first.get_vocab(), key=first.get_vocab().__getitem__)
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary, cuts = {name: id for id, name in enumerate(names)}, [(p, n) for p in pieces for n in range(1, len(p))]
    merges = [(p[:n], p[n:]) for p, n in cuts if p[:n] in vocabulary and p[n:] in vocabulary]
    library = Library(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    prepend = [normalizers.Prepend("▁")] if space else []
    library.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    library.add_special_tokens(names[:3])
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return Pretrained.from_folder(folder)


TOKENIZERS = {
    "byte": lambda folder: Byte(Byte.Config(), with_eot=False),
    "byte with end": lambda folder: Byte(Byte.Config(), with_eot=True),
    "char": lambda folder: Char.train(Char.Config(), WILD, with_eot=True),
    "bpe": lambda folder: Bpe.train(Bpe.Config(vocab_size=500), [BOOK]),
    "digits": lambda folder: byte_level(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    ),
    **{
        f"{name} {number}": lambda folder, e=expression, w=whole: by_expression(e, w)
        for number, (expression, (name, whole)) in enumerate(REGEXES.items())
    },
    "sentencepiece": lambda folder: sentencepiece_like(folder / "tokenizer", space=False),
    "sentencepiece, space": lambda folder: sentencepiece_like(folder / "tokenizer", space=True),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_of_wild_text_are_ours(kind, tmp_path, llama):
    tokenizer = TOKENIZERS[kind](tmp_path)
    small = {"vocab_size": tokenizer.vocab_size + 3, "d_model": 32, "n_layers": 1}
    model = build({**small, "attention": {"type": "softmax", "n_heads": 2}}, tokenizer)
    write_gguf(Trained.of_model(model), tmp_path / "m.gguf", dtype="q8_0")
    found = llama(tmp_path / "m.gguf", texts=WILD)
    assert found["ids"] == [ids.tolist() for ids in tokenizer.encode_batch(WILD)]
    if kind.startswith(("byte", "char", "bpe")):
        assert found["text"][:7] == WILD[:7]
