"""A little Hugging Face hub on this machine: enough of its API for models to be sent and fetched.

It speaks HTTP with whatever client comes, as the real one does: the same paths, states and headers. Every version of a
branch is a folder of files; large ones (safetensors) arrive by git-lfs's protocol, small ones within the commit.
"""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"
"""Tokens that this hub knows: of the user `me`, with the right to write, and without."""


class Refused(Exception):  # noqa: N818 - an answer
    """An answer that is not 200, with the hub's own word for it."""

    def __init__(self, status: int, code: str = "", message: str = "", **more: str) -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message, self.more = status, code, message, more


class Hub:
    """The models of the hub, in the folder ``root``: owner/name/branch/ of files."""

    def __init__(self, root: Path) -> None:
        self.root, self.objects = root / "models", root / "objects"
        self.objects.mkdir(parents=True)
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.asked: list[str] = []
        """`METHOD path` of every request."""
        self.messages: list[str] = []
        """Of every commit."""
        self.url = ""

    def create(self, name: str, *, private: bool) -> None:
        """Make an empty model."""
        if (self.root / name).exists():
            raise Refused(409, message="You already created this model repo", url=f"{self.url}/{name}")
        (self.root / name / "main").mkdir(parents=True)
        self.private |= {name} if private else set()

    def branch(self, name: str, branch: str) -> None:
        """Make a branch that begins as the main one."""
        if (self.root / name / branch).exists():
            raise Refused(409, message="Reference already exists")
        shutil.copytree(self.root / name / "main", self.root / name / branch)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Return what a branch holds, or a commit, which is known by the hash of what it holds."""
        branches = [self.root / name / revision, *(self.root / name).iterdir()]
        for branch in branches:
            found = {str(p.relative_to(branch)): p.read_bytes() for p in sorted(branch.rglob("*")) if p.is_file()}
            if branch.is_dir() and revision in (branch.name, commit_of(found)):
                return found
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def commit(self, name: str, revision: str, lines: list[dict[str, Any]]) -> None:
        """Write the files of a commit."""
        self.files(name, revision)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
                continue
            path = self.root / name / revision / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            content = base64.b64decode(value["content"]) if line["key"] == "file" else self._object(value["oid"])
            path.write_bytes(content)

    def _object(self, oid: str) -> bytes:
        content = (self.objects / oid).read_bytes()
        assert hashlib.sha256(content).hexdigest() == oid
        return content


def commit_of(files: dict[str, bytes]) -> str:
    """Return the hash (40 hex digits) of a version."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; routes are tried in order."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        try:
            for pattern, route in ROUTES.items():
                if found := re.fullmatch(pattern, f"{self.command} {path}"):
                    return self._send(200, *route(self, body, *found.groups()))
            raise Refused(404, message=f"no such path {path}")
        except Refused as answer:
            code = {"X-Error-Code": answer.code} if answer.code else {}
            self._send(
                answer.status, {"error": answer.message, **answer.more}, {"X-Error-Message": answer.message, **code}
            )

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 - the base class calls them

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def token(self) -> str:
        """Return the token that came along."""
        found = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if found and found not in (WRITER, READER):
            raise Refused(401, message="Invalid credentials in Authorization header")
        return found

    def may_read(self, name: str) -> None:
        """Refuse models that are not there, or not for everyone: without a token nobody learns which."""
        if not (self.hub.root / name).is_dir() or (name in self.hub.private and not self.token):
            raise Refused(404 if self.token else 401, "RepoNotFound", "Repository not found")

    def may_write(self, name: str) -> None:
        """Refuse whoever has no right to write."""
        if not self.token:
            raise Refused(401, message="Invalid username or password.")
        if self.token != WRITER or not name.startswith("me/"):
            raise Refused(403, message=f"You don't have the rights to write {name}")

    def create(self, body: bytes) -> tuple[Any]:
        """POST /api/repos/create."""
        wanted = json.loads(body)
        name = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        self.may_write(name)
        self.hub.create(name, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        return ({"url": f"{self.hub.url}/{name}", "name": name, "id": name},)

    def validate(self, body: bytes) -> tuple[Any]:
        """POST /api/validate-yaml: whatever the model card says is fine."""
        del body
        return ({"warnings": [], "errors": []},)

    def branch(self, body: bytes, name: str, branch: str) -> tuple[Any]:
        """POST /api/models/NAME/branch/BRANCH."""
        del body
        self.may_write(name)
        self.hub.branch(name, branch)
        return ({},)

    def preupload(self, body: bytes, name: str, revision: str) -> tuple[Any]:
        """POST /api/models/NAME/preupload/REVISION: how each file is to be sent."""
        self.may_write(name)
        self.hub.files(name, revision)
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
        return ({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]},)

    def batch(self, body: bytes, name: str) -> tuple[Any]:
        """POST /NAME.git/info/lfs/objects/batch: where each large file is to be put."""
        self.may_write(name)
        objects = json.loads(body)["objects"]
        actions = [{"upload": {"href": f"{self.hub.url}/objects/{each['oid']}"}} for each in objects]
        return ({"objects": [{**each, "actions": to} for each, to in zip(objects, actions, strict=True)]},)

    def put(self, body: bytes, oid: str) -> tuple[Any]:
        """PUT /objects/OID."""
        (self.hub.objects / oid).write_bytes(body)
        return ({},)

    def commit(self, body: bytes, name: str, revision: str) -> tuple[Any]:
        """POST /api/models/NAME/commit/REVISION: a line of JSON for each file."""
        self.may_write(name)
        self.hub.commit(name, revision, [json.loads(line) for line in body.splitlines()])
        oid = commit_of(self.hub.files(name, revision))
        return ({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"},)

    def info(self, body: bytes, name: str, revision: str | None = None) -> tuple[Any]:
        """GET /api/models/NAME."""
        del body
        self.may_read(name)
        files = self.hub.files(name, revision or "main")
        return ({"id": name, "sha": commit_of(files), "siblings": [{"rfilename": path} for path in files]},)

    def tree(self, body: bytes, name: str, revision: str) -> tuple[Any]:
        """GET /api/models/NAME/tree/REVISION."""
        del body
        self.may_read(name)
        files = self.hub.files(name, revision).items()
        return ([{"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for p, c in files],)

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        """GET or HEAD /NAME/resolve/REVISION/PATH: a file."""
        del body
        self.may_read(name)
        if name in self.hub.gated:
            raise Refused(403, "GatedRepo", f"Access to model {name} is restricted")
        files = self.hub.files(name, revision)
        if path not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        etag = hashlib.sha1(files[path]).hexdigest()
        return files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": commit_of(files)}


_NAME = r"([^/]+/[^/]+)"
ROUTES: dict[str, Any] = {
    r"POST /api/repos/create": _Handler.create,
    r"POST /api/validate-yaml": _Handler.validate,
    rf"POST /api/models/{_NAME}/branch/([^/]+)": _Handler.branch,
    rf"POST /api/models/{_NAME}/preupload/([^/]+)": _Handler.preupload,
    rf"POST /api/models/{_NAME}/commit/([^/]+)": _Handler.commit,
    rf"POST /{_NAME}\.git/info/lfs/objects/batch": _Handler.batch,
    r"PUT /objects/([0-9a-f]{64})": _Handler.put,
    rf"GET /api/models/{_NAME}/tree/([^/]+)": _Handler.tree,
    rf"GET /api/models/{_NAME}/revision/([^/]+)": _Handler.info,
    rf"GET /api/models/{_NAME}": _Handler.info,
    rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)": _Handler.resolve,
}


@contextmanager
def running(root: Path) -> Iterator[Hub]:
    """Run a hub whose models lie under ``root`` until the block ends; its address is ``hub.url``."""
    hub = Hub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
