"""A real S3 server on this machine, in a process of its own: moto's, which needs nothing but a package."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from types import TracebackType

import botocore.config
import botocore.session


class S3Server:
    """Where a server answers and with which credentials; `bucket()` makes a new bucket."""

    def __init__(self, endpoint: str, key: str, secret: str) -> None:
        self.endpoint, self.key, self.secret = endpoint, key, secret

    @property
    def env(self) -> dict[str, str]:
        """The variables that make a process use it, and nothing of the user's own."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self) -> str:
        """A new bucket; its name."""
        name = f"lab-{uuid.uuid4().hex}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self):  # type: ignore[no-untyped-def]
        """botocore's own client: another implementation to look into the server with."""
        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=botocore.config.Config(s3={"addressing_style": "path"}),
        )


class MotoServer(S3Server):
    """It keeps If-None-Match, also of racing writers, and checks neither secrets nor checksums."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        """Started by `with`. Another host than the loopback device is for network namespaces."""
        self._host, self._port = host, free_port()
        super().__init__(f"http://{host}:{self._port}", "ttbert", "not checked")

    def __enter__(self) -> MotoServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", self._host, "-p", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_port(self._port, self._process, self._host)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(
    port: int, process: subprocess.Popen[bytes] | None = None, host: str = "127.0.0.1", seconds: float = 60
) -> None:
    """Until somebody listens there; RuntimeError if the process ended or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process and process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nobody listens at {host}:{port} after {seconds} s")
