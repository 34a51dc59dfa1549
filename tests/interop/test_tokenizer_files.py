"""Our tokenizers as files that transformers reads: the same ids, the same text, the same chats."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwright.data.chat_template import chat_template
from gptwright.errors import Unsupported
from gptwright.interop.tokenizer_files import hf_files, library_json
from gptwright.tokenizer.base import EOT
from gptwright.tokenizer.kinds.bpe import Bpe
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char
from gptwright.tokenizer.kinds.pretrained import Pretrained
from gptwright.tokenizer.load import load

from ..tokenizer import zoo

transformers = pytest.importorskip("transformers", reason="the peer; it comes with gptwright[dev]")

TEXT = "It was the best of times; café — 日本語 🎉\r\n\t \u3000\u0301ſ'll don't  <|>_1239" * 4
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "It was?"},
    {"role": "assistant", "content": "The best."},
    {"role": "user", "content": "times"},
]
MADE = {
    "byte": lambda: Byte.train(Byte.Config(), (), with_eot=True),
    "byte, endless": lambda: Byte.train(Byte.Config(), (), with_eot=False),
    "char": lambda: Char.train(Char.Config(), (TEXT,), with_eot=True),
    "char, endless": lambda: Char.train(Char.Config(), (TEXT,), with_eot=False),
    "bpe": lambda: Bpe.train(Bpe.Config(vocab_size=300), (TEXT,)),
}


def peer(folder, tokenizer, model_type=None, **how):
    folder.mkdir(exist_ok=True)
    for name, content in hf_files(tokenizer, **how).items():
        (folder / name).write_bytes(content)
    if model_type is not None:
        transformers.AutoConfig.for_model(model_type).save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=[*MADE, "llama2", "llama3", "unigram"])
def pair(request, tmp_path_factory):
    """A tokenizer of ours, and what transformers makes of its files."""
    place = tmp_path_factory.mktemp("files")
    if request.param in MADE:
        ours = MADE[request.param]()
    else:
        ours = Pretrained.from_folder(zoo.write(place / "source", request.param))
    return ours, peer(place / "written", ours)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_ids_and_text_are_ours(pair, data):
    ours, theirs = pair
    letters = st.text(sorted(set(TEXT))) if isinstance(ours, Char) else st.text()
    text = data.draw(letters)
    ids = ours.encode(text).tolist()
    assert theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids == ids
    ids += data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=10))
    assert theirs.decode(ids) == ours.decode(ids)


def test_how_texts_begin_and_end(pair):
    ours, theirs = pair
    assert theirs.eos_token_id == ours.eot_id
    assert len(theirs) == ours.vocab_size
    if ours.eot_id is not None and not isinstance(ours, Pretrained):
        assert theirs.bos_token_id == ours.eot_id
        assert theirs(f"t{EOT}").input_ids == ours.encode_marked(f"t{EOT}").tolist()
    assert theirs("It").input_ids[: len(ours.prefix_ids)] == list(ours.prefix_ids)
    assert not theirs.clean_up_tokenization_spaces


@pytest.mark.parametrize(
    "model_type", ["gpt2", "openai-gpt", "gpt_neox", "llama", "mistral", "mixtral", "qwen3", "gemma"]
)
@pytest.mark.parametrize("name", ["bpe"])
def test_beside_the_config_of_any_model(tmp_path, name, model_type):
    ours = MADE[name]()
    theirs = peer(tmp_path / "model", ours, model_type, max_length=77)
    assert theirs(TEXT[:60]).input_ids == ours.encode(TEXT[:60]).tolist()
    assert theirs.decode(theirs(TEXT[:60]).input_ids) == TEXT[:60]
    assert (theirs.eos_token_id, theirs.model_max_length) == (ours.eot_id, 77)


@pytest.mark.parametrize("name", ["chatml", "plain", "headings", '<{role}> "{content}"\n</{role}>'])
def test_our_templates_come_along(tmp_path, name):
    ours = MADE["bpe"]()
    theirs, own = peer(tmp_path / "model", ours, template=name), chat_template(name)
    for reply, chat in ((True, CHAT), (False, CHAT[:-1])):
        text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=reply)
        assert text == "".join(span.text for span in own.spans(chat, reply=reply))
    again = load(tmp_path / "model")
    assert again.chat_template == theirs.chat_template


def test_a_template_that_the_tokenizer_brought_comes_along(tmp_path):
    text = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}\n"
    ours = Pretrained.from_folder(zoo.write(tmp_path / "source", "llama3", chat_template=text))
    assert peer(tmp_path / "a", ours).chat_template == text
    theirs = peer(tmp_path / "b", ours, template="tokenizer")
    assert theirs.chat_template == text
    assert theirs.apply_chat_template(CHAT[:1], tokenize=False) == "Be brief.<|end_of_text|>"
    (tmp_path / "b/chat_template.jinja").unlink()  # what older readers know is in the settings
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "b").chat_template == theirs.chat_template


def test_what_we_wrote_reads_back_as_a_pretrained_tokenizer(pair, tmp_path):
    ours, _ = pair
    for name, content in hf_files(ours).items():
        (tmp_path / name).write_bytes(content)
    again = load(tmp_path)
    assert again.encode(TEXT).tolist() == ours.encode(TEXT).tolist()
    assert (again.vocab_size, again.eot_id, again.prefix_ids) == (ours.vocab_size, ours.eot_id, ours.prefix_ids)


def test_a_tokenizer_of_ones_own_is_refused():
    class Mine(Byte):
        """Not ours."""

        def encode(self, text):
            return super().encode(text.upper())

    with pytest.raises(Unsupported, match=r"a tokenizer of your own \(.*Mine\) cannot be written as tokenizer\.json"):
        library_json(Mine.train(Mine.Config(), (), with_eot=True))
