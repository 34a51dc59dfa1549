import pytest

from gptwright.data.template import Template, encode
from gptwright.errors import DataError, GptwrightError
from gptwright.generate.conversation import Conversation
from gptwright.tokenizer.kinds.byte import Byte
from gptwright.tokenizer.kinds.char import Char


@pytest.fixture
def tokenizer():
    return Byte.train(Byte.Config(), (), with_eot=False)


def ids_of(tokenizer, text):
    return tokenizer.encode(text).tolist()


def answer(talk, tokenizer, text, written=None):
    talk.answered(text, ids_of(tokenizer, text if written is None else written))


@pytest.mark.parametrize(
    "name", ["chatml", "plain", "headings", "[{role}] {content}", "<{role}>{content}\n</{role}>\n"]
)
def test_a_talk_reads_as_it_did_in_training(tokenizer, name):
    template = Template.named(name)
    talk = Conversation(tokenizer, 10_000, template, system="Be brief.")
    first, _ = talk.say("Hello", 8)
    answer(talk, tokenizer, "Hi!", "Hi!" + (talk.stops[0] if template.closing("assistant") else ""))
    second, _ = talk.say("Bye", 8)
    answer(talk, tokenizer, "Good", "Good")  # cut off before its end mark
    third, _ = talk.say("So", 8)
    messages = talk.messages()[:-1]
    assert third == encode(tokenizer, template.spans(messages, reply=True))
    assert (second[: len(first)], third[: len(second)]) == (first, second)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant", "user"]


def test_ids_go_on_from_what_was_written(tokenizer):
    talk = Conversation(tokenizer, 1000, Template.named("chatml"))
    before, _ = talk.say("Hello", 8)
    written = [*b"<|im_end|>", 0xFF]  # not what its text would be encoded as
    talk.answered("", written)
    after, _ = talk.say("?", 8)
    assert after[: len(before) + len(written)] == before + written


def test_without_a_template_text_goes_on(tokenizer):
    talk = Conversation(tokenizer, 1000)
    talk.say("Once", 8)
    answer(talk, tokenizer, " upon")
    assert talk.say("a time", 8) == (ids_of(tokenizer, "Once upon\na time"), 0)
    assert talk.stops == ()


def test_a_tokenizer_without_line_breaks_is_not_asked_for_one():
    tokenizer = Char.train(Char.Config(), ("abc",), with_eot=False)
    talk = Conversation(tokenizer, 100)
    talk.say("a", 8)
    answer(talk, tokenizer, "b")
    assert talk.say("c", 8)[0] == ids_of(tokenizer, "abc")


def test_the_oldest_turns_are_left_out_whole_and_the_system_stays(tokenizer):
    template = Template.named("plain")
    talk = Conversation(tokenizer, 170, template, system="Be brief.")
    for n in range(6):
        ids, dropped = talk.say(f"this is number {n}", 16)
        assert len(ids) + 16 <= 170
        messages = talk.messages()[:-1]
        assert ids == encode(tokenizer, template.spans(messages, reply=True))
        answer(talk, tokenizer, f"yes {n}")
    assert dropped == 1
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert messages[-1] == {"role": "user", "content": "this is number 5"}
    assert 3 <= len(messages) < 11


def test_what_has_no_room_even_alone(tokenizer):
    talk = Conversation(tokenizer, 20)
    with pytest.raises(GptwrightError, match="this has 20 tokens and the model's context is 20, which leaves no room"):
        talk.say("x" * 20, 4)
    assert talk.turns == []
    assert len(talk.say("x" * 19, 4)[0]) == 19


def test_what_cannot_be_said_is_not_kept():
    talk = Conversation(Char.train(Char.Config(), ("abc",), with_eot=False), 100)
    with pytest.raises(DataError, match="'z'"):
        talk.say("z", 4)
    with pytest.raises(GptwrightError, match="there is nothing to go on from"):
        talk.say("", 4)
    assert talk.turns == []


def test_a_system_message_needs_a_template(tokenizer):
    with pytest.raises(GptwrightError, match="there is no chat template"):
        Conversation(tokenizer, 100, system="Be brief.")
