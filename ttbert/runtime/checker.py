"""Checks of plans in a process of their own, on a mock device of a board or on the device that is here.

Which devices a process has is settled before its first use of TT-NN, so what `check` does runs in a child: requests go to
its stdin as JSON, one result a line comes from its stdout. `main` is that child.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..boards import Grid
from ..cache.places import Places
from ..child import python_command
from ..errors import BoardError, DeviceError, ReportedError, TtbertError
from ..frozen import Frozen
from ..model import BertShape
from ..tt import device_environment
from .check import Comparison, OpCorrelation, Verdict
from .mock import temporary_mock_environment

if TYPE_CHECKING:
    from .loader import CachedModel

_SECONDS = 3600


class Request(Frozen):
    """A plan to be judged or a model to be compared, on the mock device's own grid.

    `places` and `manifest`, a digest, name a model in a cache; without one a plan is judged with tensors that are allocated
    and never written. `questions`, each with its context, are what models are compared on. `grid`, columns and rows, is
    planned for in place of the device's: to hear what TT-NN says of more.
    """

    shape: BertShape
    batch: int
    tokens: int
    policy: str
    places: Places | None = None
    offline: bool = False
    manifest: str = ""
    questions: Sequence[tuple[str, str]] = ()
    grid: tuple[int, int] | None = None


def judge_on(board: str, requests: Iterable[Request]) -> Iterator[Verdict]:
    """What TT-NN says of each plan on a mock device of the board, all in one process; chips of one board in a mesh.

    A plan that does not fit the device's grid or memory is refused by itself, before TT-NN. DeviceError if the process fails
    or does not end, ReportedError for an error in it.
    """
    for answer in _answers(board, "judge", list(requests)):
        yield Verdict(**answer)


def compare_on(board: str, request: Request) -> Comparison:
    """A cached model's shadow run on a mock device of the board beside the reference, on as many of the
    questions as the batch holds.

    DeviceError if the process fails or does not end; ReportedError for an error in it, such as a BoardError for a plan that
    does not fit, or an IntegrityError for a tensor that is damaged.
    """
    [answer] = _answers(board, "compare", [request])
    return _comparison(answer)


def compare_here(request: Request) -> Comparison:
    """The same on the device that is here, with the values that it computes. Errors as of `compare_on`."""
    [answer] = ask(device_environment(), "the check on the device", "measure", [request])
    return _comparison(answer)


def _answers(board: str, what: str, requests: list[Request]) -> list[Any]:
    with temporary_mock_environment(board) as environment:
        return ask(environment, f"the check on a mock {board}", what, requests)


def _comparison(answer: dict[str, Any]) -> Comparison:
    return Comparison(**{**answer, "ops": tuple(OpCorrelation(**each) for each in answer["ops"])})


def ask(environment: Mapping[str, str], name: str, what: str, requests: list[Request]) -> list[Any]:
    """What the child says of each request, with the devices of this environment; `name` is what an error calls it."""
    try:
        done = subprocess.run(
            python_command(f"from {__name__} import main; main()", what),
            env=environment,
            input=json.dumps([asdict(each) for each in requests]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{name} did not end within {_SECONDS:,} seconds", "try it with a smaller --batch") from error
    lines = done.stdout.splitlines()
    for line in lines:
        if line.startswith("error:"):
            raise ReportedError.parse(line.removeprefix("error:"), told=False)
    answers = [json.loads(line.removeprefix("answer:")) for line in lines if line.startswith("answer:")]
    if done.returncode or len(answers) != len(requests):
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DeviceError(f"{name} failed: {last}", "run it again with TTBERT_DEBUG=1, and report it")
    return answers


def _judge(device: Any, ttnn: Any, request: Request) -> Any:
    from .check import empty_weights, judge
    from .lower import chip_of
    from .plan import plan_bert

    chip = chip_of(device, ttnn)
    if request.grid:
        chip = replace(chip, grid=Grid(*request.grid))
    try:
        plan = plan_bert(request.shape, request.batch, request.tokens, chip, request.policy)
    except BoardError as error:
        return asdict(Verdict(False, "the plan", error.message))
    if request.manifest:
        tensors = _open(request).tensors()
        weights = {entry.name: host.to(device, ttnn.DRAM_MEMORY_CONFIG) for entry, host in tensors}
    else:
        weights = empty_weights(ttnn, device, plan)
    try:
        return asdict(judge(ttnn, device, plan, weights))
    finally:
        for tensor in weights.values():
            ttnn.deallocate(tensor)


def _compare(device: Any, ttnn: Any, request: Request, computes: bool = False) -> Any:
    from .check import compare
    from .lower import chip_of
    from .plan import plan_bert
    from .tokens import whole_batches

    model = _open(request)
    plan = plan_bert(model.shape, request.batch, request.tokens, chip_of(device, ttnn), request.policy)
    batch = next(whole_batches(model.encoder(request.tokens), request.questions, request.batch))
    contexts = [request.questions[window.example][1] for window in batch.windows]
    return asdict(compare(ttnn, device, plan, model, batch, contexts, computes))


def _open(request: Request) -> CachedModel:
    from ..cache.digest import Digest
    from .loader import CachedModel

    assert request.places
    cache = request.places.open(request.offline)
    return CachedModel(cache, cache.manifest(Digest.parse(request.manifest)))


def _request(shape: dict[str, Any], places: dict[str, Any] | None, **others: Any) -> Request:
    return Request(BertShape(**shape), places=Places(**places) if places else None, **others)


def main() -> None:
    """The child: answers what is asked on stdin, with the devices of its environment."""
    from ..tt import device_ttnn
    from .device import open_device

    work: dict[str, Callable[[Any, Any, Request], Any]] = {
        "judge": _judge,
        "compare": _compare,
        "measure": partial(_compare, computes=True),
    }
    requests = [_request(**each) for each in json.load(sys.stdin)]
    ttnn = device_ttnn()
    try:
        with open_device() as device:
            for request in requests:
                print("answer:" + json.dumps(work[sys.argv[1]](device, ttnn, request)), flush=True)
    except TtbertError as error:
        print("error:" + json.dumps({"error": error.document()}), flush=True)
