"""Small tokenizers of every family in use, trained on the spot, as folders that transformers reads too."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

TEXT = ["It was the best of times, it was the worst of times; café — 日本語 🎉 12345\r\n\tend. Don't  stop." * 4] * 3
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def gpt2() -> Library:
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(TEXT, bpe(["<|endoftext|>"]))
    return library


def llama3() -> Library:
    library = Library(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(
        TEXT,
        bpe(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "é<ß>"]),
    )
    begin = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])
    library.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    library.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return library


def llama2() -> Library:
    library = Library(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.train_from_iterator(["it was the best of times, Don't stop the end"], fallback(["<unk>", "<s>", "</s>"]))
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return library


def gemma() -> Library:
    library = Library(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Replace(" ", "▁")
    library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    library.train_from_iterator(["it was the best of times, Don't stop the end"], fallback(special))
    library.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("  ", normalized=False)])
    library.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return library


def mistral() -> Library:
    library = llama2()
    library.normalizer = None
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return library


def unigram() -> Library:
    library = Library(models.Unigram())
    library.normalizer = normalizers.NFKC()
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, unk_token="<unk>", special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False
    )
    library.train_from_iterator(TEXT, trainer)
    library.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return library


def wordpiece() -> Library:
    library = Library(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    library.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return library


def gpt1() -> Library:
    library = Library(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    library.train_from_iterator(TEXT, trainer)
    return library


def words() -> Library:
    library = Library(models.WordLevel({"<unk>": 0, "it": 1, "was": 2, "times": 3, ".": 4}, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    return library


def bpe(special: list[str]) -> trainers.BpeTrainer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )


def fallback(special: list[str]) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=330, special_tokens=[*special, *BYTES], initial_alphabet=["▁"], show_progress=False
    )


def unmarked(library: Library) -> Library:
    """Return a fallback tokenizer whose byte tokens are no added tokens, as those of real models."""
    found = json.loads(library.to_str())
    found["added_tokens"] = [token for token in found["added_tokens"] if token["content"] not in BYTES]
    return Library.from_str(json.dumps(found))


ZOO = {
    "gpt2": (gpt2, {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}),
    "llama3": (llama3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}),
    "llama2": (
        lambda: unmarked(llama2()),
        {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}, "unk_token": "<unk>"},
    ),
    "mistral": (lambda: unmarked(mistral()), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "gemma": (lambda: unmarked(gemma()), {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}),
    "unigram": (unigram, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}),
    "wordpiece": (wordpiece, {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}),
    "gpt1": (gpt1, {"unk_token": "<unk>"}),
    "words": (words, {"unk_token": "<unk>", "eos_token": "<new>"}),
}
"""The families by name: how to make one, and what its tokenizer_config.json says."""


def write(folder: Path, name: str, **settings) -> Path:
    """Write the tokenizer ``name`` into ``folder`` as Hugging Face keeps it."""
    folder.mkdir(parents=True, exist_ok=True)
    make, named = ZOO[name]
    make().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
