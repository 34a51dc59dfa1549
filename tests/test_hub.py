"""Models fetched from a hub and sent to it: `huggingface_hub` itself, over HTTP, with a little hub of our own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptwright.errors import CheckpointError
from gptwright.hub import fetch, push_to_hub

from . import hub_server
from .hub_server import READER, WRITER

library = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
# huggingface_hub 2.4 hands httpx2 large files in the way that this announces the end of
ALL = ("*.json", "*.safetensors", "*.md")
CONTENT = {
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": bytes(range(256)) * 70,
    "README.md": b"---\nlicense: mit\n---\n# A model\n",
    "tokenizer/tokenizer.json": b"{}",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that everything here talks to; nobody is logged in."""
    with hub_server.running(tmp_path / "hub") as found:
        settings = {
            "ENDPOINT": found.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": found.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,  # the storage behind the real hub, whose protocol has no documents
            "HF_HUB_OFFLINE": False,
        }
        for name, value in settings.items():  # read from the environment when the library was imported
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield found
        library.close_session()


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENT.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "out"


def said(call, *args, **options) -> str:
    with pytest.raises(CheckpointError) as refused:
        call(*args, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_sent_comes_back_byte_for_byte(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert push_to_hub(folder, "me/model", commit_message="First") == f"{hub.url}/me/model"
    assert hub.files("me/model") == CONTENT
    assert hub.private == {"me/model"}
    assert hub.messages == ["First"]
    assert any(line.startswith("PUT /objects/") for line in hub.asked)  # large files go their own way
    assert contents(fetch("me/model", patterns=ALL)) == CONTENT
    asked = len(hub.asked)
    assert contents(fetch("me/model", patterns=ALL)) == CONTENT
    assert not any("/resolve/" in line for line in hub.asked[asked:])  # it is there already


def test_only_what_is_wanted_is_fetched(hub, folder):
    push_to_hub(folder, "me/model", private=False, token=WRITER)
    assert not hub.private
    assert set(contents(fetch("me/model", patterns=["config.json", "*.md"]))) == {"config.json", "README.md"}
    assert "there is" not in (words := said(fetch, "me/model", patterns=["*.gguf"]))
    assert f"the model me/model at {hub.url} has no file like *.gguf; look at its files there" in words


def test_a_second_time_adds_to_what_is_there(hub, folder):
    push_to_hub(folder, "model", token=WRITER)  # under one's own account
    (folder / "config.json").write_bytes(b"{}")
    (folder / "README.md").unlink()
    push_to_hub(folder, "me/model", token=WRITER)
    assert hub.files("me/model") == {**CONTENT, "config.json": b"{}"}


def test_a_branch_of_its_own(hub, folder):
    push_to_hub(folder, "me/model", private=False, token=WRITER)
    (folder / "config.json").write_bytes(b'{"step": 2}')
    for _ in range(2):
        url = push_to_hub(folder, "me/model", revision="step-2", token=WRITER)
    assert url == f"{hub.url}/me/model/tree/step-2"
    assert contents(fetch("me/model", patterns=ALL))["config.json"] == CONTENT["config.json"]
    assert contents(fetch("me/model", revision="step-2", patterns=ALL))["config.json"] == b'{"step": 2}'
    words = said(fetch, "me/model", revision="step-3", patterns=ALL)
    assert f"the model me/model at {hub.url} has no revision 'step-3'; give a branch, a tag or a commit" in words


def test_models_that_may_not_be_read(hub, folder, monkeypatch):
    push_to_hub(folder, "me/model", token=WRITER)
    for name in ("me/model", "me/other"):  # without a token the hub does not say which of the two it is
        words = said(fetch, name, patterns=ALL)
        assert f"there is no model {name} at {hub.url}, or it is private" in words
        assert f"log in with `hf auth login`, or set HF_TOKEN to a token from {hub.url}/settings/tokens" in words
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert f"the hub at {hub.url} refuses the token that was sent to fetch me/model; log in" in said(
        fetch, "me/model", patterns=ALL
    )
    monkeypatch.setenv("HF_TOKEN", READER)
    hub.gated.add("me/model")
    words = said(fetch, "me/model", patterns=ALL)
    assert f"accept its terms at {hub.url}/me/model, then log in with `hf auth login`" in words
    hub.gated.clear()
    assert contents(fetch("me/model", patterns=ALL)) == CONTENT


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (None, "takes me/model only from those it knows; log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_expired", "takes me/model only from those it knows; log in"),
        (READER, "may not write me/model; use a name under your own account, or a token with the right to write"),
    ],
)
def test_whoever_may_not_write_is_told(hub, folder, token, words):
    assert words in said(push_to_hub, folder, "me/model", token=token)
    assert not (hub.root / "me").exists()


def test_the_account_of_another(hub, folder):
    assert "may not write you/model" in said(push_to_hub, folder, "you/model", token=WRITER)


def test_nobody_answers(hub, folder, monkeypatch):
    push_to_hub(folder, "me/model", private=False, token=WRITER)
    fetch("me/model", patterns=ALL)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert contents(fetch("me/model", patterns=ALL)) == CONTENT  # it was fetched before
    words = said(fetch, "me/other", patterns=ALL)
    assert words.startswith("the hub at http://127.0.0.1:9 cannot be reached (")
    assert "Connection refused), and " in words
    assert "me/other was not fetched whole before; check the network, and that HF_HUB_OFFLINE is not set" in words
    words = said(push_to_hub, folder, "me/model", token=WRITER)
    assert words.startswith("the hub at http://127.0.0.1:9 cannot be reached (")
    assert "so that me/model was not sent; check the network" in words
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "cannot be reached" in said(fetch, "me/other", patterns=ALL)
    assert "cannot be reached" in said(push_to_hub, folder, "me/model", token=WRITER)


@pytest.mark.parametrize("name", ["a/b/c", "what is this", "-a"])
def test_what_is_no_id(hub, folder, name):
    assert f"'{name}' is no id on the hub, which looks like owner/name" in said(fetch, name, patterns=ALL)
    assert f"'{name}' is no id on the hub" in said(push_to_hub, folder, name, token=WRITER)
    assert not hub.asked


@pytest.mark.parametrize(
    ("status", "fetching", "sending"),
    [
        (403, "sent to {url} may not read me/model; ask its owners for access", "may not write me/model"),
        (
            418,
            "me/model could not be fetched from {url} (Client error '418",
            "could not be sent to {url} (Client error",
        ),
    ],
)
def test_whatever_else_the_hub_says_is_passed_on(hub, folder, monkeypatch, status, fetching, sending):
    def answer(*_: object):
        raise hub_server.Refused(status, message="short and stout")

    for pattern in hub_server.ROUTES:
        monkeypatch.setitem(hub_server.ROUTES, pattern, answer)
    assert fetching.format(url=hub.url) in said(fetch, "me/model", patterns=ALL)
    assert sending.format(url=hub.url) in said(push_to_hub, folder, "me/model", token=WRITER)


def test_small_files_need_no_storage_beside_the_hub(hub, folder, monkeypatch):
    """With xet, which the library has by default, files go in several commits; what is refused is refused as before."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    (folder / "model.safetensors").unlink()
    assert push_to_hub(folder, "me/model", private=False, token=WRITER) == f"{hub.url}/me/model"
    assert set(hub.files("me/model")) == {*CONTENT} - {"model.safetensors"}
    (folder / "config.json").write_bytes(b"{}")
    assert "may not write me/model" in said(push_to_hub, folder, "me/model", token=READER)


def test_nothing_to_send(tmp_path):
    assert "nowhere is no folder (current directory" in said(push_to_hub, tmp_path / "nowhere", "me/model")
    assert f"{tmp_path} is empty, and a folder with a model is sent; make one with `gptwright export`" in said(
        push_to_hub, tmp_path, "me/model"
    )


def test_without_the_library(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    way_out = "needs huggingface_hub, which is not installed: pip install 'gptwright[hf]'"
    assert f"fetching me/model from the hub {way_out}" in said(fetch, "me/model", patterns=ALL)
    assert f"sending {folder} to the hub {way_out}" in said(push_to_hub, folder, "me/model")


SCRIPT = """
import sys
import torch
import gptwright as gw
from gptwright.hub import fetch, push_to_hub
print(push_to_hub(sys.argv[1], "me/model"))
print(fetch("me/model", patterns=["*"]))
sizes = {"vocab_size": 16, "d_model": 8, "n_layers": 1, "max_seq_len": 8, "attention": {"type": "linear", "n_heads": 2}}
model = gw.GPT(gw.ModelConfig.from_dict(sizes))
print(gw.push_to_hub(model, "me/linear"))
back = gw.from_pretrained("me/linear")
print(all(torch.equal(back.state_dict()[name], tensor) for name, tensor in model.state_dict().items()))
"""


def test_the_environment_says_which_hub_and_who(hub, folder, tmp_path):
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITER, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    more = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        env=os.environ | settings | more,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    url, fetched, linear, same = done.stdout.splitlines()
    assert (url, linear, same) == (f"{hub.url}/me/model", f"{hub.url}/me/linear", "True")
    assert contents(Path(fetched)) == CONTENT
    assert Path(fetched).is_relative_to(tmp_path / "home")
