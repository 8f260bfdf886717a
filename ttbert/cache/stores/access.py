"""How an object store is reached: its endpoint, region and credentials, from the places where everybody keeps them.

For S3 that is what the AWS tools read (the AWS_* variables, ~/.aws/config and ~/.aws/credentials with their profiles,
single sign-on, roles of machines and containers), and botocore reads it. For GCS and Azure it is what obstore reads: the
GOOGLE_* and AZURE_* variables, and gcloud's own files. Nothing of it is ever written down or printed but its source.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, StoreUnavailable
from ...frozen import Frozen
from ...text import error_text

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

SCHEMES = {"s3": "S3", "s3a": "S3", "gs": "GCS", "gcs": "GCS", "az": "Azure", "abfs": "Azure", "abfss": "Azure"}
"""Schemes of URLs that name a bucket, and whose protocol is spoken there."""

_ASK_AGAIN = timedelta(minutes=10)
_METHODS = {
    "env": "AWS_ACCESS_KEY_ID",
    "shared-credentials-file": "~/.aws/credentials",
    "config-file": "~/.aws/config",
    "iam-role": "the role of this machine",
    "container-role": "the role of this container",
    "explicit": "AWS_ACCESS_KEY_ID",
    "custom-process": "the credential_process in ~/.aws/config",
    "sso": "single sign-on",
}
_WHERE_FROM = {
    "GCS": "GOOGLE_APPLICATION_CREDENTIALS, or what gcloud left",
    "Azure": "the AZURE_STORAGE_* variables, or what az left",
}


class Access(Frozen):
    """What is in force for one URL; nothing here is secret."""

    kind: str
    bucket: str
    prefix: str
    endpoint: str | None
    region: str | None
    credentials: str
    """Where they came from, never what they are."""


class Patience(Frozen):
    """Seconds that a request may take."""

    connect: float = 5.0
    silence: float = 15.0
    """Until the first byte of the answer, and between any two later ones."""
    total: float = 300.0
    pause: float = 3.0
    """The longest between two attempts."""


PATIENCE = Patience()


class Connector:
    """Opens clients for one URL, all with the same settings."""

    def __init__(self, url: str) -> None:
        """InputError for a URL that names no bucket, StoreUnavailable where there are no credentials."""
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.rstrip("/")
        if not bucket or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
            raise InputError(f"{url!r} names no place in a bucket", f"write {scheme}://BUCKET/PREFIX")
        self._settings: dict[str, Any] = {}
        self._tls: dict[str, Any] = {}
        kind = SCHEMES[scheme]
        if kind == "S3":
            self.access = self._find_s3(url, bucket, prefix)
        else:
            self.access = Access(kind, bucket, prefix, None, None, _WHERE_FROM[kind])

    def open(self, patience: Patience) -> Client:
        """A client that gives up on a request when the patience is at its end, and leaves trying again to its caller."""
        import obstore.store

        # Not the client of HTTP, but what is built on it, counts and paces the attempts: see `objects`.
        retries: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=patience.total)}
        options: Any = {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=patience.connect),
            "read_timeout": timedelta(seconds=patience.silence),
            "timeout": timedelta(seconds=patience.total),
            **self._tls,
        }
        store: Any = {"S3": obstore.store.S3Store, "GCS": obstore.store.GCSStore, "Azure": obstore.store.AzureStore}[
            self.access.kind
        ]
        try:
            return store(  # type: ignore[no-any-return]
                self.access.bucket,
                prefix=self.access.prefix or None,
                client_options=options,
                retry_config=retries,
                **self._settings,
            )
        except obstore.exceptions.BaseError as error:
            raise StoreUnavailable(
                f"{self.access.kind} cannot be used: {error_text(error)}",
                f"credentials are looked for in {self.access.credentials}",
            ) from error

    def _find_s3(self, url: str, bucket: str, prefix: str) -> Access:
        import botocore.configprovider
        import botocore.exceptions
        import botocore.session

        try:
            session = botocore.session.Session()
            endpoint = botocore.configprovider.ConfiguredEndpointProvider(
                full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
            ).provide()
            region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
            bundle = session.get_config_variable("ca_bundle")
            credentials = session.get_credentials()
        except (botocore.exceptions.BotoCoreError, OSError, ValueError) as error:
            raise StoreUnavailable(
                f"{url}: {error}", "look at ~/.aws/config, ~/.aws/credentials and the AWS_* variables"
            ) from error
        if credentials is None:
            raise StoreUnavailable(
                f"{url}: no credentials were found for S3",
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile with `aws configure` and AWS_PROFILE",
            )

        def provide() -> dict[str, Any]:
            # botocore renews what expires, well before it does; it is asked again from time to time.
            frozen = credentials.get_frozen_credentials()
            return {
                "access_key_id": frozen.access_key,
                "secret_access_key": frozen.secret_key,
                "token": frozen.token,
                "expires_at": datetime.now(timezone.utc) + _ASK_AGAIN,
            }

        self._settings["credential_provider"] = provide
        self._settings["region"] = region or "us-east-1"
        if endpoint:
            self._settings["endpoint"] = endpoint.rstrip("/")
        if bundle:
            try:
                self._tls["root_certificate"] = Path(bundle).read_bytes()
            except OSError as error:
                raise StoreUnavailable(f"{url}: {bundle}: {error.strerror}", "AWS_CA_BUNDLE names the certificates") from error
        return Access("S3", bucket, prefix, endpoint, self._settings["region"], self._source(session, credentials.method))

    def _source(self, session: Any, method: str) -> str:
        source = _METHODS.get(method, method)
        profile = session.get_config_variable("profile")
        return f"{source}, profile {profile}" if profile and method not in ("env", "explicit") else source
