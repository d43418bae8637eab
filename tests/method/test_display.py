"""What a run says of a step."""

import logging

import pytest

from modist_fast.watch.metrics import Display


@pytest.mark.parametrize(
    ("filled", "said"),
    [
        (0.0, "step 3/3  bank empty  40.0 samples/s"),
        (0.125, "step 3/3  bank filling 12 %  loss 1.250  top-1 90 %"),
        (1.0, "step 3/3  loss 1.250  top-1 90 %"),
    ],
)
def test_figures_of_a_bank_that_is_not_full_are_called_so(filled, said, caplog):
    row = {"step": 3, "loss": 1.25, "top1_visual": 0.9, "samples_per_s": 40.0, "data_wait": 0.0, "bank_filled": filled}
    with caplog.at_level(logging.INFO, "modist"), Display(3, 0, shown=True) as display:
        display.update(row)
    assert caplog.records[-1].message.startswith(said)
