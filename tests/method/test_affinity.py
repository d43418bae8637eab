"""CPU affinity by what NVML says, with a stand-in for NVML."""

import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from modist_fast.host.affinity import bind_near_gpu

GPU = torch.device("cuda", 1)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Knows one GPU by its bus address; `words` are the 64-bit words of its affinity."""
    fake = SimpleNamespace(words=[], shut=0)

    def handle(address: bytes) -> str:
        assert address == b"00000000:3b:00.0"
        return "gpu"

    fake.nvmlInit = lambda: None
    fake.nvmlShutdown = lambda: setattr(fake, "shut", fake.shut + 1)
    fake.nvmlDeviceGetHandleByPciBusId = handle
    fake.nvmlDeviceGetCpuAffinity = lambda gpu, num_words: fake.words
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    address = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: address)
    allowed = os.sched_getaffinity(0)
    yield fake
    os.sched_setaffinity(0, allowed)


def test_process_keeps_to_the_allowed_cores_near_its_gpu(nvml, monkeypatch):
    bound = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(80)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: bound.append(cores))
    nvml.words = [(1 << 63) | 0b110, 0b1, 1 << 10]  # cores 1, 2, 63, 64 and 138
    told = bind_near_gpu(GPU)
    assert bound == [{1, 2, 63, 64}]
    assert told == "4 cores near cuda:1 (of 80 allowed)"
    assert nvml.shut == 1


def test_real_affinity_changes(nvml):
    core = min(os.sched_getaffinity(0))
    nvml.words = [1 << core]
    bind_near_gpu(GPU)
    assert os.sched_getaffinity(0) == {core}


@pytest.mark.parametrize("words", [[], [0], [0, 0, 1 << 60]])
def test_no_core_in_common_changes_nothing(nvml, words):
    before = os.sched_getaffinity(0)
    nvml.words = words
    assert "none of them is near cuda:1" in bind_near_gpu(GPU)
    assert os.sched_getaffinity(0) == before


def test_nvml_that_fails_is_named(nvml):
    def broken() -> None:
        raise OSError("driver not loaded")

    nvml.nvmlInit = broken
    assert "driver not loaded" in bind_near_gpu(GPU)


def test_on_a_cpu_nothing_is_bound():
    assert "no GPU" in bind_near_gpu(torch.device("cpu"))
