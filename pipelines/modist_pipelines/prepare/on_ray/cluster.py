"""Joining a Ray cluster, or starting Ray on this machine."""

import gc
import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from modist_pipelines.errors import DataError

logger = logging.getLogger("modist")

_STARTS = 3  # on a busy machine one of Ray's processes may not come up in the 30 s that Ray gives it
_PATIENCE = 10.0  # seconds for a cluster's head to answer
_OBJECT_BYTES = 200_000_000  # only names and counts travel
_OWN_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_gcs_server_port_wait_time_s": "120",  # from 30 s
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray will have it; else it warns
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else it speaks of its own actors among our lines
}


@dataclass(frozen=True)
class Cluster:
    """What there is to work with."""

    num_machines: int
    num_cpus: int
    num_gpus: int
    address: str | None
    """Of a cluster that was there; None where Ray was started for this command."""

    def __str__(self) -> str:
        where = f"the cluster at {self.address}" if self.address else "this machine, for this command"
        machines = f"{self.num_machines} machine{'s' * (self.num_machines != 1)}"
        return f"Ray on {where}: {machines}, {self.num_cpus} CPUs, {self.num_gpus} GPUs"


def missing() -> list[str]:
    """Modules of Ray Data that are not there; by their files, since an import takes seconds."""
    return [name for name in ("ray", "pandas") if importlib.util.find_spec(name) is None]


def check_installed() -> None:
    """
    Raises:
        DataError: Ray is not there.
    """
    if missing():
        raise DataError(
            "--engine ray: Ray is not installed here. Install it on this machine and all of the cluster, "
            "pip install 'modist-fast[ray]'; or leave the option out, and use --shard I/N on several machines."
        )


@contextmanager
def joined(num_cpus: int) -> Iterator[Cluster]:
    """In here Ray can be used: of the cluster that RAY_ADDRESS names or this machine is part of, else started here.

    Args:
        num_cpus: that Ray is to reckon with where it is started here.

    Raises:
        DataError: there is no such cluster, or Ray does not start.
    """
    for name, value in _OWN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        raise DataError("--engine ray: this process uses Ray already. Call ray.shutdown() first.")
    began = time.monotonic()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        address = _join(ray)
        if address is None:
            _start(ray, num_cpus)
        if threading.current_thread() is threading.main_thread():  # there Ray has put its own in their place
            for number, handler in handlers.items():
                signal.signal(number, handler)
        alive = [node for node in ray.nodes() if node["Alive"]]
        total = ray.cluster_resources()
        cluster = Cluster(len(alive), int(total.get("CPU", 0)), int(total.get("GPU", 0)), address)
        logger.info("%s, after %.1f s", cluster, time.monotonic() - began)
        yield cluster
    finally:
        ray.shutdown()  # ends what this command has running, and Ray itself where it was started here
        gc.collect()  # objects are numbered anew in the next cluster: leftovers of this one would be taken for those


def _join(ray: Any) -> str | None:
    asked = os.environ.get("RAY_ADDRESS", "")
    if asked == "local":
        return None
    if asked not in ("", "auto"):
        _check_answers(asked)
    try:
        return str(ray.init(asked or "auto", log_to_driver=False, logging_level=logging.ERROR).address_info["address"])
    except ConnectionError as error:
        if not asked:
            return None
        raise _no_cluster(asked, error) from error
    except Exception as error:  # such as another version of Ray or Python
        raise DataError(
            f"--engine ray: the cluster at {asked or 'auto'} cannot be joined: {error}. Give this machine the "
            "cluster's versions of Ray and Python, or unset RAY_ADDRESS to use this machine alone."
        ) from error


def _check_answers(address: str) -> None:
    """Within seconds: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        raise DataError(
            f"--engine ray: RAY_ADDRESS is {address}, and must be HOST:PORT of the cluster's head, such as "
            "10.0.0.1:6379 (no ray:// address: run the command on a machine of the cluster)."
        )
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> DataError:
    return DataError(
        f"--engine ray: RAY_ADDRESS is {address}, and no Ray cluster answers there ({_first_line(error)}). Start it, "
        "or unset RAY_ADDRESS to use this machine alone."
    )


def _start(ray: Any, num_cpus: int) -> None:
    began = time.monotonic()
    last: Exception | None = None
    for attempt in range(_STARTS):
        try:
            ray.init(
                "local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:  # Ray raises bare ones
            last = error
            ray.shutdown()
            again = "; trying again" if attempt + 1 < _STARTS else ""
            logger.warning("Ray did not start after %.0f s in all%s", time.monotonic() - began, again)
    raise DataError(
        f"--engine ray: Ray did not start on this machine in {_STARTS} tries, {time.monotonic() - began:.0f} s "
        f"({_first_line(last)}). Mostly it lacks a free core for its own processes: start it beforehand by `ray start "
        "--head`, which this command then joins, or leave --engine ray out."
    ) from last


def _first_line(error: Exception | None) -> str:
    return str(error).strip().partition("\n")[0]
