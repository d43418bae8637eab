"""Named spans of a training step: one name in Nsight, in torch.profiler and in the step budget.

Times are those of the device that computes. On a CPU a mark is a reading of the host's clock; on a GPU it is an event
in the stream, whose time is known once the device has passed it, so nothing is read before a later step asks.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.autograd.profiler as autograd_profiler

try:
    import nvtx
except ImportError:  # as on macOS: the doctor says so
    nvtx = None
_DOMAIN = nvtx and nvtx.get_domain("modist")  # costs a tenth of a microsecond where no tool listens


@contextmanager
def annotate(name: str) -> Iterator[None]:
    """Show the enclosed block as `name` in Nsight and in torch.profiler, on the thread that runs it."""
    if _DOMAIN:
        _DOMAIN.push_range(_DOMAIN.get_event_attributes(message=name))
    try:
        if autograd_profiler._is_profiler_enabled:  # a record_function costs 6 microseconds even where none listens
            with autograd_profiler.record_function(name):
                yield
        else:
            yield
    finally:
        if _DOMAIN:
            _DOMAIN.pop_range()


class Clock(Protocol):
    """Marks moments of the device's work."""

    def mark(self) -> Any: ...

    def seconds(self, start: Any, stop: Any) -> float:
        """Between two marks; waits until the device has passed `stop`."""
        ...

    waits_show: bool
    """Whether the host's waits are the device's: on a CPU they are, a GPU may work on meanwhile."""


class HostClock:
    """For a CPU: work is done when its call returns."""

    waits_show = True

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, start: float, stop: float) -> float:
        return stop - start


class StreamClock:
    """For a GPU: events of the current stream."""

    waits_show = False

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, stop: torch.cuda.Event) -> float:
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3


def clock_of(device: torch.device) -> Clock:
    """The clock that sees what `device` does."""
    return StreamClock() if device.type == "cuda" else HostClock()


@dataclass
class StepTimes:
    """The spans of a step; asking for their seconds waits for the device to finish them."""

    clock: Clock
    entries: list[tuple[str, Any, Any]] = field(default_factory=list)
    """Name, start and stop of each span, in the order they ended."""
    host_seconds: float = 0.0
    """The host's time within the spans that launch work: on a GPU, what launching took. Waits are not in it."""
    before: Any = None
    """The last mark of the step before, None in the first."""

    def seconds(self) -> dict[str, float]:
        """Seconds by name; a name met several times adds up."""
        total: dict[str, float] = defaultdict(float)
        for name, start, stop in self.entries:
            total[name] += self.clock.seconds(start, stop)
        return dict(total)

    def data_wait(self, host_wait: float) -> float:
        """How long the device stood still because the host waited `host_wait` seconds for the step's clips.

        On a GPU at most the gap between the last work of the step before and the first of this one: what the
        device had left to do meanwhile hid the rest.
        """
        if self.clock.waits_show or self.before is None or not self.entries:
            return host_wait
        first = self.entries[0][1]
        return min(host_wait, self.clock.seconds(self.before, first))


class Spans:
    """Collects the spans of a step between two calls of `take`.

    A pair of clock readings and an NVTX range each: about two microseconds on a CPU.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._times = StepTimes(clock)
        self._rest: tuple[str, Any] | None = None
        self._depth = 0
        self.phase = ""
        """The span that is open now; "" between spans."""

    @contextmanager
    def __call__(self, name: str, launches: bool = True) -> Iterator[None]:
        """Count the enclosed block as phase `name`. Spans stand side by side; one within another is not counted.

        An error that leaves it says so in a note.

        Args:
            launches: False where the host waits, for the device or a disk, instead of giving the device work.
        """
        with annotate(name):
            if self._depth == 0:
                self.phase = name
            self._depth += 1
            begun, start = time.perf_counter(), self._clock.mark()
            try:
                yield
            except Exception as error:
                if self._depth == 1:
                    error.add_note(f"in the phase {name} of a step")
                raise
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.phase = ""
                    self._add(name, start, self._clock.mark())
                    self._times.host_seconds += time.perf_counter() - begun if launches else 0.0

    def rest_is(self, name: str) -> None:
        """Count what is left of the span that is open as `name`; of several calls the last one holds."""
        self._rest = (name, self._clock.mark())

    def _add(self, name: str, start: Any, stop: Any) -> None:
        if self._rest is not None:
            rest, since = self._rest
            self._times.entries.append((name, start, since))
            name, start, self._rest = rest, since, None
        self._times.entries.append((name, start, stop))

    def take(self) -> StepTimes:
        """Return the spans since the last call, and begin anew."""
        taken = self._times
        last = taken.entries[-1][2] if taken.entries else taken.before
        self._times = StepTimes(self._clock, before=last)
        return taken
