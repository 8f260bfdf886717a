"""A proxy in front of an S3 server that lets requests through, except those that meet a fault."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from s3_server import S3Server


@dataclass
class Exchange:
    """One request and the way back to who sent it."""

    method: str
    path: str
    request: bytes
    writer: asyncio.StreamWriter
    upstream: tuple[str, int]

    async def forward(self, request: bytes | None = None) -> tuple[bytes, bytes]:
        """Pass the request on; the head and the body of the whole answer."""
        reader, writer = await asyncio.open_connection(*self.upstream)
        writer.write(request or self.request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        empty = self.method == "HEAD" or re.match(rb"HTTP/1.\d (204|304)", head)
        body = b"" if empty else await (reader.readexactly(int(length[1])) if length else _chunks(reader, head))
        writer.close()
        return head, body

    async def answer(self, head: bytes, body: bytes) -> None:
        self.writer.write(_closing(head) + (b"" if self.method == "HEAD" else body))
        await self.writer.drain()

    @property
    def sender(self) -> str:
        """The address of who sent it."""
        return str(self.writer.get_extra_info("peername")[0])

    def reset(self) -> None:
        """Break the connection off, so that the other side gets an error at once."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Fault = Callable[[Exchange], Awaitable[None]]

_FLIPS = itertools.count(random.randrange(1_000_000), 7919)
"""Which bits become others: from anywhere, and by a prime, so that even in a body of two bytes the next is another one."""


async def unavailable(exchange: Exchange) -> None:
    """The server says 503 and does nothing."""
    body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    await exchange.answer(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(body), body)


async def reset_before(exchange: Exchange) -> None:
    """The request never arrives."""
    exchange.reset()


async def reset_after(exchange: Exchange) -> None:
    """The request is carried out, and nobody hears of it."""
    await exchange.forward()
    exchange.reset()


async def conflict(exchange: Exchange) -> None:
    """What S3 says where another write of the key is under way, which may yet fail."""
    body = b"<Error><Code>ConditionalRequestConflict</Code><Message>Try again.</Message></Error>"
    await exchange.answer(b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n" % len(body), body)


async def refused_as_damaged(exchange: Exchange) -> None:
    """What S3 says where other bytes arrived than the request's signature is of."""
    body = b"<Error><Code>XAmzContentSHA256Mismatch</Code><Message>They differ.</Message></Error>"
    await exchange.answer(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body), body)


async def silent(exchange: Exchange) -> None:
    """The request is carried out, and its answer does not come for a long time."""
    await exchange.forward()
    await asyncio.sleep(30)


async def truncated(exchange: Exchange) -> None:
    """Half of the body comes, then the connection ends in good order."""
    head, body = await exchange.forward()
    await exchange.answer(head, body[: len(body) // 2])


async def stalled(exchange: Exchange) -> None:
    """Half of the body comes, then nothing."""
    head, body = await exchange.forward()
    await exchange.answer(head, body[: len(body) // 2])
    await asyncio.sleep(30)


async def slow(exchange: Exchange) -> None:
    """The body comes in ten pieces, over three seconds."""
    head, body = await exchange.forward()
    exchange.writer.write(_closing(head))
    step = len(body) // 10 + 1
    for start in range(0, len(body), step):
        exchange.writer.write(body[start : start + step])
        await exchange.writer.drain()
        await asyncio.sleep(0.3)


async def wrong_bytes(exchange: Exchange) -> None:
    """One bit of the body is another, in the middle."""
    head, body = await exchange.forward()
    await exchange.answer(head, _flipped(body, len(body) // 2, 1))


async def wrong_somewhere(exchange: Exchange) -> None:
    """One bit of the body is another, and not the same bit as in the bodies just before."""
    head, body = await exchange.forward()
    await exchange.answer(head, _flipped_somewhere(body))


async def wrong_arrival(exchange: Exchange) -> None:
    """One bit of what the request sends is another when it arrives, and not the same bit as just before."""
    head, _, body = exchange.request.partition(b"\r\n\r\n")
    await exchange.answer(*await exchange.forward(head + b"\r\n\r\n" + _flipped_somewhere(body)))


async def forgets_condition(exchange: Exchange) -> None:
    """As servers do that do not know If-None-Match: they overwrite."""
    request = re.sub(rb"(?i)\r\nif-none-match:[^\r]*", b"", exchange.request)
    await exchange.answer(*await exchange.forward(request))


def after(event: threading.Event) -> Fault:
    """The answer comes when something has happened elsewhere, and not before; a minute later if it never does."""

    async def answer_after(exchange: Exchange) -> None:
        await asyncio.get_running_loop().run_in_executor(None, event.wait, 60)
        await exchange.answer(*await exchange.forward())

    return answer_after


def together(count: int) -> Fault:
    """No answer comes before requests for so many paths came, which never happens where one waits for another."""
    paths: set[str] = set()
    all_came = asyncio.Event()

    async def answer_together(exchange: Exchange) -> None:
        paths.add(exchange.path)
        if len(paths) == count:
            all_came.set()
        await all_came.wait()
        await exchange.answer(*await exchange.forward())

    return answer_together


class FaultProxy(S3Server):
    """An S3 server with faults: `proxy.meet(fault, ...)` says which requests meet one."""

    def __init__(self, server: S3Server, host: str = "127.0.0.1") -> None:
        """Started by `with`. Another host than the loopback device is for network namespaces."""
        self._server, self._host = server, host
        self._faults: list[tuple[Fault, str, str, int]] = []
        self.seen: list[tuple[str, str]] = []

    def meet(self, fault: Fault, method: str = "", path: str = "", times: int = 1) -> None:
        """Let the next `times` requests of that method whose path contains `path` meet a fault."""
        self._faults.append((fault, method, path, times))

    def calm(self) -> None:
        """No faults from now on, and nothing seen so far."""
        self._faults.clear()
        self.seen.clear()

    def count(self, method: str, path: str = "") -> int:
        """Requests of that method that came, faults or not."""
        return sum(1 for seen in self.seen if seen[0] == method and path in seen[1])

    def __enter__(self) -> FaultProxy:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(started,))
        self._thread.start()
        started.wait()
        super().__init__(f"http://{self._host}:{self._port}", self._server.key, self._server.secret)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        listening = self._loop.run_until_complete(asyncio.start_server(self._serve, self._host, 0))
        self._port = listening.sockets[0].getsockname()[1]
        self._loop.call_soon(started.set)
        self._loop.run_forever()
        listening.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = urlsplit(self._server.endpoint)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            method, path, _ = head.decode().split(" ", 2)
            self.seen.append((method, path))
            assert upstream.hostname and upstream.port
            exchange = Exchange(method, path, _closing(head) + body, writer, (upstream.hostname, upstream.port))
            fault = self._next_fault(method, path)
            if fault:
                await fault(exchange)
            else:
                await exchange.answer(*await exchange.forward())
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # one of the two sides is gone, or the proxy is about to: so is this exchange
        finally:
            writer.close()

    def _next_fault(self, method: str, path: str) -> Fault | None:
        for number, (fault, of_method, of_path, times) in enumerate(self._faults):
            if of_method in ("", method) and of_path in path:
                self._faults[number] = (fault, of_method, of_path, times - 1)
                if times == 1:
                    del self._faults[number]
                return fault
        return None


def _flipped_somewhere(body: bytes) -> bytes:
    if not body:
        return body
    at, bit = divmod(next(_FLIPS) % (8 * len(body)), 8)
    return _flipped(body, at, 1 << bit)


def _flipped(body: bytes, at: int, bit: int) -> bytes:
    return body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :]


def _closing(head: bytes) -> bytes:
    """One exchange a connection keeps the proxy simple."""
    return re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head)[:-2] + b"Connection: close\r\n\r\n"


async def _chunks(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """All that follows up to the end, with its framing."""
    assert b"chunked" in head.lower() or b"close" in head.lower(), head
    return await reader.read()
