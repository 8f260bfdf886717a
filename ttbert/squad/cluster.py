"""Batches on a Ray cluster: one worker for each device, or for each group of cores, with the model loaded in each.

    tokenizing -> jobs -> here -> a worker that is free -> here -> journal, span decoding

Everything but the model stays with the process that was started: the batches are made there, numbered and of fixed
composition, the journal is written there. So a result does not depend on which worker ran a batch, or how often one was
begun. A worker that is lost, with its machine or without, is not replaced; what it had is run again by the others.

All workers must be alike in what decides the last bits of float32 (see `describe_machine`): the same versions and
processor, and each computes with as many threads as the process that was started would.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..boards import AUTO, BOARDS, CPU, check_batch
from ..errors import CacheError, ClusterError, InputError, TtbertError
from ..runtime.runtime import Logits, Runtime
from ..runtime.target import Target, choose_target
from ..runtime.tokens import Batch
from ..text import count_text, error_text
from .batches import Job
from .engine import Machine, Ran, describe_machine
from .subject import Subject

DEVICE_RESOURCE = "tt_device"
"""What a node of the cluster offers as many of as it has devices: `ray start --resources '{"tt_device": 1}'`."""

_UNDER_WAY = 2
"""Batches that a worker has: one runs while the next is on its way."""

_JOIN_SECONDS = 120.0
"""How long a worker may take to start; one whose cores are taken by other work never does."""

_REACH_SECONDS = 10.0

_RESUME = "the same command with --resume goes on, with this cluster, another one, or none"


class Worker:
    """Lives in a process of the cluster, which Ray starts."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._opened: AbstractContextManager[Runtime] | None = None

    def is_here(self) -> bool:
        return True

    def load(self, elsewhere: Callable[[], Subject], identity: Mapping[str, object]) -> Machine:
        """Load the model that is meant by `identity`. Errors as of a load; CacheError for another model."""
        subject = elsewhere()
        if subject.identity() != identity:
            raise CacheError(f"{subject.origin} is another model here", "give all machines the same files")
        self._opened = subject.open()
        self._runtime = self._opened.__enter__()
        return describe_machine(subject, self._runtime)

    def run(self, batch: Batch) -> tuple[Logits, Logits, float]:
        """Start and end logits, each (rows, tokens), and the seconds in which the model was busy with them."""
        begun = time.perf_counter()
        starts, ends = self._runtime.run(batch)
        return np.ascontiguousarray(starts), np.ascontiguousarray(ends), time.perf_counter() - begun

    def close(self) -> None:
        if self._opened:
            self._opened.__exit__(None, None, None)


@contextmanager
def open_cluster(address: str, subject: Subject, tell: Callable[[str], None]) -> Iterator[Cluster]:
    """Workers in the Ray cluster at `address`, ready to run; they end with the context, the cluster does not.

    ClusterError where there is no cluster, no worker, or workers that are not alike; otherwise as of a load. What is
    worth knowing, such as a worker that is left out or lost, goes to `tell`.
    """
    try:
        import ray
    except ImportError as error:
        raise TtbertError("the package `ray` is not installed", "pip install 'ttbert[ray]'") from error
    hint = "start it with `ray start --head`, and run this on one of its machines"
    _reach(address, hint)
    terminated = signal.getsignal(signal.SIGTERM)
    with redirect_stdout(sys.stderr):  # Ray prints there what befalls its nodes, where only results belong
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # whatever gRPC and its dozen exceptions have to say
            raise ClusterError(f"no Ray cluster at {address}: {error_text(error)}", hint) from error
        finally:
            signal.signal(signal.SIGTERM, terminated)  # which Ray would end with an exit code of its own
        cluster = Cluster(ray, address, subject.target.board, tell)
        try:
            cluster.start(subject)
            yield cluster
        finally:
            cluster.close()
            ray.shutdown()


def _reach(address: str, hint: str) -> None:
    """ClusterError if nothing listens there, which Ray itself would try for minutes. InputError if it is no address."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"{address!r} is not the address of a Ray cluster", "give its head and port, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}", hint) from error


def choose_cluster_target(name: str, batch: int, trace: bool | None, precision: str) -> Target:
    """What the workers use: the board of that name, which each of them looks for itself, else the processor.

    Errors as of `choose_target`.
    """
    if name in (AUTO, CPU):
        return choose_target(CPU, batch, trace, precision)
    board = BOARDS[name]
    check_batch(board, batch)
    return Target(name, board.arch.name, board.chips, traces=trace is not False)


@dataclass(frozen=True, eq=False)
class _Slot:
    """A worker and the host that it is on."""

    host: str
    actor: Any


class Cluster:
    """The workers, `start`ed; see `open_cluster`."""

    def __init__(self, ray: Any, address: str, board: str, tell: Callable[[str], None]) -> None:
        self._ray, self._address, self._board, self._tell = ray, address, board, tell
        self._slots: list[_Slot] = []
        self.machine = Machine("", {}, None)
        self.loading = 0.0

    @property
    def workers(self) -> int:
        return len(self._slots)

    @property
    def said(self) -> str:
        hosts = Counter(slot.host for slot in self._slots)
        places = ", ".join(f"{count} on {host}" for host, count in sorted(hosts.items()))
        return (
            f"{count_text(self.workers, 'worker')} of the Ray cluster at {self._address} ({places}), each: {self.machine.said}"
        )

    def start(self, subject: Subject) -> None:
        """Start a worker wherever there is room, load the model in each, and see that they are alike."""
        threads = torch.get_num_threads()
        self._slots = [slot for node in self._ray.nodes() if node["Alive"] for slot in self._place(node, threads)]
        if not self._slots:
            raise ClusterError(*_no_room(self._board, threads))
        self._ask([slot.actor.is_here.remote() for slot in self._slots], _JOIN_SECONDS)
        started = time.perf_counter()
        found = self._ask([slot.actor.load.remote(subject.elsewhere, subject.identity()) for slot in self._slots], None)
        self.machine = _check_alike(found)
        self.loading = time.perf_counter() - started

    def stream(self, jobs: Iterable[Job]) -> Iterator[Ran]:
        """Every batch once, as they become ready; ClusterError when the last worker is lost, and what a worker raises."""
        todo = iter(jobs)
        again: deque[Job] = deque()
        free = deque(self._slots * _UNDER_WAY)
        running: dict[Any, tuple[_Slot, Job]] = {}
        while True:
            while free:
                job = again.popleft() if again else next(todo, None)
                if job is None:
                    break
                slot = free.popleft()
                # No runtime looks at the windows that a batch was made of, which are twice as large.
                running[slot.actor.run.remote(replace(job.batch, windows=()))] = slot, job
            if not running:
                return
            (ready,), _ = self._ray.wait(list(running), num_returns=1)
            slot, job = running.pop(ready)
            try:
                starts, ends, seconds = self._get(ready)
            except _LostError as error:
                again.append(job)
                self._drop(slot, str(error))
                free = deque(each for each in free if each is not slot)
                continue
            if slot in self._slots:
                free.append(slot)
            yield Ran(job, starts, ends, seconds)

    def close(self) -> None:
        """End the workers, those of a device with time to close it."""
        if self._board != CPU and self._slots:
            closing = [slot.actor.close.remote() for slot in self._slots]
            self._ray.wait(closing, num_returns=len(closing), timeout=10)
        for slot in self._slots:
            self._ray.kill(slot.actor)

    def _place(self, node: Mapping[str, Any], threads: int) -> list[_Slot]:
        """A worker for each device of a node, or for each group of so many of its cores."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        cores, devices = (int(node["Resources"].get(name, 0)) for name in ("CPU", DEVICE_RESOURCE))
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        worker = self._ray.remote(max_restarts=0, scheduling_strategy=here)(Worker)
        if self._board == CPU:
            worker, count = worker.options(num_cpus=threads), cores // threads
        else:
            worker, count = worker.options(num_cpus=0, resources={DEVICE_RESOURCE: 1}), devices
        return [_Slot(node["NodeManagerHostname"], worker.remote(threads)) for _ in range(count)]

    def _ask(self, answers: list[Any], seconds: float | None) -> list[tuple[_Slot, Any]]:
        """The answer of every worker; those that are lost or give none in time are left out."""
        ready, _ = self._ray.wait(answers, num_returns=len(answers), timeout=seconds)
        found = []
        for slot, answer in zip(list(self._slots), answers, strict=True):
            if answer not in ready:
                self._ray.kill(slot.actor)
                self._drop(slot, f"did not start in {seconds:.0f} seconds; are its cores or devices taken?")
                continue
            try:
                found.append((slot, self._get(answer)))
            except _LostError as error:
                self._drop(slot, str(error))
        return found

    def _get(self, answer: Any) -> Any:
        """What a worker answered, or the error that it raised; _LostError if it cannot answer any more."""
        from ray import exceptions

        try:
            return self._ray.get(answer)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, TtbertError):
                raise error.cause from None
            raise
        except (exceptions.RayActorError, exceptions.ObjectLostError) as error:
            raise _LostError(_what_happened(str(error))) from error

    def _drop(self, slot: _Slot, why: str) -> None:
        """Go on without a worker; ClusterError if it was the last one."""
        if slot not in self._slots:
            return
        self._slots.remove(slot)
        self._tell(f"a worker on {slot.host} {why}; {self.workers} left")
        if not self._slots:
            raise ClusterError("no worker of the Ray cluster is left", _RESUME)


class _LostError(Exception):
    """A worker ended, or its machine did."""


def _what_happened(said: str) -> str:
    """What became of a worker, by Ray's words: it writes a traceback where one cannot even be made, as without ttbert."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"does not start: {lines[-1]}" if "creation task" in said else "is lost"


def _check_alike(found: list[tuple[_Slot, Machine]]) -> Machine:
    """What all workers say of their machines; ClusterError if one says something else."""
    first, machine = found[0]
    for slot, other in found[1:]:
        for name, value in machine.decides.items():
            if other.decides.get(name) != value:
                raise ClusterError(
                    f"{name} is {value} on {first.host} and {other.decides.get(name)} on {slot.host}",
                    "make them alike, or take one out of the cluster: their logits would differ in the last bits",
                )
    return machine


def _no_room(board: str, threads: int) -> tuple[str, str]:
    if board == CPU:
        return (
            f"no machine of the Ray cluster has {threads} cores, the threads that this run computes with",
            "set OMP_NUM_THREADS to as many as a machine has; the score's last bits depend on it",
        )
    return (
        f"no machine of the Ray cluster offers a {DEVICE_RESOURCE}",
        f"""start Ray with --resources '{{"{DEVICE_RESOURCE}": 1}}' where there is a device""",
    )
