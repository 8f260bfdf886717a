"""The journal and the pipeline: what is finished is never lost, and nothing else is taken for finished."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ttbert.errors import InputError, NoSpaceError, TtbertError
from ttbert.squad.document import write_json
from ttbert.squad.journal import Journal, Record
from ttbert.squad.pipe import Closed, Pipe


def record(number: int, *lengths: int) -> Record:
    chance = np.random.default_rng(number)
    rows = [tuple(chance.normal(size=length).astype(np.float32) for length in lengths) for _ in range(2)]
    return Record(number, tuple((number, i, length) for i, length in enumerate(lengths)), rows[0], rows[1])


def same(left: Record, right: Record) -> bool:
    return left.to_bytes() == right.to_bytes()


def written(path: Path, *records: Record) -> Path:
    with Journal(path, {"a": 1}, resume=False) as journal:
        for each in records:
            journal.add(each)
    return path


def test_records_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path = written(tmp_path / "journal", record(0, 3, 5), record(7, 1))
    with Journal(path, {"a": 1}, resume=True) as journal:
        assert list(journal.done) == [0, 7]
        assert same(journal.done[0], record(0, 3, 5)) and same(journal.done[7], record(7, 1))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_cut_or_damaged_journal_keeps_what_is_before_the_damage(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    records = [record(number, 4, 2) for number in range(3)]
    content = written(path, *records).read_bytes()
    head = len(content) - sum(len(each.to_bytes()) for each in records)
    place = data.draw(st.integers(head, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:place])
    else:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
    whole = (place - head) // len(records[0].to_bytes())
    with Journal(path, {"a": 1}, resume=True) as journal:
        kept = sorted(journal.done)
        assert kept == list(range(whole))
        assert all(same(journal.done[number], records[number]) for number in kept)
        journal.add(record(9, 2))
    with Journal(path, {"a": 1}, resume=True) as journal:
        assert 9 in journal.done


def test_journal_of_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    path = written(tmp_path / "journal", record(0, 3))
    with pytest.raises(InputError, match="its a is 1, not 2"):
        Journal(path, {"a": 2}, resume=True)
    path.write_text("something else")
    with pytest.raises(InputError, match="not the journal of a run"):
        Journal(path, {"a": 1}, resume=True)


def test_unfinished_journal_is_not_overwritten_and_a_finished_one_is(tmp_path: Path) -> None:
    path = written(tmp_path / "journal", record(0, 3))
    with pytest.raises(InputError, match="an unfinished run") as caught:
        Journal(path, {"a": 1}, resume=False)
    assert "--resume" in caught.value.hint
    with Journal(path, {"a": 1}, resume=True) as journal:
        journal.finish()
    with Journal(path, {"a": 1}, resume=False) as journal:
        assert not journal.done
    with Journal(path, {"a": 1}, resume=True) as journal:
        assert not journal.done


def test_a_run_whose_end_cannot_be_noted_is_told_how_to_go_on(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", {"a": 1}, resume=False) as journal:
        (tmp_path / "journal.finished").symlink_to("no/such/folder")
        with pytest.raises(TtbertError, match="cannot be written") as caught:
            journal.finish()
    assert "--resume" in caught.value.hint


def test_a_result_of_questions_in_a_file_whose_name_is_no_text_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"source": "b\udcff.json"})
    assert json.loads((tmp_path / "run.json").read_bytes()) == {"source": "b\udcff.json"}


def test_a_full_disk_leaves_the_file_that_was_there_and_nothing_of_the_new_one(small_disk: Path) -> None:
    path = small_disk / "run.json"
    write_json(path, ["old"])
    with pytest.raises(NoSpaceError):
        write_json(path, ["new"] * 100_000)
    assert [each.name for each in small_disk.iterdir()] == ["run.json"] and json.loads(path.read_text()) == ["old"]


def test_two_runs_cannot_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, {"a": 1}, resume=False), pytest.raises(InputError, match="another process"):
        Journal(path, {"a": 1}, resume=True)


def test_pipe_passes_items_in_order_through_a_short_queue() -> None:
    pipe: Pipe[int] = Pipe(2)

    def produce() -> None:
        for number in range(100):
            pipe.put(number)
        pipe.close()

    thread = threading.Thread(target=produce)
    thread.start()
    assert list(pipe) == list(range(100))
    thread.join()


def test_error_of_one_side_reaches_the_other() -> None:
    pipe: Pipe[int] = Pipe(1)
    pipe.put(1)
    pipe.close(KeyError("x"))
    taken = iter(pipe)
    assert next(taken) == 1
    with pytest.raises(KeyError):
        next(taken)
    with pytest.raises(KeyError):
        pipe.put(2)
    closed: Pipe[int] = Pipe(1)
    closed.close()
    with pytest.raises(Closed):
        closed.put(1)
