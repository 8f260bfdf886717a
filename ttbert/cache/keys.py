"""Ed25519 keys as files, in OpenSSH's own formats, kept outside of every cache.

    ~/.config/ttbert/keys/NAME           a private key, 0600
    ~/.config/ttbert/keys/NAME.pub       its public half: one line, to be given to others
    ~/.config/ttbert/trusted/NAME.pub    a public key that this user trusts

TTBERT_TRUST names another folder of trusted keys, for a machine that trusts what its administrator put there. Whatever in
such a folder cannot be read is an error: a key that is left out silently could be the only one, and then nothing would be
required any more.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import getpass
import os
import platform
import re
import shlex
import stat
from functools import cached_property
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING

import platformdirs

from ..errors import FULL, CacheError, InputError, NoSpaceError, StoreReadOnly
from ..frozen import Frozen
from ..paths import is_file, is_there

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DEFAULT = "default"
"""The private key that signs unless another one is named."""

_KIND = b"ssh-ed25519"
_PREFIX = pack(">I", len(_KIND)) + _KIND + pack(">I", 32)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}")
_LARGEST = 4096


class PublicKey(Frozen):
    """Who signs: a name for people, and the 32 bytes that count."""

    name: str
    raw: bytes

    @property
    def id(self) -> str:
        """The key itself in hex, so that two keys never share an id."""
        return self.raw.hex()

    def line(self) -> str:
        """As OpenSSH writes it: `ssh-ed25519 AAAA... NAME`."""
        return f"{_KIND.decode()} {base64.b64encode(_PREFIX + self.raw).decode()} {self.name}"

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made the signature of the message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class PrivateKey(Frozen):
    """A key to sign with, from a file that nobody else can read."""

    name: str
    path: Path

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.name, self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """64 bytes, the same ones every time."""
        return self._key.sign(message)

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key

        hint = f"make one with `ttbert cache keygen {self.name}`; see `ttbert cache trust list`"
        content = _read(self.path, f"the key {self.name!r}", hint)
        if stat.S_IMODE(self.path.stat().st_mode) & 0o077:
            raise InputError(f"others may read the private key {self.path}", f"chmod 600 {shlex.quote(str(self.path))}")
        try:
            key = load_ssh_private_key(content, password=None)
        except (ValueError, TypeError) as error:
            raise InputError(f"{self.path} is no private key without a passphrase: {error}", hint) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError(f"{self.path} is not an Ed25519 key", hint)
        return key


def key_folder() -> Path:
    """Where this user's own keys are."""
    return Path(platformdirs.user_config_dir("ttbert"), "keys")


def trusted_folder() -> Path:
    """Where the trusted keys are: the folder that TTBERT_TRUST names, or this user's."""
    return Path(os.environ.get("TTBERT_TRUST") or Path(platformdirs.user_config_dir("ttbert"), "trusted"))


def make_key(name: str) -> PublicKey:
    """Make a pair of keys; InputError where there is one of that name already, since a lost key cannot be made again."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    folder = key_folder()
    path = folder / _plain(name)
    key = Ed25519PrivateKey.generate()
    public = PublicKey(name if name != DEFAULT else _whose(), key.public_key().public_bytes_raw())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    _make_folder(folder)
    _create(path, secret, 0o600, f"there is a key {name!r} already")
    try:
        _create(_public_path(path), f"{public.line()}\n".encode(), 0o644, f"there is a public key {name!r} already")
    except BaseException:
        path.unlink(missing_ok=True)  # left there, it would sign as another key than the public one of its name
        raise
    return public


def find_signer(name: str | None) -> PrivateKey | None:
    """This user's private key of that name; without a name, the default one if there is one."""
    if name:
        return PrivateKey(name, key_folder() / _plain(name))
    path = key_folder() / DEFAULT
    with contextlib.suppress(OSError):  # where it may not be looked at, signing fails and says so
        if not path.exists():
            return None
    return PrivateKey(DEFAULT, path)


def own_keys() -> tuple[PublicKey, ...]:
    """The public halves of this user's own keys, by the names of their files."""
    return _keys_in(key_folder())


def list_trusted() -> tuple[PublicKey, ...]:
    """The keys trusted here, by the names of their files. InputError for one that cannot be read."""
    return _keys_in(trusted_folder())


def required_keys() -> tuple[PublicKey, ...]:
    """The keys of which a reader wants a signature; with none, nothing need be signed. InputError if TTBERT_TRUST has none."""
    keys = list_trusted()
    if not keys and os.environ.get("TTBERT_TRUST"):
        raise InputError(
            f"TTBERT_TRUST is {trusted_folder()}, where there is no NAME.pub", "put public keys there, or unset it"
        )
    return keys


def read_public_key(text: str) -> PublicKey:
    """A public key given as the path of its file, as its line, or as the name of an own key."""
    hint = "give the file of a public key, its line `ssh-ed25519 AAAA... NAME`, or the name of a key of your own"
    if text.startswith(f"{_KIND.decode()} "):
        return parse_public_line(text, "what was given", DEFAULT, hint)
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # of a ~user who does not exist
        raise InputError(f"the public key {text:.200} cannot be found: {error}", hint) from error
    own = _public_path(key_folder() / text) if _NAME.fullmatch(text) else path
    if not is_file(path) and is_file(own):
        path = own
    line = _read(path, f"the public key {text:.200}", hint).decode("utf-8", "replace")
    return parse_public_line(line, str(path), path.stem, hint)


def trust(key: PublicKey, name: str | None = None) -> PublicKey:
    """Trust a key from now on, under its own name or another; the key as it is trusted. InputError for a name taken."""
    for known in list_trusted():
        if known.raw == key.raw:
            return known
    trusted = PublicKey(_plain(name or key.name), key.raw)
    folder = trusted_folder()
    _make_folder(folder)
    path = _public_path(folder / trusted.name)
    _create(path, f"{trusted.line()}\n".encode(), 0o644, f"another key is trusted as {trusted.name!r}")
    return trusted


def distrust(name: str) -> PublicKey:
    """Trust a key no longer; the key that it was."""
    for key in list_trusted():
        if key.name == name:
            path = _public_path(trusted_folder() / name)
            try:
                path.unlink()
            except OSError as error:
                raise _refused(path, error) from error
            return key
    raise InputError(f"no trusted key is called {name!r}", "see `ttbert cache trust list`")


def _keys_in(folder: Path) -> tuple[PublicKey, ...]:
    hint = f"mend it or remove it from {folder}"
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".pub")
    except OSError as error:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)) and not is_there(folder):
            return ()
        raise InputError(f"the keys in {folder} cannot be read: {error.strerror}", "look at its owner and mode") from error
    keys = [
        (path.stem, parse_public_line(_read(path, "a public key", hint).decode("utf-8", "replace"), str(path), "", hint))
        for path in paths
    ]
    return tuple(PublicKey(name, key.raw) for name, key in keys)


def parse_public_line(text: str, where: str, name: str, hint: str) -> PublicKey:
    """A public key in OpenSSH's one-line form; `name` where it has no comment that is a plain name."""
    kind, _, rest = text.strip().partition(" ")
    coded, _, comment = rest.strip().partition(" ")
    try:
        raw = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if kind.encode() != _KIND or "\n" in rest or not raw.startswith(_PREFIX) or len(raw) != len(_PREFIX) + 32:
        raise InputError(f"{where} is no public Ed25519 key", hint)
    return PublicKey(comment if _NAME.fullmatch(comment) else name, raw[len(_PREFIX) :])


def _whose() -> str:
    """What a default key calls itself, since others will have one of that name, too: `user@machine`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in many containers
        user = str(os.getuid())
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", f"{user}@{platform.node()}")[:64]


def _plain(name: str) -> str:
    if not _NAME.fullmatch(name) or name.endswith(".pub"):
        raise InputError(f"{name!r:.80} cannot be the name of a key", "use letters, digits, and . _ @ -, and not .pub")
    return name


def _public_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.pub")


def _read(path: Path, what: str, hint: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise InputError(f"{what} cannot be read: {path}: {(error.strerror or str(error)).lower()}", hint) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _refused(folder, error) from error


def _create(path: Path, content: bytes, mode: int, taken: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise InputError(f"{taken}: {path}", "choose another name, or move that file away first") from None
    except OSError as error:
        raise _refused(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        path.unlink(missing_ok=True)  # an empty key would stand in the way of its name, and of all that is trusted
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> CacheError:
    what = f"{path}: {(error.strerror or str(error)).lower()}"
    if error.errno in FULL:
        return NoSpaceError(what, "free some space on that disk")
    return StoreReadOnly(what, "look at the folder's owner and mode")
