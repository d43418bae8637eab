"""Lines of a run are written by a thread, none is lost, and what cannot be written is said."""

import threading

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modist_fast.watch import run_log
from modist_fast.watch.run_log import RunLog, drop_lines_after, read_metrics


def rows(first: int, last: int) -> list[dict]:
    return [{"step": step, "loss": float(step), "spans": {"keys": 0.5}} for step in range(first, last + 1)]


def test_a_thread_writes_several_lines_at_a_time(tmp_path, monkeypatch):
    """The step's own thread never writes; with a second between, what comes meanwhile is one piece of work."""
    clock, pieces = [0.0], []
    append = RunLog._append

    def noted(self, some):
        pieces.append((threading.current_thread().name.split("_")[0], len(some)))
        append(self, some)

    monkeypatch.setattr(run_log.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(RunLog, "_append", noted)
    with RunLog(tmp_path, 0) as log:
        for row in rows(1, 20):
            log.write(row)
            log._writer.wait()  # so that every one could be written, were it time
            clock[0] += 0.3
    assert [name for name, _ in pieces] == ["metrics"] * len(pieces)
    assert [num for _, num in pieces] == [1, 4, 4, 4, 4, 3]
    assert read_metrics(tmp_path / "metrics.jsonl") == rows(1, 20)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss/all")] == [(n, float(n)) for n in range(1, 21)]


def test_a_flush_and_an_error_leave_no_line_unwritten(tmp_path):
    def fail() -> None:
        with RunLog(tmp_path, 0) as log:
            for row in rows(1, 5):
                log.write(row)
            log.flush()
            assert len(read_metrics(tmp_path / "metrics.jsonl")) == 5
            for row in rows(6, 8):
                log.write(row)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert read_metrics(tmp_path / "metrics.jsonl") == rows(1, 8)
    drop_lines_after(tmp_path / "metrics.jsonl", 6)
    with RunLog(tmp_path, 6) as log:
        log.write(rows(7, 7)[0])
    assert read_metrics(tmp_path / "metrics.jsonl") == rows(1, 7)


def test_lines_that_cannot_be_written_are_said_at_the_next_flush(tmp_path):
    def write() -> None:
        with RunLog(tmp_path, 0) as log:
            log._file.close()
            log._file = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
            log.write(rows(1, 1)[0])
            log.flush()

    with pytest.raises(OSError, match="No space left"):
        write()
    assert read_metrics(tmp_path / "metrics.jsonl") == []
