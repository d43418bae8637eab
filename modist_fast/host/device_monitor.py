"""What NVML says about a GPU while a run goes on: power, clock, utilization of its units."""

import importlib
import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger("modist")


class DeviceMonitor:
    """Samples a GPU in a thread of its own, once a second; does nothing on a CPU.

    Args:
        device: of this process.
        interval: seconds between two samples.
    """

    def __init__(self, device: torch.device, interval: float = 1.0) -> None:
        self._readings: dict[str, list[float]] = defaultdict(list)
        self._stop = threading.Event()
        self._thread = None
        if device.type != "cuda":
            return
        try:
            readers = _readers(device)
        except Exception as error:  # NVML is absent, too old, or not allowed: training works without
            log.warning("no power, clock or utilization in the step budget: NVML does not answer (%s)", error)
            return
        self._thread = threading.Thread(target=self._sample, args=(readers, interval), name="nvml", daemon=True)
        self._thread.start()

    def _sample(self, readers: dict[str, Callable[[], float]], interval: float) -> None:
        while not self._stop.wait(interval):
            try:
                for name, read in readers.items():
                    self._readings[name].append(read())
            except Exception as error:  # a driver that went away must not end the run
                log.warning("NVML stopped answering (%s): the step budget shows the device until here", error)
                return

    def means(self) -> dict[str, float]:
        """Mean readings so far by name, {} where there are none."""
        return {name: sum(values) / len(values) for name, values in list(self._readings.items())}

    def close(self) -> None:
        """Stop sampling."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def _readers(device: torch.device) -> dict[str, Callable[[], float]]:
    """A call for each reading that this GPU gives; some boards lack one or the other."""
    pynvml: Any = importlib.import_module("pynvml")
    pynvml.nvmlInit()
    # By the bus address: NVML counts all GPUs of the machine, torch those that CUDA_VISIBLE_DEVICES shows.
    at = torch.cuda.get_device_properties(device)
    address = f"{at.pci_domain_id:08x}:{at.pci_bus_id:02x}:{at.pci_device_id:02x}.0"
    gpu = pynvml.nvmlDeviceGetHandleByPciBusId(address.encode())
    offered: dict[str, Callable[[], float]] = {
        "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
        "sm_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
        "utilization": lambda: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
        "decoder": lambda: pynvml.nvmlDeviceGetDecoderUtilization(gpu)[0],
        "jpeg": lambda: pynvml.nvmlDeviceGetJpgUtilization(gpu)[0],
        "memory_mb": lambda: pynvml.nvmlDeviceGetMemoryInfo(gpu).used / 2**20,
    }
    found = {}
    for name, read in offered.items():
        try:
            read()
        except pynvml.NVMLError as error:
            log.warning("NVML on %s gives no %s (%s)", device, name, error)
        else:
            found[name] = read
    return found
