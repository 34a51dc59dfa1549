"""The Hugging Face hub: models fetched by their id, and folders sent to it, through `huggingface_hub`.

Which hub it is (`HF_ENDPOINT`), where fetched files are kept (`HF_HOME`) and who asks (`hf auth login` or `HF_TOKEN`)
are that library's settings, which apply here as everywhere.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptwright.errors import CheckpointError

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token from {endpoint}/settings/tokens"
_UNREACHABLE = "the hub at {endpoint} cannot be reached ({reason})"
_REACH_IT = "check the network, and that HF_HUB_OFFLINE is not set"
_NO_ID = "'{name}' is no id on the hub, which looks like owner/name ({reason})"

_FETCHING = {
    "HFValidationError": f"{_NO_ID}; give such an id, or a folder",
    "GatedRepoError": "the model {name} at {endpoint} is open only to those whom its owners let in; accept its terms "
    f"at {{endpoint}}/{{name}}, then {_LOG_IN}",
    "RepositoryNotFoundError": "there is no model {name} at {endpoint}, or it is private (nor is there a folder {name} "
    f"in {{cwd}}); check the name, and if it is private, {_LOG_IN}",
    "RevisionNotFoundError": "the model {name} at {endpoint} has no revision '{revision}'; give a branch, a tag or a "
    "commit that {endpoint}/{name}/commits lists",
    "LocalEntryNotFoundError": f"{_UNREACHABLE}, and {{name}} was not fetched whole before; {_REACH_IT}, or "
    "give a folder",
    "401": f"the hub at {{endpoint}} refuses the token that was sent to fetch {{name}}; {_LOG_IN}",
    "403": "the token that was sent to {endpoint} may not read {name}; ask its owners for access, or use a token that "
    "may, from {endpoint}/settings/tokens",
    "": "{name} could not be fetched from {endpoint} ({reason}); try again later, or give a folder",
}
"""What is said when fetching fails: by the name of the library's error, or the status of the hub's answer."""

_SENDING = {
    "HFValidationError": f"{_NO_ID}; give such an id",
    "LocalTokenNotFoundError": f"the hub at {{endpoint}} takes {{name}} only from those it knows; {_LOG_IN}",
    "RepositoryNotFoundError": "there is no model {name} at {endpoint} that you may write to; check the name, and "
    f"{_LOG_IN}",
    "RevisionNotFoundError": "the model {name} at {endpoint} has no branch '{revision}', and it could not be made; "
    "leave revision out to send to the main one",
    "TransportError": f"{_UNREACHABLE}, so that {{name}} was not sent; {_REACH_IT}",
    "OfflineModeIsEnabled": f"{_UNREACHABLE}, so that {{name}} was not sent; {_REACH_IT}",
    "401": f"the hub at {{endpoint}} takes {{name}} only from those it knows; {_LOG_IN}",
    "403": "the token that was sent to {endpoint} may not write {name}; use a name under your own account, or a token "
    "with the right to write, from {endpoint}/settings/tokens",
    "": "{name} could not be sent to {endpoint} ({reason}); files that arrived are not sent again when you try again",
}
"""The same for sending."""


def fetch(source: str, *, revision: str | None = None, patterns: Iterable[str]) -> Path:
    """Return a folder with the files of the model ``source`` (owner/name), fetched unless they are there already.

    Its files are links into the library's cache, so that whoever opens them must not write.

    Args:
        source: id on the hub.
        revision: branch, tag or commit. Default the main branch.
        patterns: which files are wanted, as in a shell: ``*.safetensors``.

    Raises:
        CheckpointError: there is no such model or revision, it may not be read, none of its files is wanted, the hub
            cannot be reached, or `huggingface_hub` is not installed.
    """
    hub, patterns = _library(f"fetching {source} from the hub"), list(patterns)
    with _explained(hub, _FETCHING, source, revision):
        folder = Path(hub.snapshot_download(source, revision=revision, allow_patterns=patterns, library_name=_WHO))
    if not folder.is_dir() or not any(path for pattern in patterns for path in folder.rglob(pattern)):
        raise CheckpointError(
            f"the model {source} at {_endpoint(hub)} has no file like {', '.join(patterns)}; look at its files there, "
            "and give another model"
        )
    return folder


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Send the files of ``folder`` to the model ``repo_id`` on the hub, made where it is not there yet; return its URL.

    Files there that the folder does not have stay as they are.

    Args:
        folder: what to send, as `gptwright export` writes it.
        repo_id: owner/name, or a name alone under your own account.
        private: whether a model that is made now is seen by its owner alone; one that exists stays as it is.
        revision: branch to send to, made where it is not there yet. Default the main one.
        commit_message: what the hub shows beside this change.
        token: who sends. Default who is logged in.

    Raises:
        CheckpointError: there is nothing to send, the hub does not know you or does not let you write, it cannot be
            reached, or `huggingface_hub` is not installed.
    """
    path = Path(folder).expanduser()
    if not path.is_dir() or not any(path.iterdir()):
        what = "is empty" if path.is_dir() else f"is no folder (current directory {Path.cwd()})"
        raise CheckpointError(f"{folder} {what}, and a folder with a model is sent; make one with `gptwright export`")
    hub = _library(f"sending {folder} to the hub")
    with _explained(hub, _SENDING, repo_id, revision):
        api = hub.HfApi(token=token, library_name=_WHO)
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(made.repo_id, branch=revision, exist_ok=True)
        message = commit_message or "Sent by gptwright"
        api.upload_folder(repo_id=made.repo_id, folder_path=path, revision=revision, commit_message=message)
    return f"{made}" if revision is None else f"{made}/tree/{revision}"


_WHO = "gptwright"


@contextmanager
def _explained(hub: Any, sentences: dict[str, str], name: str, revision: str | None) -> Iterator[None]:
    """Turn whatever the library raises inside the block into one of ``sentences``."""
    try:
        yield
    except Exception as error:  # the library and its transports raise two dozen unrelated kinds
        cause = _answered(error)
        kind = next((kind for kind in _kinds(cause) if kind in sentences), "")
        said = {"name": name, "revision": revision, "reason": _reason(cause)}
        raise CheckpointError(sentences[kind].format(endpoint=_endpoint(hub), cwd=Path.cwd(), **said)) from error


def _answered(error: BaseException) -> BaseException:
    """Return what the hub answered, where the library hides it behind what it then tried in vain."""
    cause = error.__cause__
    hidden = getattr(error, "response", None) is None and getattr(cause, "response", None) is not None
    return cause if hidden and cause is not None else error


def _kinds(error: BaseException) -> Iterator[str]:
    """Yield what an error is called, from special to general, and last the status of the hub's answer."""
    yield from (kind.__name__ for kind in type(error).__mro__)
    yield str(getattr(getattr(error, "response", None), "status_code", None))


def _reason(error: BaseException) -> str:
    """Return in one line what the hub answered, or what lies behind an error that is no answer."""
    answer = getattr(error, "response", None) is not None
    behind = error if answer or error.__cause__ is None else error.__cause__
    return " ".join(str(behind).split())[:200].rstrip(" .") or type(behind).__name__


def _endpoint(hub: Any) -> str:
    return hub.HfApi().endpoint


def _library(what: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            f"{what} needs huggingface_hub, which is not installed: pip install 'gptwright[hf]'"
        ) from None
    return huggingface_hub
