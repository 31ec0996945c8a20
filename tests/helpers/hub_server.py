"""A Hugging Face hub on this machine: as much of its protocol as huggingface_hub needs for models, over HTTP.

Files are kept as git does it: small texts as blobs, models and archives as LFS objects, named by their SHA-256. Nothing
of it is checked but what the tests ask for: who may read and write, that LFS objects arrive whole, and that a commit
follows the one that it says it does.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

WRITER, READER = "hf_writer", "hf_reader"
"""The tokens of who may write and of who may only read."""
LARGE = (".onnx", ".npz", ".zip", ".engine")
"""What the hub keeps as LFS objects."""
NAME = r"(?P<name>[^/]+/[^/]+)"
Files = dict[str, bytes]


@dataclass
class Repository:
    """Its commits in their order, each with its files, and who may see it."""

    private: bool
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)

    def commit(self, files: Files) -> str:
        """Add a commit, and return its number."""
        text = repr((len(self.commits), sorted((path, hashlib.sha256(files[path]).hexdigest()) for path in files)))
        number = hashlib.sha1(text.encode()).hexdigest()
        self.commits[number] = files
        return number

    @property
    def newest(self) -> str:
        return [*self.commits][-1]

    def find(self, revision: str) -> str | None:
        """The number of a commit, by it or by the branch's name."""
        if revision == "main":
            return self.newest
        return revision if revision in self.commits else None


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


def identity(path: str, content: bytes) -> str:
    """What the hub names a file's content by."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(ThreadingHTTPServer):
    """The server and all that it holds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: Files = {}  # LFS
        self.requests: list[str] = []
        self.fault = 0  # the HTTP status that everything is answered with, of a hub that is out of order
        self.is_gone = False
        self.lock = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def leave(self) -> None:
        """Be reached no more, not even over connections that are open."""
        self.is_gone = True
        self.shutdown()
        self.server_close()

    def add(self, name: str, files: Files, *, private: bool = False, gated: bool = False) -> str:
        """Put files into a repository, as a commit of their own; return its number."""
        repository = self.repositories.setdefault(name, Repository(private, gated))
        return repository.commit(dict(files))


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str = "", message: str = "", **body: str) -> None:
        super().__init__(message)
        self.body = json.dumps(body).encode()
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(self._read)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self._answer(self._write)

    do_PUT = do_POST  # noqa: N815

    def _answer(self, work: Callable[[str, bytes], tuple[bytes, dict[str, str]]]) -> None:
        body = self._body()
        if self.server.is_gone:
            self.close_connection = True
            return
        path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            self.server.requests.append(f"{self.command} {path}")
            try:
                if self.server.fault:
                    raise RefusedError(self.server.fault, message="out of order")
                content, headers = work(path, body)
                status = 200
            except RefusedError as error:
                content, headers, status = error.body, error.headers, error.status
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @property
    def _token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _found(self, name: str) -> Repository:
        repository = self.server.repositories.get(name)
        if self._token not in ("", WRITER, READER):
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        if repository is None or (repository.private and not self._token):
            raise RefusedError(401 if not self._token else 404, "RepoNotFound", "Repository not found")
        if repository.gated and self._token != WRITER:
            raise RefusedError(401 if not self._token else 403, "GatedRepo", "Access to this model is restricted")
        return repository

    def _at(self, name: str, revision: str) -> tuple[str, Files]:
        repository = self._found(name)
        number = repository.find(revision)
        if number is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return number, repository.commits[number]

    def _read(self, path: str, _: bytes) -> tuple[bytes, dict[str, str]]:
        if path == "/api/whoami-v2":
            if self._token not in (WRITER, READER):
                raise RefusedError(401, message="Invalid credentials in Authorization header")
            return as_json({"name": "acme", "type": "user", "orgs": []})
        if found := re.fullmatch(rf"/api/models/{NAME}(/revision/(?P<revision>.+))?", path):
            number, files = self._at(found["name"], found["revision"] or "main")
            siblings = [{"rfilename": name} for name in files]
            private = self.server.repositories[found["name"]].private
            return as_json({"id": found["name"], "sha": number, "siblings": siblings, "private": private})
        if found := re.fullmatch(rf"/api/models/{NAME}/tree/(?P<revision>[^?]+)", path):
            return as_json([entry(*file) for file in self._at(found["name"], found["revision"])[1].items()])
        if found := re.fullmatch(rf"/{NAME}/resolve/(?P<revision>main|[^/]+)/(?P<file>.+)", path):
            number, files = self._at(found["name"], found["revision"])
            if found["file"] not in files:
                raise RefusedError(404, "EntryNotFound", "Entry not found")
            content = files[found["file"]]
            return content, {"ETag": f'"{identity(found["file"], content)}"', "X-Repo-Commit": number}
        raise RefusedError(404)

    def _write(self, path: str, body: bytes) -> tuple[bytes, dict[str, str]]:
        if path == "/api/validate-yaml":
            return as_json({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/lfs/(?P<digest>[0-9a-f]{64})", path):  # a link of the answer below: no token
            if hashlib.sha256(body).hexdigest() != found["digest"]:
                raise RefusedError(400, message="the object is damaged")
            self.server.objects[found["digest"]] = body
            return b"", {}
        if self._token != WRITER:
            raise RefusedError(403 if self._token == READER else 401, message="You may not write")
        content = [json.loads(line) for line in body.splitlines()]
        if path == "/api/repos/create":
            return self._create(content[0])
        if found := re.fullmatch(rf"/api/models/{NAME}/preupload/main", path):
            files = self._at(found["name"], "main")[1]
            return as_json({"files": [mode(file["path"], files) for file in content[0]["files"]]})
        if found := re.fullmatch(rf"/{NAME}\.git/info/lfs/objects/batch", path):
            return as_json({"transfer": "basic", "objects": [self._place(file) for file in content[0]["objects"]]})
        if found := re.fullmatch(rf"/api/models/{NAME}/commit/main", path):
            return self._commit(found["name"], content)
        raise RefusedError(404)

    def _create(self, asked: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            raise RefusedError(409, message="You already created this model repo", url=f"{self.server.url}/{name}")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.add(name, {".gitattributes": b"*.onnx filter=lfs\n"}, private=private)
        return as_json({"url": f"{self.server.url}/{name}", "name": name})

    def _place(self, file: dict[str, Any]) -> dict[str, Any]:
        if file["oid"] in self.server.objects:
            return file
        return file | {"actions": {"upload": {"href": f"{self.server.url}/lfs/{file['oid']}"}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[bytes, dict[str, str]]:
        repository = self._found(name)
        head, *operations = lines
        if head["value"].get("parentCommit") not in (None, repository.newest):
            raise RefusedError(412, message="A commit has happened since")
        files = dict(repository.commits[repository.newest])
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            else:
                del files[value["path"]]
        number = repository.commit(files)
        return as_json({"commitUrl": f"{self.server.url}/{name}/commit/{number}", "commitOid": number})


def as_json(content: object) -> tuple[bytes, dict[str, str]]:
    return json.dumps(content).encode(), {"Content-Type": "application/json"}


def mode(path: str, files: Files) -> dict[str, Any]:
    """How a file is to be uploaded, and what there is of it."""
    there = {"oid": identity(path, files[path])} if path in files else {}
    return {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False} | there


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A line of the tree."""
    size, digest = len(content), identity(path, content)
    large = {"lfs": {"oid": digest, "size": size, "pointerSize": 130}} if is_large(path) else {}
    return {"type": "file", "path": path, "size": size, "oid": digest[:40]} | large


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub while the block runs."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def use(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub, here and in commands, know no other hub, and no cache but one below `home`."""
    from huggingface_hub import constants

    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_HUB_DISABLE_XET": 1}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, constant in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, constant)


def files_of(bundle: Path) -> Files:
    """The files of a bundle by their paths."""
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
