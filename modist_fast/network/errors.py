"""What processes say where they do not meet, or have lost one another: torch's words, explained."""

import os
import re
import socket
from collections.abc import Mapping

from modist_fast.errors import ConfigError

# Words of gloo and of torch's stores alone: a read of a file may time out as well.
_TIMED_OUT = re.compile(r"Timed out waiting \d+ ?ms|wait timeout after \d+ ?ms|socket .* timed out")
_GONE = re.compile(r"Connection (closed|reset) by peer|Socket closed|remote process exited")  # gloo's and nccl's
_NOT_MET = re.compile(r"connect|address|resolve|timed? ?out|Broken pipe|NCCL error", re.IGNORECASE)


def several_nodes(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun has started processes on other machines too."""
    return environ.get("LOCAL_WORLD_SIZE", "1") != environ.get("WORLD_SIZE", "1") and "TORCHELASTIC_RUN_ID" in environ


def of_run(error: RuntimeError, timeout: float) -> ConfigError | None:
    """The explanation of an error in an exchange between ranks; None of another error.

    Args:
        timeout: --collective-timeout, seconds.
    """
    if _TIMED_OUT.search(str(error)):
        return ConfigError(_late(error, timeout))
    if _GONE.search(str(error)):
        return ConfigError(_gone(error))
    return None


def _late(error: RuntimeError, timeout: float) -> str:
    """What is known of a rank that others waited for in vain; gloo does not say which it is."""
    return (
        f"rank {os.environ.get('RANK', 0)} waited for another rank longer than --collective-timeout {timeout:g} "
        f"(seconds){_phase(error)}. That rank hangs, or its machine or network is gone: look at the last lines of the "
        "others. Raise --collective-timeout where a rank is merely slow; a run goes on from its last checkpoint with "
        f"--resume auto.{_networks()} In torch's words: {_first_line(error)}"
    )


def _gone(error: RuntimeError) -> str:
    return (
        f"rank {os.environ.get('RANK', 0)} lost another rank{_phase(error)}: its process has ended. Look at its own "
        "lines; one that was killed says nothing (out of host memory: `dmesg`; a machine that went away). A run goes "
        f"on from its last checkpoint with --resume auto.{_networks()} In torch's words: {_first_line(error)}"
    )


def of_meeting(error: RuntimeError) -> ConfigError | None:
    """The explanation of an error while the ranks were to meet; None of another error."""
    if not _NOT_MET.search(str(error)):
        return None
    place = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    return ConfigError(
        f"rank {os.environ.get('RANK', 0)} did not meet the other processes at {place}. That name must lead to one "
        "machine from all nodes, and the ports of each node be open to the others. Set GLOO_SOCKET_IFNAME (on CPUs) or "
        "NCCL_SOCKET_IFNAME (on GPUs) to the network that joins the nodes, on each node; this one has "
        f"{', '.join(name for _, name in socket.if_nameindex())}. In torch's words: {_first_line(error)}"
    )


def of_rendezvous(error: Exception, options: str) -> ConfigError:
    """The explanation of an error of torchrun's agent, which the processes of its node have not seen.

    Args:
        options: torchrun's, that say where and how many nodes meet.
    """
    kind = type(error).__name__
    said = _first_line(error.__cause__ or error) or kind
    if kind == "RendezvousTimeoutError":
        return ConfigError(
            f"too few nodes came in time ({options}). Start the same command, with the same --rdzv-endpoint and "
            "--rdzv-id, on each of them. Raise the wait by --rdzv-conf join_timeout=SECONDS (600) where a queue brings "
            "nodes late, or let fewer begin by --nnodes LEAST:MOST."
        )
    if kind == "RendezvousClosedError":
        return ConfigError(
            f"the rendezvous is over ({options}): the run has ended, or a node has given it up. Start all nodes again; "
            "--resume auto goes on."
        )
    return ConfigError(
        f"the node that holds the rendezvous cannot be reached, or is gone ({options}). The others end with it. Look "
        "whether its command runs, its name resolves from here and its port is open; then start all nodes again: "
        f"--resume auto goes on. In torch's words: {said}"
    )


def advice(resume: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """What a run on several nodes lacks to survive the loss of one, as sentences for the log."""
    if not several_nodes(environ):
        return []
    if int(environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) == 0:
        return ["--max-restarts 0: where a node is lost, all end. With --max-restarts 3 the others wait for it."]
    found = []
    if resume != "auto":
        found.append(f"--resume {resume}: where a node is lost, the others are refused as they start again. Pass auto.")
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        found.append(
            "a node that comes back will not be let in: torchrun shares its store with the processes, and a new node "
            "looks for another. Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun on all nodes."
        )
    return found


def _networks() -> str:
    if not several_nodes():
        return ""
    return (
        " Where nodes of several networks lose each other at the first exchange, set GLOO_SOCKET_IFNAME or "
        "NCCL_SOCKET_IFNAME to the one that joins them."
    )


def _phase(error: Exception) -> str:
    return "".join(f", {note}" for note in getattr(error, "__notes__", ()))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
