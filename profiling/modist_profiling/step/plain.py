"""The training step of MoDist as one writes it first: what bench_step.py compares the project's own step with.

fp32, contiguous, motion maps as three equal channels, MoCo's shuffle of whole clips, a momentum update in a Python
loop, four contrastive losses with logits of their own. Each of the project's choices can be switched on by itself.
It computes the same function: tests/profiling/test_bench_step.py.
"""

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from modist_fast.config import TrainConfig
from modist_fast.models.norm import GroupBatchNorm
from modist_fast.models.resnet import ResNet
from modist_fast.pathways import Pathways
from modist_kernels import queue_infonce

CHOICES = {
    "one_channel": "edge maps in one channel",
    "channels_last": "channels last",
    "frame_pool": "pooling by frames",
    "fused_norm": "norm, addition and ReLU in one",
    "bf16": "bf16 autocast",
    "fused_loss": "fused loss over the banks",
    "dealt_keys": "keys travel, clips stay",
    "foreach_momentum": "momentum update at once",
    "fused_optimizer": "fused optimizer",
    "kept_memory": "freed memory kept (CPU)",
}
"""In the order in which bench_step.py adds them."""
# (query, positive key, bank) of visual, motion, visual_to_motion, motion_to_visual; negatives of the query's modality
TERMS = ((0, 0, 0), (1, 1, 1), (0, 1, 0), (1, 0, 1))


class PlainNorm(GroupBatchNorm):
    """torch's batch norm of clips as they are, then an addition, then a ReLU."""

    def forward(self, x: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        affine = (self.running_mean, self.running_var, self.weight, self.bias)
        y = functional.batch_norm(x, *affine, training=True, momentum=self.momentum, eps=self.eps)
        y = y if residual is None else y + residual
        return functional.relu(y) if relu else y


def moco_loss(query: Tensor, key: Tensor, negatives: Tensor, excluded: Tensor, temperature: float) -> Tensor:
    """MoCo's loss, written as it is there.

    Args:
        query, key: (B, C) unit vectors.
        negatives: (N, C).
        excluded: (B, N) bool, negatives that do not count.
    """
    positive = torch.einsum("nc,nc->n", query, key)[:, None]
    # MoCo clones its queue, for the batch is enqueued before backward reads it.
    negative = torch.einsum("nc,kc->nk", query, negatives.clone().detach())
    logits = torch.cat([positive, negative.masked_fill(excluded, -torch.inf)], dim=1) / temperature
    return functional.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


class PlainStep:
    """The nets, the banks, the optimizer, and how a batch changes them.

    Args:
        config: model, objective and optimizer; everything else is as plain as `choices` leave it.
        choices: of `CHOICES`.
        device: where.
    """

    def __init__(self, config: TrainConfig, choices: frozenset[str], device: torch.device) -> None:
        assert choices <= set(CHOICES), choices - set(CHOICES)
        self._config, self._choices, self._device = config, choices, device
        torch.manual_seed(config.seed)
        net = Pathways(config.model, motion_channels=1)
        if "one_channel" not in choices:
            net.motion = ResNet(config.model.arch, 3, config.model.motion_width, temporal_kernels=(1, 1, 1, 1, 1))
        if "frame_pool" not in choices:
            for backbone in (net.visual, net.motion):
                assert backbone is not None
                backbone.add_module("pool", nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)))
        if "fused_norm" not in choices:
            for module in net.modules():
                if isinstance(module, GroupBatchNorm):
                    module.__class__ = PlainNorm
        layout = torch.channels_last_3d if "channels_last" in choices else torch.contiguous_format
        self.net = net.to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
        self.momentum = copy.deepcopy(self.net).requires_grad_(False)
        self._online = DistributedDataParallel(self.net)
        size, dim = config.objective.bank_size, config.model.embedding_dim
        stored = torch.float16 if "fused_loss" in choices else torch.float32
        self.bank = torch.zeros(2, size, dim, dtype=stored, device=device)
        self.bank_ids = torch.full((size,), -1, dtype=torch.int32, device=device)
        self._pointer = 0
        self.optimizer = torch.optim.SGD(
            self.net.parameters(),
            lr=config.optim.lr,
            momentum=config.optim.momentum,
            nesterov=True,
            weight_decay=config.optim.weight_decay,
            foreach=False,
            fused="fused_optimizer" in choices,
        )

    def clips(self, clip: Tensor) -> Tensor:
        """A clip of the loader, (B, C, T, H, W), as these nets take it."""
        if clip.shape[1] == 1 and "one_channel" not in self._choices:
            clip = clip.expand(-1, 3, -1, -1, -1)
        layout = torch.channels_last_3d if "channels_last" in self._choices else torch.contiguous_format
        return clip.contiguous(memory_format=layout)

    def __call__(self, queries: list[Tensor], keys: list[Tensor], video_ids: Tensor) -> Tensor:
        """One step.

        Args:
            queries, keys: visual and motion clips, as `clips` returns them.
            video_ids: (B,) int32.

        Returns:
            (4,) the terms.
        """
        self._update_momentum()
        key_embeddings = self._embed_keys(keys)
        with self._autocast():
            embeddings = self._online(*queries)
        losses = self._losses(embeddings, key_embeddings, video_ids)
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        self._enqueue(key_embeddings, video_ids)
        return losses.detach()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled="bf16" in self._choices)

    @torch.no_grad()
    def _update_momentum(self) -> None:
        share = self._config.objective.key_momentum
        if "foreach_momentum" in self._choices:
            torch._foreach_lerp_(list(self.momentum.parameters()), list(self.net.parameters()), 1 - share)
            return
        for slow, fast in zip(self.momentum.parameters(), self.net.parameters(), strict=True):
            slow.data = slow.data * share + fast.data * (1 - share)

    @torch.no_grad()
    def _embed_keys(self, clips: list[Tensor]) -> Tensor:
        with self._autocast():
            if "dealt_keys" in self._choices:
                return self.momentum(*clips)
            # MoCo's batch shuffle: every process gathers all clips and takes its part of a permutation.
            num_local = len(clips[0])
            order = torch.randperm(num_local * dist.get_world_size(), device=self._device)
            dist.broadcast(order, 0)
            mine = order.view(dist.get_world_size(), -1)[dist.get_rank()]
            shuffled = self.momentum(*(_gather(clip)[mine] for clip in clips))
            embeddings = torch.stack([_gather(part) for part in shuffled])
            place = torch.argsort(order).view(dist.get_world_size(), -1)[dist.get_rank()]
            return embeddings[:, place]

    def _losses(self, queries: Tensor, keys: Tensor, video_ids: Tensor) -> Tensor:
        temperature = self._config.objective.temperature
        if "fused_loss" in self._choices:
            result = queue_infonce(queries, keys, self.bank, self.bank_ids, video_ids, temperature=temperature)
            return result.losses.mean(dim=1)
        excluded = (self.bank_ids[None, :] == video_ids[:, None]) | (self.bank_ids[None, :] < 0)
        return torch.stack([moco_loss(queries[q], keys[k], self.bank[b], excluded, temperature) for q, k, b in TERMS])

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, video_ids: Tensor) -> None:
        every, ids = torch.stack([_gather(part) for part in keys]), _gather(video_ids)
        slots = torch.arange(self._pointer, self._pointer + len(ids)) % len(self.bank_ids)
        self.bank[:, slots] = every.to(self.bank.dtype)
        self.bank_ids[slots] = ids
        self._pointer = int(slots[-1] + 1) % len(self.bank_ids)


def _gather(tensor: Tensor) -> Tensor:
    """All processes' tensors, one after another along the first axis (MoCo's concat_all_gather)."""
    parts = [torch.ones_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def same_weights(plain: nn.Module, ours: nn.Module) -> None:
    """Give a plain net (`PlainStep.net`) the weights of ours: its motion conv1 has three equal channels of 1/√3."""
    state = {name: value.clone() for name, value in ours.state_dict().items()}
    channels = plain.get_submodule("motion.stem").get_parameter("weight").shape[1]
    state["motion.stem.weight"] = state["motion.stem.weight"].expand(-1, channels, -1, -1, -1) / channels**0.5
    plain.load_state_dict(state)
