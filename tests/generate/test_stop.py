"""Stop strings across the borders of pieces."""

from hypothesis import given
from hypothesis import strategies as st

from gptwright.generate.stop import StopStrings


def cut(text, stops, pieces):
    """Return what comes through when ``text`` is pushed in pieces of these sizes, and what was met."""
    found, given_out, at = StopStrings(stops), [], 0
    for size in [*pieces, len(text)]:
        given_out.append(found.push(text[at : at + size]))
        at += size
    return "".join([*given_out, found.flush()]), found.found


def readable(text, stops):
    """The same, a character at a time, by looking at the whole."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            longest = max(met, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(
    st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.lists(st.integers(1, 4))
)
def test_what_comes_through_does_not_depend_on_the_pieces(text, stops, pieces):
    assert cut(text, stops, pieces) == readable(text, stops)


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_nothing_is_held_back_that_cannot_begin_a_stop_string(text, stops):
    found, out = StopStrings(stops), ""
    for at, letter in enumerate(text):
        out += found.push(letter)
        if found.found is not None:
            return
        seen = text[: at + 1]
        held = seen[len(out) :]
        assert seen == out + held
        assert held == "" or any(stop.startswith(held) for stop in stops)


def test_a_beginning_that_comes_to_nothing_is_given_out():
    found = StopStrings(["END."])
    assert [found.push(piece) for piece in ("x E", "N", "DE", "ND", "!")] == [
        "x ",
        "",
        "END",
        "",
        "END!",
    ]
    assert found.found is None


def test_what_follows_the_stop_string_is_dropped():
    found = StopStrings(["\n\n"])
    assert [found.push(piece) for piece in ("a\n", "\nb", "c")] == ["a", "", ""]
    assert found.flush() == ""
    assert found.found == "\n\n"


def test_the_end_of_the_text_gives_back_what_was_held():
    found = StopStrings(["stop"])
    assert (found.push("the st"), found.flush(), found.flush()) == ("the ", "st", "")


def test_without_stop_strings_all_comes_through():
    found = StopStrings()
    assert (found.push("abc"), found.flush()) == ("abc", "")
