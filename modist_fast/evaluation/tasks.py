"""What runs each evaluation, by its options."""

from typing import Any

from modist_fast.evaluation.ava.command import run_ava
from modist_fast.evaluation.ava.config import AvaConfig
from modist_fast.evaluation.finetune.config import FinetuneConfig, SupervisedConfig
from modist_fast.evaluation.finetune.run import run_finetune
from modist_fast.evaluation.frozen.config import KnnEvaluationConfig, LinearConfig, LowShotConfig, RetrievalConfig
from modist_fast.evaluation.frozen.tasks import run_knn, run_linear, run_lowshot, run_retrieval

RUNS: dict[type, Any] = {
    LinearConfig: run_linear,
    KnnEvaluationConfig: run_knn,
    RetrievalConfig: run_retrieval,
    LowShotConfig: run_lowshot,
    FinetuneConfig: run_finetune,
    SupervisedConfig: run_finetune,
    AvaConfig: run_ava,
}
