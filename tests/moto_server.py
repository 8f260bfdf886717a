"""moto's S3 server, with one write at a time: `python moto_server.py HOST PORT`.

moto looks whether a key is there, and then writes it: of two that race, both may win. S3 itself keeps the condition.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def one_write_at_a_time(application: Application) -> Application:
    lock = threading.Lock()

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT":
            return application(environ, start_response)
        # Read before anybody else has to wait, since some uploads are slow on purpose.
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        with lock:
            return list(application(environ, start_response))

    return answer


if __name__ == "__main__":
    host, port = sys.argv[1], int(sys.argv[2])
    server = one_write_at_a_time(DomainDispatcherApplication(create_backend_app))
    run_simple(host, port, server, threaded=True, request_handler=MotoRequestHandler)
