"""Jinja chat templates against transformers: the same text and ids, which tokens are learnt, and what is contained."""

import json
import subprocess
import sys
from datetime import datetime
from itertools import pairwise

import numpy as np
import pytest

from gptwright.data.chat_template import chat_template, jinja_text, stored
from gptwright.data.config import DataConfig
from gptwright.data.jinja import JinjaTemplate
from gptwright.data.prepare import prepare
from gptwright.data.shards import Prepared
from gptwright.data.template import TEMPLATES, Template, encode
from gptwright.errors import DataError
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.pretrained import Pretrained
from gptwright.tokenizer.load import make_tokenizer

from ..tokenizer import zoo

LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{%- if system_message %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" + system_message + "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
CHATML = """{% if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}
{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}
{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim }}
{{- '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
BLOCKS = """
  {% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}
  {% set ns.n = ns.n + 1 %}{{ ns.n }}/{{ m | tojson }}|{{ dict(a=1).a }}
  {% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}
{% endfor %}{{ strftime_now('%Y') | length }}"""
TURNS = {"llama3": LLAMA3, "gpt2": CHATML, "mistral": MISTRAL, "llama2": MISTRAL, "gemma": GEMMA}


def talk(n, *, system=True):
    first = [{"role": "system", "content": "Be brief. "}] if system else []
    return [
        *first,
        {"role": "user", "content": f"What is {n}? é🎉"},
        {"role": "assistant", "content": f"A number, {n}."},
        {"role": "user", "content": "Sure\n\n?"},
        {"role": "assistant", "content": "Yes, the best of times."},
    ]


def pair(folder, name, text):
    """Return our tokenizer and transformers' own, with a chat template."""
    transformers = pytest.importorskip("transformers")
    place = zoo.write(folder, name, chat_template=text)
    return Pretrained.from_folder(place), transformers.AutoTokenizer.from_pretrained(place)


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("reply", [False, True])
def test_text_and_ids_are_those_of_transformers(tmp_path, name, reply):
    ours, theirs = pair(tmp_path, name, TURNS[name])
    chat = talk(3, system=name not in ("gemma", "mistral", "llama2"))
    chat = chat[:-1] if reply else chat
    template = chat_template("tokenizer", ours)
    text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=reply)
    assert template.render(chat, reply=reply) == text
    ids = theirs.apply_chat_template(chat, add_generation_prompt=reply, return_dict=False)
    assert encode(ours, template.spans(chat, reply=reply)) == ids


@pytest.mark.parametrize("name", TURNS)
def test_answers_are_learnt_with_their_end_mark(tmp_path, name):
    ours = Pretrained.from_folder(zoo.write(tmp_path, name, chat_template=TURNS[name]))
    template = chat_template("tokenizer", ours)
    (span,) = template.spans(talk(3, system=name in ("llama3", "gpt2")))
    ids, learn = ours.encode_spans(span.text, span.marked)
    assert ids.tolist() == ours.encode_marked(span.text).tolist()
    end = {"llama3": "<|eot_id|>", "gpt2": "<|im_end|>\n", "gemma": "<end_of_turn>\n"}.get(name, "</s>")
    space = " " if end == "</s>" else ""
    learnt = [span.text[start:stop] for start, stop in span.marked]
    assert learnt == [f"{space}A number, 3.{end}", f"{space}Yes, the best of times.{end}"]
    edges = np.flatnonzero(np.diff(learn.astype(int), prepend=0, append=0))
    assert len(edges) == 4
    assert ours.decode(ids[edges[0] : edges[1]]).strip() == learnt[0].strip()
    assert template.stops == (end.strip(),)


def test_generation_blocks_say_what_is_learnt(tmp_path):
    ours, theirs = pair(tmp_path, "llama3", BLOCKS)
    chat = [*talk(5), {"role": "tool", "content": "passed over"}]
    template = chat_template("tokenizer", ours)
    found = theirs.apply_chat_template(chat, return_assistant_tokens_mask=True, return_dict=True)
    (span,) = template.spans(chat)
    ids, learn = ours.encode_spans(span.text, span.marked)
    assert ids.tolist() == found["input_ids"]
    assert learn.astype(int).tolist() == found["assistant_masks"]
    assert [span.text[start:end] for start, end in span.marked] == [
        "A number, 5.<|end_of_text|>",
        "Yes, the best of times.<|end_of_text|>",
    ]


@pytest.mark.parametrize("name", [*TEMPLATES, 'a"{role}\\é{role}: {content}\n</{role}>'])
def test_our_own_templates_in_jinja(name):
    own, jinja = Template.named(name), JinjaTemplate(jinja_text(name))
    for reply in (False, True):
        assert jinja.render(talk(1), reply=reply) == "".join(span.text for span in own.spans(talk(1), reply=reply))
    assert [text.strip() for text in jinja.stops] == [
        text.strip() for text in own.stops if own.closing("assistant").strip()
    ]


def chats(path, count=30, **more):
    path.write_text("".join(json.dumps({"messages": talk(n), **more}) + "\n" for n in range(count)))
    return path


def first_document(prepared):
    stream = prepared.split("train")
    return stream.read(0, len(stream)), stream.learn(0, len(stream))


def test_training_data_is_what_the_template_writes(tmp_path):
    folder = zoo.write(tmp_path / "model", "llama3", chat_template=LLAMA3)
    data = {
        "source": str(chats(tmp_path / "chats.jsonl")), "format": "chat", "template": "tokenizer",
        "tokenizer": {"type": "pretrained", "source": str(folder)},
    }  # fmt: skip
    prepared = prepare(DataConfig.from_dict(data), make_tokenizer=make_tokenizer)
    for file in folder.iterdir():
        file.unlink()  # what was prepared says all
    ours, ids, learn = Pretrained.from_folder(prepared.tokenizer_folder), *first_document(prepared)
    template = Prepared.open(prepared.folder).template
    wanted = [ours.encode_spans(span.text, span.marked) for n in range(30) for span in template.spans(talk(n))]
    known = {tuple(one.tolist()): mask.tolist() for one, mask in wanted}
    starts = [*np.flatnonzero(ids == ours.prefix_ids[0]).tolist(), len(ids)]
    documents = {tuple(ids[a:b].tolist()): learn[a:b].tolist() for a, b in pairwise(starts)}
    assert documents.items() <= known.items()
    assert len(documents) > 20


def test_a_template_of_jinja_with_a_tokenizer_that_learns(tmp_path):
    (tmp_path / "turns.jinja").write_text(MISTRAL)
    config = {"source": str(chats(tmp_path / "chats.jsonl")), "format": "chat", "tokenizer": "byte"}
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    with pytest.raises(
        DataError, match=r"line 1 of .*chats\.jsonl: the chat template cannot write this chat \(Temp.*alternate"
    ):
        prepare(
            DataConfig.from_dict({**config, "template": str(tmp_path / "turns.jinja")}), make_tokenizer=make_tokenizer
        )
    text += "{% if add_generation_prompt %}assistant: {% endif %}"
    prepared = prepare(DataConfig.from_dict({**config, "template": text}), make_tokenizer=make_tokenizer)
    ids, learn = first_document(prepared)
    assert (ids == 256).sum() == 5 * prepared.train.documents
    assert bytes(ids[learn][: len("A number, ")].astype(np.uint8).tolist()) == b"A number, "
    assert isinstance(prepared.template, JinjaTemplate)


def test_special_tokens_are_set_without_a_trace():
    tokens = {"bos_token": '<"é\n>', "eos_token": "</s>", "pad_token": "unused"}
    template = JinjaTemplate.with_tokens("\n  {{ bos_token }}{{ messages[0].content }}{{ eos_token }}\n", tokens)
    assert "unused" not in template.text
    assert template.render([{"role": "user", "content": "a"}]) == '\n  <"é\n>a</s>'
    assert stored(template.text) == template
    assert stored("{role}: {content}") == Template("{role}: {content}")


FORGETFUL = (
    "{% for m in messages %}{{ m.role }}:{{ m.content if loop.last else m.content | replace('A number', '') }};"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
UNSTABLE = "{% for m in messages %}{{ m.role if loop.last else '' }}{{ m.content }}{% endfor %}"


def test_answers_that_cannot_be_told_from_the_rest():
    with pytest.raises(DataError, match=r"does not write message 3, an answer, as an addition .* \{% generation %\}"):
        JinjaTemplate(UNSTABLE).spans(talk(1))
    with pytest.raises(DataError, match=r"does not write message 3, an answer, as an addition"):
        JinjaTemplate(FORGETFUL).spans(talk(1))
    assert len(JinjaTemplate(FORGETFUL).spans(talk(1)[:3])[0].marked) == 1  # its only answer is the last
    with pytest.raises(DataError, match=r"message 1, an answer, .* begin chats with a user's message"):
        JinjaTemplate(CHATML).spans(talk(1)[2:])
    changed = "{% set x %}{% generation %} a {% endgeneration %}{% endset %}{{ x | trim }}"
    with pytest.raises(DataError, match=r"changes what its .* blocks have written"):
        JinjaTemplate(changed).spans(talk(1))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.__init__.__globals__ }}", "SecurityError"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError"),
        ("{{ raise_exception.__globals__.os }}", "SecurityError"),
        ("{{ namespace.__init__.__globals__ }}", "SecurityError"),
        ("{% set n = namespace(__class__=1) %}", "SecurityError"),
        ("{% set n = namespace() %}{% set n._x = 1 %}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% for i in range(999999999) %}{% endfor %}", "OverflowError"),
        ("{% include 'secret' %}", "TypeError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% if %}", r"TemplateSyntaxError, line 1"),
        ("{{ raise_exception('no') }}", r"TemplateError: no"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_a_hostile_template_is_contained(text, reason):
    with pytest.raises(DataError, match=rf"the chat template (cannot write|fails on) this chat \({reason}"):
        JinjaTemplate(text).render(talk(1))


@pytest.mark.parametrize("text", ["{{ '{0.__class__}'.format(1) }}", "{{ ('{0.__class__}' | attr('format'))(1) }}"])
def test_what_the_sandbox_hides_is_nothing(text):
    assert JinjaTemplate(text).render(talk(1)) == ""


def test_templates_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"chat template .*none\.jinja cannot be read: No such file"):
        chat_template(str(tmp_path / "none.jinja"))
    (tmp_path / "bad.jinja").write_bytes(b"{{ \xff }}")
    with pytest.raises(DataError, match=r"bad\.jinja is not UTF-8 text \(byte 3\)"):
        chat_template(str(tmp_path / "bad.jinja"))
    (tmp_path / "big.jinja").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(DataError, match=r"more than 1,048,576 bytes"):
        chat_template(str(tmp_path / "big.jinja"))
    with pytest.raises(DataError, match="the tokenizer's own chat template, and this byte tokenizer has none"):
        chat_template("tokenizer", Byte.train(Byte.Config(), (), with_eot=True))


def test_a_template_sees_all_of_a_message_as_plain_data(tmp_path):
    ours, theirs = pair(
        tmp_path, "gpt2", "{{ messages | tojson }}{{ messages[0].when.now }}{{ messages[0].none is defined }}"
    )
    chat = [
        {"role": "user", "content": "a", "name": "é", "when": datetime(2020, 1, 1), "none": None, "n": [1, 2.5, True]}
    ]
    template = chat_template("tokenizer", ours)
    assert template.render(chat) == theirs.apply_chat_template(chat, tokenize=False)
    assert '"when": "<datetime>"' in template.render(chat)


def test_what_a_message_holds_besides_reaches_the_template(tmp_path):
    more = {"reasoning_content": "hm"}
    rows = [
        {"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "b", **more}]}
        for n in range(9)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "{% for m in messages %}{{ m.reasoning_content }}{{ m.content }};{% endfor %}"
    config = {"source": str(tmp_path / "a.jsonl"), "format": "chat", "template": text, "tokenizer": "byte"}
    ids, learn = first_document(prepare(DataConfig.from_dict(config), make_tokenizer=make_tokenizer))
    assert bytes(ids[learn].astype(np.uint8).tolist()).startswith(b"hmb;hmb;")


def test_rendering_needs_no_transformers():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from gptwright.data.jinja import JinjaTemplate\n"
        "print(JinjaTemplate('{{ messages[0].content | tojson }}').render([{'role': 'user', 'content': '<é>'}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == '"<é>"\n'
