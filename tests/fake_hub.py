"""A Hugging Face hub on this machine, as far as uploading and downloading a model goes: files are kept in memory."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_right"  # that may write


class Hub:
    """Repositories by name, each a mapping of paths to contents, with its history of commit messages."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, list[str]] = {}
        self.private: dict[str, bool] = {}
        self.versions: dict[str, dict[str, bytes]] = {}  # by commit
        self.url = ""

    def sha(self, name: str) -> str:
        return hashlib.sha1(repr((name, len(self.commits[name]))).encode()).hexdigest()

    def put(self, name: str, folder: Path) -> None:
        """Replace what a repository holds, as someone else would."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        self.files[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        self.commits.setdefault(name, []).append("put there")
        self.versions[self.sha(name)] = dict(self.files[name])

    def at(self, name: str, revision: str) -> dict[str, bytes]:
        """Return the files of a commit, or the newest."""
        return self.files.get(name, {}) if revision == "main" else self.versions[revision]

    def commit(self, name: str, lines: bytes) -> dict[str, str]:
        for line in map(json.loads, lines.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.commits[name].append(value["summary"])
            elif line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.files[name][value["path"]]
            else:
                raise AssertionError(line["key"])
        self.versions[self.sha(name)] = dict(self.files[name])
        return {"commitUrl": f"{self.url}/{name}/commit/{self.sha(name)}", "commitOid": self.sha(name)}

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, Any]:
        """Return a status and JSON, or the bytes of a file."""
        if method == "POST" and token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}"
            if name not in self.files:
                self.files[name], self.commits[name], self.private[name] = {}, [], _private(told)
            return 200, {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w[\w-]*)/([^/]+).*)?", path):
            return self._api(match[1], match[2], match[3] or "main", body)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            found = self.at(match[1], match[2]).get(match[3])
            commit = self.sha(match[1]) if match[2] == "main" and found is not None else match[2]
            return (404, {"error": "Entry not found"}) if found is None else (200, (commit, found))
        return 404, {"error": f"no {path}"}

    def _api(self, name: str, what: str | None, revision: str, body: bytes) -> tuple[int, Any]:
        if name not in self.files:
            return 404, {"error": "Repository not found"}
        files = self.at(name, revision)
        if what == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]}
        if what == "commit":
            return 200, self.commit(name, body)
        if what == "tree":
            rows = [{"type": "file", "path": p, "size": len(c), "oid": etag(c)} for p, c in files.items()]
            return 200, rows
        sha = self.sha(name) if revision == "main" else revision
        return 200, {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]}


def _private(told: dict[str, Any]) -> bool:
    return bool(told.get("private")) or told.get("visibility") == "private"


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            status, said = hub.answer(self.command, path, body, self.headers.get("Authorization"))
            extra: dict[str, str] = {}
            if isinstance(said, tuple):
                commit, content = said
                extra = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": commit}
            else:
                content = json.dumps(said).encode()
                missing = {"Entry not found": "EntryNotFound", "Repository not found": "RepoNotFound"}
                if status == 404 and said["error"] in missing:
                    extra = {"X-Error-Code": missing[said["error"]]}
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **extra}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = respond  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Any) -> Iterator[Hub]:
    """Let huggingface_hub find this hub, and keep what it downloads in `cache`."""
    from huggingface_hub import constants, hf_api

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    for name, value in {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(cache)}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
