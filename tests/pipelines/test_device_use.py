"""Threads that decode share the device; a recording has it alone, and is not starved."""

import threading

from modist_pipelines.clips.device_use import DeviceUse

PATIENCE = 20.0  # seconds; only a fault takes them


def test_a_recording_waits_for_those_within_and_keeps_new_ones_out() -> None:
    use, order = DeviceUse(), []
    within, may_leave, begun = threading.Event(), threading.Event(), threading.Event()

    def decode_first() -> None:
        with use.shared():
            within.set()
            assert may_leave.wait(PATIENCE)
            order.append("first")

    def record() -> None:
        begun.set()
        with use.alone():
            order.append("recorded")

    def decode_next() -> None:
        with use.shared():
            order.append("next")

    first, recording, after = (threading.Thread(target=target) for target in (decode_first, record, decode_next))
    first.start()
    assert within.wait(PATIENCE)
    recording.start()
    assert begun.wait(PATIENCE)
    while not use.is_alone:  # it has announced itself
        pass
    after.start()
    after.join(0.05)
    assert order == []
    may_leave.set()
    for thread in (first, recording, after):
        thread.join(PATIENCE)
    assert order == ["first", "recorded", "next"]


def test_several_decode_at_once_and_one_may_enter_again() -> None:
    use, both = DeviceUse(), threading.Barrier(2)

    def decode() -> None:
        with use.shared():
            both.wait(PATIENCE)  # broken, and so an error, where only one gets in
            with use.shared():
                pass

    threads = [threading.Thread(target=decode) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not both.broken
    with use.alone():
        assert use.is_alone
