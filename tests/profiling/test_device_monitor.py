"""Readings of a GPU, with a stand-in for NVML."""

import logging
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from modist_fast.host.device_monitor import DeviceMonitor

GPU = torch.device("cuda", 0)


class NvmlError(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch):
    def absent(gpu):
        raise NvmlError("not supported")

    fake = SimpleNamespace(NVMLError=NvmlError, NVML_CLOCK_SM=1, powers=iter(()), asked=threading.Event())

    def power(gpu):
        value = next(fake.powers, None)
        if value is None:
            fake.asked.set()
            raise NvmlError("the driver went away")
        return value

    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetHandleByPciBusId = lambda address: "gpu"
    fake.nvmlDeviceGetPowerUsage = power
    fake.nvmlDeviceGetClockInfo = lambda gpu, clock: 1500
    fake.nvmlDeviceGetUtilizationRates = lambda gpu: SimpleNamespace(gpu=90)
    fake.nvmlDeviceGetDecoderUtilization = lambda gpu: (35, 100)
    fake.nvmlDeviceGetJpgUtilization = absent
    fake.nvmlDeviceGetMemoryInfo = lambda gpu: SimpleNamespace(used=2**30)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    address = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: address)
    return fake


def test_means_until_the_driver_goes_away(nvml, caplog):
    nvml.powers = iter([0, 200_000, 300_000, 100_000])  # the first answers whether there are readings at all
    with caplog.at_level(logging.WARNING, "modist"):
        monitor = DeviceMonitor(GPU, interval=0.001)
        assert nvml.asked.wait(600)
        monitor.close()
    means = monitor.means()
    assert means == {"power_w": 200, "sm_clock_mhz": 1500, "utilization": 90, "decoder": 35, "memory_mb": 1024}
    assert "no jpeg" in caplog.text
    assert "NVML stopped answering" in caplog.text


def test_without_nvml_the_run_goes_on(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with caplog.at_level(logging.WARNING, "modist"):
        monitor = DeviceMonitor(GPU)
    assert "NVML does not answer" in caplog.text
    assert monitor.means() == {}
    monitor.close()


def test_nothing_to_ask_on_a_cpu(caplog):
    with caplog.at_level(logging.WARNING, "modist"):
        assert DeviceMonitor(torch.device("cpu")).means() == {}
    assert caplog.text == ""
