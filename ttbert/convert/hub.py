"""Checkpoints on the Hugging Face hub, through huggingface_hub's own client and cache.

A revision is resolved to a commit by one request, and everything after that is asked for by commit. Offline, the client's
cache is read and no socket is opened.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..cache.digest import Digest
from ..errors import (
    FULL,
    CheckpointError,
    InputError,
    NoSpaceError,
    NotCached,
    StoreReadOnly,
    StoreUnavailable,
    TtbertError,
)
from ..files import replace_file
from ..paths import is_file, is_folder
from ..text import error_text, size_text
from .source import Source, SourceFile, size_of

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_REVISION = re.compile(r"\w[\w.+@=#-]*(?:/\w[\w.+@=#-]*)*")
_SIGN_IN = "set HF_TOKEN or run `hf auth login`"
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT}


def open_hub_source(repo: str, revision: str | None, offline: bool) -> Source:
    """The model `repo` at a revision, or what huggingface_hub's cache holds of it. InputError for what is no id."""
    _check_id(repo, revision)
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return HubCacheSource(repo, revision)
    return HubSource(repo, revision)


class HubSource(Source):
    """A model on the hub, at the commit that the revision named when this was made; that takes one request."""

    def __init__(self, repo: str, revision: str | None) -> None:
        from huggingface_hub import HfApi, constants

        self._revision = revision or constants.DEFAULT_REVISION
        self._etags: dict[str, str] = {}
        with _hub_errors(repo, self._revision):
            # Without a timeout of its own this request would wait for ever.
            info = HfApi().model_info(repo, revision=self._revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            if info.sha is None or _COMMIT.fullmatch(info.sha) is None:
                raise ValueError(f"not a commit: {info.sha!r:.100}")
            files = []
            for sibling in info.siblings or ():
                if sibling.size is None:
                    raise ValueError("it does not give the sizes and digests of files, as the hub does")
                sha256 = None if sibling.lfs is None else Digest.parse(f"sha256:{sibling.lfs.sha256}")
                files.append(SourceFile(sibling.rfilename, sibling.size, sha256))
                etag = sibling.blob_id if sha256 is None else sha256.hex
                if etag is not None:
                    self._etags[sibling.rfilename] = etag
        super().__init__(repo, info.sha, files)

    def _locate(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        with _hub_errors(self.label, self._revision, self.files[name]):
            path = Path(hf_hub_download(self.label, name, revision=self.commit))
        # Asked by commit, huggingface_hub does not note the revision that led to it, and offline needs that. In a cache
        # that is read-only everybody does without.
        with suppress(OSError):
            self._note_revision()
        return path

    def _expected(self, name: str) -> str | None:
        return self._etags.get(name)

    def _note_revision(self) -> None:
        ref, commit = _repo_cache(self.label) / "refs" / self._revision, (self.commit or "").encode()
        if self._revision == self.commit or (ref.is_file() and ref.read_bytes() == commit):
            return
        replace_file(ref, commit)


class HubCacheSource(Source):
    """What huggingface_hub's local cache holds of a model; opens no socket.

    The cache is read directly, in the layout that huggingface_hub documents. Its own `local_files_only=True` may still
    send a request: see `detect_agent` in huggingface_hub 2.
    """

    is_partial = True

    def __init__(self, repo: str, revision: str | None) -> None:
        from huggingface_hub import constants

        self._revision = revision or constants.DEFAULT_REVISION
        commit = self._revision
        if _COMMIT.fullmatch(commit) is None:
            try:
                commit = (_repo_cache(repo) / "refs" / commit).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise _not_cached(f"{repo} at revision {self._revision}") from error
        self._snapshot = _repo_cache(repo) / "snapshots" / commit
        if _COMMIT.fullmatch(commit) is None or not is_folder(self._snapshot):
            raise _not_cached(f"{repo} at revision {self._revision}")
        found = sorted(path for path in self._snapshot.rglob("*") if is_file(path))
        names = [(path, path.relative_to(self._snapshot).as_posix()) for path in found]
        super().__init__(repo, commit, [SourceFile(name, size_of(path), None) for path, name in names])

    def _locate(self, name: str) -> Path:
        return self._snapshot / name

    def _expected(self, name: str) -> str | None:
        # A snapshot's file is a link to a blob named by the SHA-256 or, if small, by git's name of its content. Where
        # links are not possible it is the file itself, and nobody vouches for it.
        with suppress(OSError):
            etag = (self._snapshot / name).readlink().name
            return etag if _ETAG.fullmatch(etag) else None
        return None

    def _missing(self, name: str) -> TtbertError:
        return _not_cached(f"{name} of {self.label} at revision {self._revision}")


def no_id(model: str) -> InputError:
    return InputError(
        f"{model!r:.200} is neither a folder nor a model's id on the Hugging Face hub",
        "an id is like deepset/bert-base-cased-squad2; a folder may begin with ./",
    )


def _check_id(model: str, revision: str | None) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(model)
    except HFValidationError as error:
        raise no_id(model) from error
    if revision is not None and (_REVISION.fullmatch(revision) is None or ".." in revision):
        raise InputError(f"{revision!r} is not a revision", "give a branch, a tag or a commit")


def _repo_cache(repo: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE).expanduser() / repo_folder_name(repo_id=repo, repo_type="model")


def _not_cached(what: str) -> NotCached:
    from huggingface_hub import constants

    online = "with HF_HUB_OFFLINE unset" if constants.HF_HUB_OFFLINE else "without --offline"
    return NotCached(
        f"{what} is not in the local Hugging Face cache, {constants.HF_HUB_CACHE}",
        f"run once {online}, or give a local folder",
    )


@contextmanager
def _hub_errors(repo: str, revision: str, file: SourceFile | None = None) -> Iterator[None]:
    """Raise whatever huggingface_hub raises as one of our errors, that one as its cause."""
    # HTTPError is the base class of the HTTP library in use, which is not the same in all versions. The last four below
    # are what huggingface_hub trips over in an answer that is not a hub's.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise _translated(error, repo, revision, file) from error


def _translated(error: Exception, repo: str, revision: str, file: SourceFile | None) -> TtbertError:
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    if isinstance(error, errors.LocalEntryNotFoundError):
        # The answer to the question before the download, wrapped once more.
        error = error.__cause__ if isinstance(error.__cause__, Exception) else ConnectionError(str(error))
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    bad_token = status == 401 and "Invalid credentials" in response.headers.get("X-Error-Message", "")  # type: ignore[union-attr]
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{repo} is gated: its owner has to grant you access", f"ask at {endpoint}/{repo}, then {_SIGN_IN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{repo} has no revision {revision!r}", "give a branch, a tag or a commit of it")
    if isinstance(error, errors.EntryNotFoundError):
        return CheckpointError(
            f"{repo} has no file {file.name!r}" if file else f"{repo} has no such file",
            "is it still there on the hub? try again",
        )
    if isinstance(error, errors.DisabledRepoError):
        return CheckpointError(f"{repo} was disabled by the hub or its owner", "choose another model")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404 or (status == 401 and not bad_token):
        return InputError(
            f"there is no model {repo} on {endpoint}, or it is private",
            f"check the id; for a private model {_SIGN_IN}; a folder may begin with ./",
        )
    if status in (401, 403):
        return StoreUnavailable(f"{endpoint} refused access to {repo}: HTTP {status}", f"check the token: {_SIGN_IN}")
    if status is not None:
        return StoreUnavailable(f"{endpoint} answered HTTP {status} when asked for {repo}", "try again later")
    if isinstance(error, OSError) and error.errno in FULL | _NOT_WRITABLE:
        return _disk_error(error, repo, file)
    what = file.name if file else "the list of files"
    return StoreUnavailable(
        f"{what} of {repo} could not be fetched from {endpoint}: {error_text(error)}",
        "check the network and HF_ENDPOINT and try again; with --offline only local files are used",
    )


def _disk_error(error: OSError, repo: str, file: SourceFile | None) -> TtbertError:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if error.errno in _NOT_WRITABLE:
        return StoreReadOnly(
            f"the Hugging Face cache {cache} cannot be written to: {error.strerror}",
            "set HF_HOME to a folder that you may write to",
        )
    free = "unknown"
    with suppress(OSError):
        free = size_text(shutil.disk_usage(cache).free)
    needed = size_text(file.size) if file else "unknown"
    return NoSpaceError(
        f"the disk of the Hugging Face cache {cache} is full: {repo} needs {needed}, free {free}",
        "free some space, or set HF_HOME to a folder on another disk",
    )
