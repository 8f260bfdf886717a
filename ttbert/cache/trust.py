"""Signatures: who says that a manifest is right, and that a name means it.

A digest proves that bytes are those a manifest names; it does not prove who wrote the manifest. So a publisher signs two
kinds of statements: "this manifest is of my conversion" and "this entry of a ref's history is mine". A signature is an
object of its own beside what it signs, so several keys can sign one thing, and it is made once:

    signatures/manifest/b07c…/3f9a…      64 bytes: of that manifest, by that key
    signatures/ref/77e1…/3f9a…           of the entry of a ref with that digest

What is signed names the kind and the digest, so a signature can be used for nothing else. Ed25519 gives the same 64 bytes
each time: of two that sign at once, neither can spoil it.

Keys and what this user has seen lie outside of the cache; nothing in a cache can change whom its readers trust.
"""

from __future__ import annotations

import contextlib
import logging
import re
from dataclasses import field
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import platformdirs

from ..errors import CacheError, IncompatibleError, UntrustedError
from ..frozen import Frozen
from .digest import Digest, blake3_of
from .history import Memory, doubt
from .keys import PrivateKey, PublicKey, required_keys
from .refs import LogEntry, Ref, read_entry, read_latest
from .stores.store import Store

Kind = Literal["manifest", "ref"]
_ID = re.compile(r"[0-9a-f]{64}")
_MOST = 100
"""Signatures that are looked at to say who signed something; whether a trusted key did is always found."""
SIZE = 64
"""Bytes of a signature."""
_KINDS: dict[Kind, str] = {"manifest": "manifest", "ref": "entry of a name"}
_KEY = re.compile(r"signatures/(?P<kind>manifest|ref)/(?P<digest>[0-9a-f]{64})/(?P<key>[0-9a-f]{64})")
_log = logging.getLogger(__name__)
_TRIES = 100


class Trust(Frozen):
    """Whom one user of a cache believes, and as whom that user signs. Without keys, everybody who can write is believed."""

    keys: tuple[PublicKey, ...] = ()
    signer: PrivateKey | None = None
    memory: Memory = field(default_factory=Memory)

    @property
    def required(self) -> bool:
        """Whether only what a trusted key signed may be used."""
        return bool(self.keys)

    def believes(self, store: Store, kind: Kind, digest: Digest) -> bool:
        """Whether this may be used, as far as signatures go."""
        return not self.required or any(has_signature(store, kind, digest, key) for key in self.keys)

    def check(self, store: Store, kind: Kind, digest: Digest, what: str) -> None:
        """UntrustedError, naming `what`, unless a trusted key signed it or none is required."""
        if self.believes(store, kind, digest):
            return
        others = signers(store, kind, digest)
        found = f"it is signed by the key {others[0].id[:12]}..., which is not trusted here" if others else "it is not signed"
        raise UntrustedError(
            f"{what} is not of a trusted publisher: {found}; nothing of it was used",
            "ask its publisher for `ttbert cache sign REF`, or trust their key with `ttbert cache trust FILE`",
        )

    def check_may_publish(self) -> None:
        """UntrustedError where what this user publishes could not be loaded here again."""
        if not self.required:
            return
        if self.signer is None:
            raise UntrustedError(
                "only signed models are used here, and there is no key to sign a conversion with",
                "load a model that a trusted key signed; or `ttbert cache keygen`, and have its key trusted",
            )
        if self.signer.public.raw not in {key.raw for key in self.keys}:
            raise UntrustedError(
                f"the key {self.signer.name!r} would sign, and is not among those trusted here",
                f"`ttbert cache trust {self.signer.name}`, here and wherever its models are to be loaded",
            )

    def latest(self, store: Store, ref: Ref) -> LogEntry | None:
        """The entry of a ref that counts, whether it may be used or not; None where there is none."""
        latest, seen = read_latest(store, ref), self.memory.recall(store, ref)
        if seen and (latest is None or latest.number < seen.number):
            # What a client of NFS knows of a folder may be half a minute old, and another machine have written down more.
            latest = read_entry(store, ref, seen.number) or latest
        return latest

    def check_ref(self, store: Store, ref: Ref, latest: LogEntry) -> None:
        """UntrustedError unless a ref's last entry may be used: signed, and going on from what was seen of it before."""
        if latest.means:
            self.check(store, "ref", latest.digest, f"the name {ref} in {store.url}")
        elif not self.believes(store, "ref", latest.digest):
            return  # a removal needs no signature, since objects can be removed without one; but it is not remembered
        self.check_history(store, ref, latest)
        self.memory.remember(store, ref, latest)

    def check_history(self, store: Store, ref: Ref, latest: LogEntry) -> None:
        """UntrustedError where a ref shows an older state than was seen before; without trusted keys, only a warning."""
        odd = doubt(store, ref, latest, self.memory.recall(store, ref))
        if odd and odd.rewritten and self.required:
            raise UntrustedError(
                f"{ref} in {store.url} was rolled back: {odd.what}; nothing of it was used",
                f"see `ttbert cache log {ref}`; if it is right, `ttbert cache log {ref} --accept`",
            )
        if odd:
            _log.warning("%s: %s; see `ttbert cache log %s`", ref, odd.what, ref)

    def sign(self, store: Store, kind: Kind, digest: Digest) -> None:
        """Sign, if there is a key to sign with."""
        if self.signer:
            publish_signature(store, kind, digest, self.signer)


def user_trust(signer: PrivateKey | None = None) -> Trust:
    """Whom this user trusts and what this user has seen, from the user's own folders."""
    return Trust(required_keys(), signer, Memory(Path(platformdirs.user_state_dir("ttbert"), "refs")))


def publish_signature(store: Store, kind: Kind, digest: Digest, key: PrivateKey) -> None:
    """Store a key's signature. One that is there already is checked, and moved to quarantine where it is none."""
    _publish(store, kind, digest, key.public, key.sign(_message(kind, digest)))


def copy_signatures(source: Store, target: Store, kind: Kind, digest: Digest) -> None:
    """Store every signature of this that one store has in another one; what is no signature stays where it is."""
    for key in signers(source, kind, digest):
        signature = _read(source, kind, digest, key)
        if signature:
            _publish(target, kind, digest, key, signature)


def has_signature(store: Store, kind: Kind, digest: Digest, key: PublicKey) -> bool:
    """Whether that key signed this."""
    return _read(store, kind, digest, key) is not None


def find_signature_problem(key: str, content: bytes) -> str | None:
    """What is wrong with an object below `signatures/`, if anything. IncompatibleError for one that is called otherwise."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise IncompatibleError(f"{key:.200}: no signature of this version of ttbert is called so", "look who put it there")
    kind, digest, public = (
        cast(Kind, match["kind"]),
        Digest("blake3", match["digest"]),
        PublicKey("", bytes.fromhex(match["key"])),
    )
    if _is_signature(content, kind, digest, public):
        return None
    what = f"what is there (blake3:{blake3_of(content).short}...) is no signature of the {_KINDS[kind]} {digest.short}"
    return f"{what} by the key {public.id[:12]}, whose owner can sign it again"


def signers(store: Store, kind: Kind, digest: Digest) -> list[PublicKey]:
    """Every key that signed this, known here or not; a key without a name is all that is known of a stranger."""
    names = (entry.key.rpartition("/")[2] for entry in store.list(f"signatures/{kind}/{digest.hex}"))
    keys = (PublicKey("", bytes.fromhex(name)) for name in islice(names, _MOST) if _ID.fullmatch(name))
    return [key for key in keys if has_signature(store, kind, digest, key)]


def signature_key(kind: Kind, digest: Digest, key: PublicKey) -> str:
    return f"signatures/{kind}/{digest.hex}/{key.id}"


def _publish(store: Store, kind: Kind, digest: Digest, key: PublicKey, signature: bytes) -> None:
    name = signature_key(kind, digest, key)
    for _ in range(_TRIES):
        if store.put(name, signature) or has_signature(store, kind, digest, key):
            return
        with contextlib.suppress(KeyError):  # somebody else has just moved it
            store.quarantine(name)
    raise CacheError(f"{store.url}/{name} could not be published: whatever is there is no signature", "look at the disk")


def _read(store: Store, kind: Kind, digest: Digest, key: PublicKey) -> bytes | None:
    """The signature of this by that key, if there is one."""
    try:
        content = store.get(signature_key(kind, digest, key), 0, SIZE + 1)
    except KeyError:
        return None
    return content if _is_signature(content, kind, digest, key) else None


def _is_signature(content: bytes, kind: Kind, digest: Digest, key: PublicKey) -> bool:
    return len(content) == SIZE and key.verifies(content, _message(kind, digest))


def _message(kind: Kind, digest: Digest) -> bytes:
    return f"ttbert.signature/1\n{kind}\n{digest}\n".encode("ascii")
