"""A run's figures in Weights & Biases or MLflow, for those who keep their runs there. Neither is installed by us."""

import hashlib
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from modist_fast.errors import ConfigError

_GROUPS = {
    "loss": "loss",
    "top1": "top-1",
    **dict.fromkeys(("positive", "retrieval", "spread", "uniformity", "bank", "masked"), "health"),
    **dict.fromkeys(("seconds", "cpu", "core", "samples", "data"), "speed"),
    **dict.fromkeys(("host", "device"), "memory"),
    "lr": "schedule",
    "epoch": "schedule",
    "gradient": "gradients",
}
"""The first word of a figure's name to the group that it is shown in."""


def grouped(name: str) -> str:
    """A figure of metrics.jsonl as viewers of curves have it: "loss_visual" is "loss/visual"."""
    first, _, rest = name.partition("_")
    group = _GROUPS.get(first, "other")
    return f"{group}/{(rest or 'all') if first in ('loss', 'top1') else name}"


class Tracker(Protocol):
    """What a run tells whoever keeps it; called on rank 0, by the thread that writes metrics.jsonl."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Figures of a step under their `grouped` names."""
        ...

    def picture(self, name: str, path: Path) -> None:
        """A PNG."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


class _Wandb:
    """Weights & Biases. Without an account or a network, WANDB_MODE=offline keeps all in RUN/wandb."""

    def __init__(self, out: Path, options: Mapping[str, Any]) -> None:
        self._wandb = _library("wandb")
        # By the folder, so that a resumed run goes on in its own curves.
        identity = hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:16]
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "modist-fast"),
            name=out.name,
            dir=str(out),
            id=identity,
            resume="allow",
            config=dict(options),
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def picture(self, name: str, path: Path) -> None:
        self._run.log({name: self._wandb.Image(str(path))})

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """MLflow: at MLFLOW_TRACKING_URI, or in RUN/mlflow.db. A resumed run is another run there."""

    def __init__(self, out: Path, options: Mapping[str, Any]) -> None:
        self._mlflow = _library("mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            self._mlflow.set_tracking_uri(f"sqlite:///{out.absolute() / 'mlflow.db'}")
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "modist-fast"))
        self._id = self._mlflow.start_run(run_name=out.name).info.run_id
        self._mlflow.log_dict(dict(options), "config.json", run_id=self._id)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        # By its id: the active run is another thread's.
        self._mlflow.log_metrics(dict(figures), step=step, run_id=self._id)

    def picture(self, name: str, path: Path) -> None:
        self._mlflow.log_artifact(str(path), run_id=self._id)

    def close(self) -> None:
        self._mlflow.end_run()


def open_tracker(name: str, out: Path, options: Mapping[str, Any]) -> Tracker | None:
    """
    Args:
        name: of --track.
        options: of the run, nested and JSON-ready.

    Returns:
        None for "none".

    Raises:
        ConfigError: its library is not installed.
    """
    if name == "none":
        return None
    return _Wandb(out, options) if name == "wandb" else _Mlflow(out, options)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--track {name}: {error.name} is not installed. Install it (pip install {name}), or leave --track out: "
            "OUT/tensorboard and OUT/metrics.jsonl have the same figures."
        ) from error
