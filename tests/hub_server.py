"""A hub in a thread: the endpoints of huggingface.co that huggingface_hub's client uses, over real sockets.

    with HubServer() as hub:
        commit = hub.add("org/model", {"config.json": b"{}", "model.safetensors": b"..."})
        subprocess.run(..., env=hub.env(home))

Large files are served as the hub serves them: the hub itself answers with the metadata and a redirect, and a second
server on another port, the CDN, has the bytes. Everything is counted, and a file can be made to misbehave.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Fault = Literal["unavailable", "truncate", "corrupt", "drop", "reset"]
_LARGE = (".safetensors", ".bin", ".h5", ".msgpack", ".onnx", ".gguf")


@dataclass
class _Repo:
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    access: Literal["open", "gated", "private"] = "open"


@dataclass
class _Trouble:
    fault: Fault
    times: int


class HubServer:
    """Repos, their revisions, the requests that came and the faults to come."""

    def __init__(self) -> None:
        self.repos: dict[str, _Repo] = {}
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request; those to the CDN begin with `/cdn/`, then the file's name."""
        self.bytes_sent: Counter[str] = Counter()
        """Bytes of content sent, by file name."""
        self.authorizations: dict[str, list[str | None]] = defaultdict(list)
        """The Authorization headers seen by `hub` and by `cdn`."""
        self.token = "hf_test"
        """Whoever sends it may read gated and private repos."""
        self.down = False
        """Answer 503 to everything."""
        self.portal: bytes | None = None
        """Answer 200 and this to everything, as the portal of a guest network does."""
        self.supports_ranges = True
        self._troubles: dict[str, _Trouble] = {}
        self._lock = threading.Lock()
        self._hub, self._cdn = _Server(self, "hub"), _Server(self, "cdn")

    def __enter__(self) -> HubServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._hub.stop()
        self._cdn.stop()

    @property
    def url(self) -> str:
        return self._hub.url

    def env(self, home: Path, **extra: str) -> dict[str, str]:
        """The environment of a process that is to use this hub, with `home` as HF_HOME."""
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))
        }
        paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [env.get("PYTHONPATH")])]
        env |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "*", "PYTHONPATH": os.pathsep.join(paths)}
        return env | extra

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Make a commit with exactly these files, move the branch to it, and return its hash."""
        held = self.repos.setdefault(repo, _Repo())
        text = json.dumps([repo, len(held.commits), sorted((k, hashlib.sha256(v).hexdigest()) for k, v in files.items())])
        commit = hashlib.sha1(text.encode()).hexdigest()
        held.commits[commit] = dict(files)
        held.refs[branch] = commit
        return commit

    def break_file(self, name: str, fault: Fault, times: int = 1_000_000) -> None:
        """Let the next `times` downloads of a file go wrong.

        `unavailable` answers 503; `truncate` announces half of the file and sends that; `corrupt` changes one byte;
        `drop` closes the connection after half of what was announced; `reset` does so with a TCP reset.
        """
        self._troubles[name] = _Trouble(fault, times)

    def mend(self, name: str) -> None:
        self._troubles.pop(name, None)

    def fault(self, name: str) -> Fault | None:
        with self._lock:
            trouble = self._troubles.get(name)
            if trouble is None or trouble.times == 0:
                return None
            trouble.times -= 1
            return trouble.fault

    def count(self, name: str, sent: int) -> None:
        with self._lock:
            self.bytes_sent[name] += sent

    def cdn_url(self, name: str, sha256: str) -> str:
        return f"{self._cdn.url}/cdn/{name}?sha256={sha256}"

    def content(self, sha256: str) -> bytes | None:
        every = (content for repo in self.repos.values() for files in repo.commits.values() for content in files.values())
        return next((content for content in every if hashlib.sha256(content).hexdigest() == sha256), None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, state: HubServer, role: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = state
        self.role = role
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        state, path = self.server.state, unquote(urlsplit(self.path).path)
        state.requests.append((self.command, path))
        state.authorizations[self.server.role].append(self.headers.get("Authorization"))
        if state.down:
            return self._refuse(503)
        if state.portal is not None:
            return self._answer(200, state.portal)
        if self.server.role == "cdn":
            return self._cdn(path)
        if path == "/api/agent-harnesses":
            # huggingface_hub 2 asks for it once a day, for its User-Agent header.
            return self._answer(200, b'{"standardEnvVars": [], "harnesses": {}}')
        if match := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            return self._model_info(match[1], match[2] or "main")
        if match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            return self._resolve(match[1], match[2], match[3])
        return self._refuse(404)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the tests read `requests`."""

    def _files(self, name: str, revision: str, what: Literal["metadata", "content"]) -> tuple[str, dict[str, bytes]] | None:
        """The commit and its files; None after an answer that refuses."""
        repo, state = self.server.state.repos.get(name), self.server.state
        authorization = self.headers.get("Authorization")
        may = authorization == f"Bearer {state.token}"
        if authorization is not None and not may:
            return self._refuse(401, **{"X-Error-Message": "Invalid credentials in Authorization header"})
        if repo is None or (repo.access == "private" and not may):
            # As the hub does: whoever is not signed in is not told whether there is such a repo.
            return self._refuse(404 if may else 401, **{"X-Error-Code": "RepoNotFound"} if may else {})
        if repo.access == "gated" and what == "content" and not may:
            return self._refuse(401, **{"X-Error-Code": "GatedRepo"})
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            return self._refuse(404, **{"X-Error-Code": "RevisionNotFound"})
        return commit, repo.commits[commit]

    def _model_info(self, name: str, revision: str) -> None:
        found = self._files(name, revision, "metadata")
        if found is None:
            return
        commit, files = found
        blobs = "blobs=true" in urlsplit(self.path).query.lower()
        siblings = [_sibling(each, content) if blobs else {"rfilename": each} for each, content in files.items()]
        body = json.dumps({"id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings}).encode()
        self._answer(200, body, **{"Content-Type": "application/json"})

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        found = self._files(repo, revision, "content")
        if found is None:
            return
        commit, files = found
        headers = {"X-Repo-Commit": commit}
        if name not in files:
            self._refuse(404, **headers, **{"X-Error-Code": "EntryNotFound"})
        elif _is_large(name):
            sha256 = hashlib.sha256(files[name]).hexdigest()
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(files[name]))}
            self._answer(302, b"", Location=self.server.state.cdn_url(name, sha256), **headers)
        else:
            self._content(name, files[name], {"ETag": f'"{_git_name(files[name])}"', **headers})

    def _cdn(self, path: str) -> None:
        name = path.removeprefix("/cdn/")
        content = self.server.state.content(urlsplit(self.path).query.removeprefix("sha256="))
        if content is None:
            self._refuse(404)
        else:
            self._content(name, content, {"Accept-Ranges": "bytes"})

    def _content(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        state, status = self.server.state, 200
        fault = state.fault(name) if self.command == "GET" else None
        if fault == "unavailable":
            self._refuse(503)
            return
        if fault == "corrupt":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if fault == "truncate":
            content = content[: len(content) // 2]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and state.supports_ranges:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        self._answer(status, content, send=len(content) // 2 if fault in ("drop", "reset") else None, name=name, **headers)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if fault in ("drop", "reset"):
            self.close_connection = True

    def _refuse(self, status: int, **headers: str) -> None:
        self._answer(status, json.dumps({"error": "refused"}).encode(), **headers)

    def _answer(self, status: int, body: bytes, *, send: int | None = None, name: str | None = None, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body if send is None else body[:send]
        self.wfile.write(body)
        self.wfile.flush()
        if name is not None:
            self.server.state.count(name, len(body))


def _is_large(name: str) -> bool:
    return name.endswith(_LARGE)


def _git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(name: str, content: bytes) -> dict[str, object]:
    sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": _git_name(content)}
    if _is_large(name):
        sha256 = hashlib.sha256(content).hexdigest()
        sibling["blobId"] = _git_name(f"pointer {sha256}".encode())
        sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return sibling
