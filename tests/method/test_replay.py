"""The step from recorded graphs is the step: shown on a CPU by a stand-in that replays on the recording's addresses."""

from dataclasses import replace

import pytest
import torch
from graph_stand_in import RecordedCalls
from small_runs import noise, small_config

from modist_fast.config import ObjectiveConfig
from modist_fast.host.distributed import World, join_world
from modist_fast.replay import WARM_UP
from modist_fast.step import TrainingStep

NUM_STEPS = WARM_UP + 5


def losses_and_weights(
    step: TrainingStep, config, rate: float = 0.05
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Figures of each of some steps, on clips and at rates that no two share, and what is left of the model."""
    rows = []
    for index in range(NUM_STEPS):
        figures = step(noise(config, index), rate / (1 + index), index / NUM_STEPS)
        rows.append({name: float(value) for name, value in figures.items()})
    return rows, {name: tensor.clone() for name, tensor in step.model.state_dict().items()}


def both(config, world: World):
    return losses_and_weights(TrainingStep(config, world), config), losses_and_weights(
        TrainingStep(config, world, new_graph=RecordedCalls), config
    )


@pytest.mark.parametrize(
    "change", [{}, {"groups_together": 3}, {"groups_together": 1, "rgb": True}, {"lars": True}, {"ramp": True}]
)
def test_replayed_steps_are_the_steps(change: dict) -> None:
    config = replace(small_config(num_groups=3), groups_together=change.get("groups_together", 1))
    if change.get("rgb"):
        config = replace(config, objective=replace(config.objective, motion=False))
    if change.get("lars"):
        config = replace(config, optim=replace(config.optim, name="lars"))
    if change.get("ramp"):
        config = replace(config, objective=replace(config.objective, cross_warmup_epochs=1.0))
    with join_world("cpu") as world:
        (plain_rows, plain), (rows, replayed) = both(config, world)
    assert rows == plain_rows
    for index, row in enumerate(rows if change.get("ramp") else []):
        cross = row["loss_visual_to_motion"] + row["loss_motion_to_visual"]
        whole = row["loss_visual"] + row["loss_motion"] + cross * index / NUM_STEPS
        assert row["loss"] == pytest.approx(whole, rel=1e-5)
    for name, tensor in plain.items():
        assert torch.equal(tensor, replayed[name]), name


def keeps_the_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first clips in the place of the step's own."""
    taken = TrainingStep._take
    monkeypatch.setattr(
        TrainingStep, "_take", lambda self, batch: taken(self, batch)._replace(visual_query=batch.visual_query)
    )


def divides_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work between two parts, whose result the second reads: made anew in each step, elsewhere."""
    run = TrainingStep._run

    def outside(self, name, part, index=0):
        result = run(self, name, part, index)
        return result * 1.0 if name == "keys" else result

    monkeypatch.setattr(TrainingStep, "_run", outside)


def rate_as_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    update = TrainingStep._update_weights
    monkeypatch.setattr(TrainingStep, "_update_weights", lambda self, rate, checked: update(self, float(rate), checked))


@pytest.mark.parametrize("plant", [keeps_the_clips, divides_outside, rate_as_a_number])
def test_a_part_that_reads_what_no_replay_writes_is_found(plant, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(num_groups=1)
    with join_world("cpu") as world:
        plant(monkeypatch)
        (plain_rows, _), (rows, _) = both(config, world)
    assert rows[: WARM_UP + 1] == plain_rows[: WARM_UP + 1]
    assert rows[WARM_UP + 1 :] != plain_rows[WARM_UP + 1 :]


class Refused:
    """A graph that cannot be recorded, as where another library waits for the device meanwhile."""

    def capture(self, part):
        raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self) -> None:
        raise AssertionError("nothing was recorded")


def test_a_recording_that_fails_is_said_and_costs_no_step(caplog: pytest.LogCaptureFixture) -> None:
    config = small_config(num_groups=2)
    with join_world("cpu") as world, caplog.at_level("WARNING", "modist"):
        plain_rows, plain = losses_and_weights(TrainingStep(config, world), config)
        rows, refused = losses_and_weights(TrainingStep(config, world, new_graph=Refused), config)
    assert caplog.text.count("could not be recorded as CUDA graphs") == 1
    assert "previous error during capture" in caplog.text
    assert rows == plain_rows
    assert all(torch.equal(tensor, refused[name]) for name, tensor in plain.items())


def test_an_error_in_a_step_that_records_nothing_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(num_groups=1)
    with join_world("cpu") as world:
        step = TrainingStep(config, world, new_graph=RecordedCalls)

        def broken(*_: object) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(step, "_loss", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            step(noise(config, 0), 0.1)


def test_groups_together_are_groups_one_after_another() -> None:
    """To rounding, which the steep demo recipe would multiply: hence the low rate."""
    config = small_config(num_groups=4)
    found = {}
    with join_world("cpu") as world:
        for together in (1, 2, 4):
            one = replace(config, groups_together=together)
            found[together] = losses_and_weights(TrainingStep(one, world), one, rate=1e-6)
    for together in (2, 4):
        for row, expected in zip(found[together][0], found[1][0], strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-4)
        for name, tensor in found[1][1].items():
            close = 1e-3 if tensor.dtype == torch.float16 else 1e-4  # the bank's last bit
            torch.testing.assert_close(found[together][1][name], tensor, rtol=close, atol=close, msg=name)


def test_objective_of_groups_weighs_them_equally() -> None:
    """However many of a group's samples are damaged."""
    from modist_fast.bank import KeyBank
    from modist_fast.objective import motion_distillation_loss

    torch.manual_seed(0)
    queries, keys = (torch.nn.functional.normalize(torch.randn(2, 6, 64), dim=-1) for _ in range(2))
    bank = KeyBank(2, 32, 64)
    bank.enqueue(torch.nn.functional.normalize(torch.randn(2, 32, 64), dim=-1), torch.arange(32) + 100)
    ids = torch.tensor([1, -1, -1, 4, 5, 6], dtype=torch.int32)
    config = ObjectiveConfig()
    together = motion_distillation_loss(queries, keys, bank, ids, config, groups=2)
    halves = [
        motion_distillation_loss(queries[:, part], keys[:, part], bank, ids[part], config)
        for part in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(together.loss, (halves[0].loss + halves[1].loss) / 2)
    torch.testing.assert_close(together.losses, (halves[0].losses + halves[1].losses) / 2)
    one_mean = motion_distillation_loss(queries, keys, bank, ids, config)
    assert abs(float(one_mean.loss - together.loss)) > 1e-3  # what a mean over all samples would be


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("together", [1, 2])
def test_cuda_graphs_of_the_step(precision: str, together: int) -> None:
    """Low rate: the recipe multiplies what two orders of addition leave apart."""
    config = replace(small_config(num_groups=2), groups_together=together, precision=precision, device="cuda")
    with join_world("cuda") as world:
        found = {}
        for graphs in ("off", "auto"):
            one = replace(config, graphs=graphs)
            found[graphs] = losses_and_weights(TrainingStep(one, world), one, rate=1e-6)
    for row, expected in zip(found["auto"][0], found["off"][0], strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-3)
    for name, tensor in found["off"][1].items():
        torch.testing.assert_close(found["auto"][1][name], tensor, rtol=2e-3, atol=2e-3, msg=name)
