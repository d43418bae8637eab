"""The parity figures notice what is wrong: planted faults in a kernel, in the clips, in the numbers themselves."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from modist_profiling.data.parity import clip_parity, made_up_clips, reference, run_graph
from modist_profiling.frame.accuracy import Parity, largest_error
from modist_profiling.kernels import parity as parity_kernels
from modist_profiling.kernels.parity import LossCase, edges_parity, loss_parity
from modist_profiling.parity import print_figures

CPU = torch.device("cpu")
CASE = LossCase(5, 300, dim=64, cross_negatives="other", part_filled=True)


def beyond(figures) -> set[str]:
    return {figure.what for figure in figures if not figure.holds}


def test_largest_error() -> None:
    assert largest_error(torch.tensor([1.0, -math.inf]), torch.tensor([1.5, -math.inf])) == 0.5
    assert largest_error(torch.tensor([math.nan]), torch.tensor([1.0])) == math.inf
    assert largest_error(torch.tensor([3.0]), torch.tensor([-math.inf])) == math.inf
    assert largest_error(torch.tensor([]), torch.tensor([])) == 0.0


def test_a_figure_that_is_no_number_does_not_hold(capsys: pytest.CaptureFixture[str]) -> None:
    figure = Parity("kernel", "case", "definition", math.nan, 1.0, "")
    assert not figure.holds
    print_figures([figure, figure._replace(error=0.5)])
    lines = capsys.readouterr().out.splitlines()
    assert ["BEYOND ITS BOUND" in line for line in lines] == [False, False, True, False]


@pytest.mark.parametrize("fault", [{"temperature": 0.101}, {"cross_negatives": "own"}])
def test_a_wrong_loss_is_beyond_its_bounds(fault: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not beyond(loss_parity(CASE, CPU))
    right = parity_kernels.queue_infonce
    monkeypatch.setattr(parity_kernels, "queue_infonce", lambda *a, **options: right(*a, **options | fault))
    assert beyond(loss_parity(CASE, CPU)) >= {"queue_infonce losses", "queue_infonce gradient", "queue_infonce lse"}


def test_wrong_edges_are_beyond_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not beyond(edges_parity(40, CPU))
    right = parity_kernels.flow_edges

    def wrong(flow, *, border, **options):
        return right(flow, border="replicate" if border == "zero" else "zero", **options)

    monkeypatch.setattr(parity_kernels, "flow_edges", wrong)
    assert beyond(edges_parity(40, CPU)) == {"flow_edges maps", "flow_edges scores"}


def test_a_clip_with_another_plan_is_beyond_its_bounds() -> None:
    """Each number of the plan is felt: the graph gets it as planned, the reference does not."""
    assert not beyond(figure for kind in ("visual", "motion") for figure in clip_parity(kind, CPU, 4))
    clips = made_up_clips("visual", 12)
    found = run_graph("visual", clips, "jpeg", CPU)[:: len(clips[0].frames or ())]
    felt = set()
    for clip, pixels in zip(clips, found, strict=True):
        assert clip.frames is not None
        plan = clip.plan
        compare = partial(reference, "visual", clip.frames[0])
        changes = {
            "flip": not plan.flip,
            "gray": not plan.gray,
            "blur_sigma": 0.0,
            "brightness": 1.01 * plan.brightness,
        }
        changes |= {"contrast": 1.01 * plan.contrast, "saturation": 1.01 * plan.saturation}
        for name, value in changes.items():
            changed = compare(plan._replace(**{name: value})).numpy()
            if np.abs(changed - pixels).max() > 0.1 / 255 / 0.225:
                felt.add(name)
    assert felt == {"flip", "gray", "blur_sigma", "brightness", "contrast", "saturation"}


def test_cases_say_what_they_are() -> None:
    assert str(CASE) == "B 5, N 300, C 64, float32, other, part-filled"
    assert str(replace(CASE, modalities=1, part_filled=False)) == "B 5, N 300, C 64, float32, RGB only"
