"""Pictures of probabilities: colours on a terminal, and a page that is one file, with whatever a token may hold."""

import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

import gptwright as gw
from gptwright.generate.completion import Token
from gptwright.generate.probabilities import level, print_probabilities, render, shown, write_page

ODD = ["<b>", "&amp;", "\n", "\n\n", "\t", "\x1b[31m", "é", b"\xe6\x97", b"", " ", '"', "</script>"]


def token(words, share=0.5, top=()):
    raw = words if isinstance(words, bytes) else words.encode()
    return Token(sum(raw), raw.decode("utf-8", "replace"), raw, math.log(share), top)


def completion(tokens, prompt="<i>Once</i> & "):
    text = "".join(each.text for each in tokens)
    return gw.Completion(prompt, text, [each.id for each in tokens], "length", tokens, 1.0, 3)


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, the words of each token, and of the scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.scripts, self._inside = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self._inside.append((tag, dict(attrs)))
        if dict(attrs).get("role") == "button":
            self.words.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        if self._inside:
            self._inside.pop()

    def handle_data(self, data):
        if self._inside and self._inside[-1][1].get("role") == "button":
            self.words[-1] += data
        elif self._inside and self._inside[-1][0] == "script":
            self.scripts[-1] += data


def test_steps_of_probability():
    assert [level(share) for share in (0.0, 0.009, 0.01, 0.1, 0.2, 0.5, 0.79, 0.8, 1.0)] == [0, 0, 1, 2, 3, 4, 4, 5, 5]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a b", "a·b"),
        ("\n", "⏎"),
        ("\x1b", "U+001B"),
        (b"\xe6\x97", "E6 97"),
        (b"", "∅"),
        ("日", "日"),
        ("\u202e", "U+202E"),
    ],
)
def test_tokens_are_shown_so_that_they_can_be_told_apart(words, expected):
    assert shown(token(words)) == expected


def test_the_page_says_everything_and_obeys_no_token():
    others = tuple(token(words, 0.25) for words in ("<script>", "the"))
    tokens = [token(words, 0.004 if n == 0 else 0.5, others) for n, words in enumerate(ODD)]
    text = render([completion(tokens)], {"temperature": 0.5, "stop": ["<end>"]})
    page = Page(text)
    assert page.words == ["<b>", "&amp;", "⏎", "⏎⏎", "⇥", "U+001B[31m", "é", "E6 97", "∅", " ", '"', "</script>"]
    levels = [attrs["class"].split()[0] for _, attrs in page.tags if attrs.get("role") == "button"]
    assert levels == ["l0"] + ["l4"] * 11
    assert len([tag for tag, _ in page.tags if tag == "br"]) == 3
    (steps,) = json.loads(page.scripts[0])
    assert steps[0]["others"] == [["<script>", "25.0 %", 25.0, 0], ["the", "25.0 %", 25.0, 0], ["<b>", "0.4 %", 0.4, 1]]
    assert (steps[0]["probability"], steps[0]["bits"]) == ("0.4 %", "7.97")
    assert "&lt;i&gt;Once&lt;/i&gt; &amp; " in text
    assert "&#39;&lt;end&gt;&#39;" in text
    assert "\x1b" not in text


def test_the_page_is_one_file_and_its_script_is_the_one_allowed(tmp_path):
    write_page(tmp_path / "page.html", [completion([token("a")]), completion([])])
    text = (tmp_path / "page.html").read_text("utf-8")
    assert not re.search(r"https?://|url\(|@import", text)
    assert [attrs for _, attrs in Page(text).tags if "src" in attrs or attrs.get("href", "data:,") != "data:,"] == []
    assert text.count("'sha256-") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_every_token_can_be_reached_by_keys():
    page = Page(render([completion([token("a"), token("b"), token("c")])], {}))
    assert [attrs["tabindex"] for _, attrs in page.tags if attrs.get("role") == "button"] == ["0", "-1", "-1"]


def test_a_page_that_cannot_be_written(tmp_path):
    with pytest.raises(gw.GptwrightError, match=r"cannot write '.*page.html': No such file or directory; check its"):
        write_page(tmp_path / "no" / "page.html", [completion([token("a")])])


def _printed(found, **how):
    out = io.StringIO()
    print_probabilities(found, Console(file=out, markup=False, highlight=False, width=80, **how))
    return out.getvalue()


def test_colours_on_a_terminal():
    out = _printed(
        [completion([token("sure", 0.9), token("odd\x07", 0.001)])], force_terminal=True, color_system="truecolor"
    )
    assert "\x1b[30;48;2;156;201;234msure\x1b[0m" in out
    assert "\x1b[30;48;2;215;48;31modd�\x1b[0m" in out
    assert "80 % and more" in out


def test_a_terminal_of_sixteen_colours_tells_the_steps_apart():
    tokens = [token("x", share) for share in (0.001, 0.02, 0.1, 0.3, 0.6, 0.9)]
    out = _printed([completion(tokens)], force_terminal=True, color_system="standard")
    assert len(set(re.findall(r"\x1b\[30;(\d+)mx", out))) == 6


def test_a_table_elsewhere():
    tokens = [token("a b", 0.5, (token("x", 0.25), token("\n", 0.125)))]
    assert _printed([completion(tokens), completion([])]).splitlines() == [
        "token                   p  alternatives",
        "a·b                50.0 %  x 25.0 %  ⏎ 12.5 %",
        "---",
        "token                   p  alternatives",
    ]


def test_a_real_model(model):
    found = gw.generate(model, "the ", max_new_tokens=8, n=2, seed=1, logprobs=4, details=True)
    page = Page(render(found, {"seed": 1}))
    assert "".join(page.words).replace("⏎", "\n") == found[0].text + found[1].text
