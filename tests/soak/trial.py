"""Machines that share one store and do random operations on it, while they are killed and the network fails them.

Each machine is a network namespace with process numbers, a home and a local tier of its own. In between them and the S3
server is a proxy that adds faults. What each model must hold is known from a conversion that nobody disturbed, in a folder.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import tiny
from ceph_server import CephServer
from fault_proxy import (
    Exchange,
    Fault,
    FaultProxy,
    conflict,
    reset_after,
    reset_before,
    silent,
    slow,
    stalled,
    truncated,
    unavailable,
    wrong_arrival,
    wrong_somewhere,
)
from machines import Lab, Machine
from program import environment
from s3_server import MotoServer

from .history import Content, History, Operation

WORKER = Path(__file__).with_name("worker.py")
OPERATIONS = {"convert": 8, "load": 10, "pull": 3, "push": 3, "rm": 2, "gc": 3, "verify": 1, "repair": 1, "ls": 1, "wipe": 2}
"""What the machines do, and how often in proportion."""

FaultOften = tuple[int, Fault, str, str]
Note = Callable[[str, str], None]

FAULTS: dict[str, FaultOften] = {
    "503": (6, unavailable, "", ""),
    "reset before": (6, reset_before, "", ""),
    "reset after": (6, reset_after, "", ""),
    "conflict": (4, conflict, "PUT", ""),
    "slow": (4, slow, "GET", ""),
    "truncated": (6, truncated, "GET", ""),
    "stalled": (1, stalled, "GET", ""),
    "silent": (1, silent, "", ""),
    "wrong bytes (blob)": (4, wrong_somewhere, "GET", "/blobs/"),
    "wrong bytes (manifest)": (4, wrong_somewhere, "GET", "/manifests/"),
    "wrong bytes (action)": (1, wrong_somewhere, "GET", "/actions/"),
    "wrong bytes (name)": (2, wrong_somewhere, "GET", "/refs/"),
    "wrong bytes (lease)": (2, wrong_somewhere, "GET", "/leases/"),
    "wrong bytes (record)": (2, wrong_somewhere, "GET", "/gc/"),
    "wrong bytes (listing)": (2, wrong_somewhere, "GET", "?list-type=2"),
}
"""How often each fault comes in proportion, and the method and the path of the requests that meet it."""

MISLEADING = {"wrong bytes (name)", "wrong bytes (listing)"}
"""After these one cannot find what is there: names and listings are not named by a digest, and TLS has to protect them."""

CHECKED = {"wrong bytes (write)": (2, wrong_arrival, "PUT", "")}
"""A fault for servers that compare what arrives with the digest in the request's signature, as moto does not."""

SEASON = 100.0
"""Seconds in which models are converted, and then are not. While somebody converts, nothing young is collected."""

GRACE = "20s"
KILLED = 0.25
"""The part of the operations that is killed, if they have not ended by then."""


@dataclass(frozen=True)
class Model:
    """A tiny checkpoint, and the policy that it is converted by."""

    folder: Path
    policy: str

    @property
    def name(self) -> str:
        return f"local/{self.folder.name}"

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.policy}"


@dataclass
class Result:
    """What a soak came to."""

    server: str
    machines: int
    minutes: float
    seed: int
    history: History
    faults: Counter[str] = field(default_factory=Counter)
    freed: int = 0
    """Bytes that collections deleted."""
    verified: int = 0
    """Objects that were read at the end."""
    unsound: list[str] = field(default_factory=list)
    """What was not as it should be when all was over."""

    @property
    def failures(self) -> list[str]:
        """Whatever broke a promise."""
        history = self.history
        kinds = {"wrong bytes were served": history.wrong(), "lost": history.lost(), "not an error of ttbert's": history.rude()}
        return [f"{kind}: {each}" for kind, found in kinds.items() for each in found] + self.unsound

    def report(self) -> str:
        """The counts."""
        history, outcomes = self.history, self.history.outcomes()
        total = Counter[str]()
        for each in outcomes.values():
            total.update(each)
        kinds = ", ".join(f"{what} {sum(count.values())}" for what, count in sorted(outcomes.items()))
        failed = {name: count for name, count in total.most_common() if name not in ("killed", "succeeded")}
        contents = sum(len(each.document) for each in history.served())
        return "\n".join(
            [
                f"{self.machines} machines, {self.minutes:g} minutes, {self.server}, seed {self.seed}",
                f"operations  {total.total():,}: {kinds}",
                f"succeeded   {total['succeeded']:,}",
                f"failed      {sum(failed.values()):,}: {_listed(failed)}",
                f"kills       {total['killed']:,}: {_listed({what: count['killed'] for what, count in outcomes.items()})}",
                f"faults      {self.faults.total():,}: {_listed(dict(self.faults.most_common()))}",
                f"collected   {self.freed:,} bytes",
                f"served      {len(history.served()):,} models, {contents:,} tensors and files, {len(history.wrong())} wrong",
                f"at the end  {self.verified:,} objects verified, {len(self.unsound)} not as they should be",
                f"misled      {len(history.misled())} loads by wrong bytes of a name or a listing did not find what was there",
                f"losses      {len(history.lost())}",
            ]
        )


class Worker:
    """The process of one machine that forks for each operation."""

    def __init__(self, number: int, prefix: list[str], env: dict[str, str], history: History, began: float) -> None:
        self._number, self._history, self._began = number, history, began
        self.local = Path(env["XDG_CACHE_HOME"], "ttbert")
        self._process = subprocess.Popen(
            [*prefix, sys.executable, str(WORKER)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def close(self) -> None:
        self._process.communicate()

    def do(self, what: str, model: Model, *options: str, kill_after: float | None = None) -> Operation:
        """Do one operation, to its end or until it is killed, and note it in the history."""
        assert self._process.stdin and self._process.stdout
        started = time.monotonic() - self._began
        task = {"arguments": [*_arguments(what, model), *options], "kill_after": kill_after}
        self._process.stdin.write(json.dumps(task) + "\n")
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        operation = Operation(self._number, what, model.ref, started, time.monotonic() - self._began, **answer)
        self._history.add(operation)
        return operation


def _arguments(what: str, model: Model) -> list[str]:
    return {
        "convert": ["convert", str(model.folder), "--policy", model.policy, "--json"],
        "load": ["load", model.name, model.policy],
        "wipe": ["wipe"],
        "gc": ["cache", "gc", "--grace", GRACE, "--yes", "--json"],
        "rm": ["cache", "rm", model.ref, "--yes", "--json"],
        "verify": ["cache", "verify", "--json"],
        "repair": ["cache", "verify", "--repair", "--json"],
        "info": ["cache", "info", "--json"],
        "ls": ["cache", "ls", "--json"],
    }.get(what, ["cache", what, model.ref, "--json"])


def soak(folder: Path, minutes: float, count: int, seed: int, log: TextIO | None = None) -> Result:
    """Do it, in an empty folder; what came of it."""
    random_ = random.Random(seed)
    models = [
        Model(tiny.write(folder / f"m{number}", _checkpoint(number)), policy)
        for number, policy in itertools.product(range(3), ("bfp8", "bf16"))
    ]
    expected = _convert_undisturbed(folder / "undisturbed", models)
    server_type = MotoServer if CephServer.why_not() else CephServer
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(folder, count))
        server = stack.enter_context(server_type())
        proxy = stack.enter_context(FaultProxy(server, lab.address))
        machines = lab.machines({**proxy.env, "TTBERT_CACHE": f"s3://{server.bucket()}/ttbert"})
        history, began = History(expected, log), time.monotonic()
        result = Result("moto" if server_type is MotoServer else "Ceph radosgw", count, minutes, seed, history)
        workers = [_worker(number, machine, history, began) for number, machine in enumerate(machines)]
        for worker in workers:
            stack.callback(worker.close)

        for model in models:
            workers[0].do("convert", model)
        until = time.monotonic() + 60 * minutes
        over = threading.Event()
        faults = FAULTS if server_type is MotoServer else {**FAULTS, **CHECKED}

        def note(name: str, sender: str) -> None:
            result.faults[name] += 1
            if name in MISLEADING:
                (number,) = (number for number, machine in enumerate(machines) if machine.address == sender)
                history.mislead(number, time.monotonic() - began)

        tasks = [
            threading.Thread(target=_work, args=(worker, models, random.Random(random_.random()), began, until))
            for worker in workers
        ]
        troubles = [
            threading.Thread(target=_break_requests, args=(random.Random(random_.random()), note, over, proxy, faults)),
            threading.Thread(target=_break_links, args=(random.Random(random_.random()), note, over, machines)),
        ]
        for thread in (*tasks, *troubles):
            thread.start()
        for thread in tasks:
            thread.join()
        over.set()
        for thread in troubles:
            thread.join()
        proxy.calm()
        result.freed = sum(each.document["freed"] for each in history.operations if each.what == "gc" and each.succeeded)
        _look_at_the_end(result, workers, models)
    return result


def _checkpoint(number: int) -> tiny.Files:
    return tiny.checkpoint(tiny.arrays(seed=number, layers=1), num_hidden_layers=1)


def _convert_undisturbed(folder: Path, models: list[Model]) -> dict[str, Content]:
    """What each model holds, in a cache that nobody else uses."""
    with _alone(folder) as worker:
        for model in models:
            assert worker.do("convert", model).succeeded
        return {model.ref: worker.do("load", model).document for model in models}


@contextmanager
def _alone(folder: Path) -> Iterator[Worker]:
    worker = Worker(
        -1, [], environment(TTBERT_CACHE=str(folder / "cache"), XDG_CACHE_HOME=str(folder)), History({}), time.monotonic()
    )
    try:
        yield worker
    finally:
        worker.close()


def _worker(number: int, machine: Machine, history: History, began: float) -> Worker:
    # Process numbers of its own, too, so that nobody can see whether the holder of a lease elsewhere is alive.
    prefix = ["ip", "netns", "exec", machine.name, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return Worker(number, prefix, machine.environment(), history, began)


def _work(worker: Worker, models: list[Model], random_: random.Random, began: float, until: float) -> None:
    while (now := time.monotonic()) < until:
        converts = int((now - began) / SEASON) % 2 == 0
        weights = [weight if converts or what != "convert" else 0 for what, weight in OPERATIONS.items()]
        (what,) = random_.choices(list(OPERATIONS), weights)
        options = ["--no-local"] if what == "load" and random_.random() < 0.25 else []
        kill_after = 0.05 * 100 ** random_.random() if random_.random() < KILLED else None
        worker.do(what, random_.choice(models), *options, kill_after=kill_after)
        time.sleep(random_.uniform(0, 1.5))


def _break_requests(
    random_: random.Random, note: Note, over: threading.Event, proxy: FaultProxy, faults: Mapping[str, FaultOften]
) -> None:
    """One request or some in a row meet a fault, every second or so."""

    def noted(name: str, fault: Fault) -> Fault:
        async def run(exchange: Exchange) -> None:
            note(name, exchange.sender)
            await fault(exchange)

        return run

    while not over.wait(random_.uniform(0.3, 1.7)):
        (name,) = random_.choices(list(faults), [weight for weight, *_ in faults.values()])
        _, fault, method, path = faults[name]
        proxy.meet(noted(name, fault), method, path, random_.choice((1, 1, 1, 1, 1, 2, 6)))


def _break_links(random_: random.Random, note: Note, over: threading.Event, machines: list[Machine]) -> None:
    """One machine after another has no network for some seconds."""
    while not over.wait(random_.uniform(3, 15)):
        machine = random_.choice(machines)
        machine.unplug()
        note("link down", machine.address)
        over.wait(0.1 * 100 ** random_.random())
        machine.plug_in()


def _look_at_the_end(result: Result, workers: list[Worker], models: list[Model]) -> None:
    """With no faults any more: is all sound, is everything there that must be, and can all be had again?"""
    history = result.history
    first, other = workers[0], workers[-1]
    first.do("wipe", models[0])
    info = first.do("info", models[0])
    if not info.succeeded or info.document["quarantined"]:
        result.unsound.append(f"something sound was moved to quarantine: {info}\n{info.out}")
    _verify(result, first, models)
    for model in models:
        now = history.operations[-1].ended
        load = first.do("load", model)
        if not load.succeeded and history.must_have(model.ref, now, load.ended):
            result.unsound.append(f"lost: {load}")
    other.do("wipe", models[0])
    for model in models:
        for operation in (first.do("convert", model), other.do("load", model)):
            if not operation.succeeded:
                result.unsound.append(f"not to be had again: {operation}")
    _verify(result, other, models)
    for worker in workers:
        local = worker.do("verify", models[0], "--cache", str(worker.local))
        if local.exit_code not in (0, 6):  # sound, or nothing there
            result.unsound.append(f"a local tier: {local}\n{local.out}")


def _verify(result: Result, worker: Worker, models: list[Model]) -> None:
    verified = worker.do("verify", models[0])
    if verified.succeeded:
        result.verified = verified.document["objects"]
    else:
        result.unsound.append(f"{verified}\n{verified.out}")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"
