"""The same test bodies as in the interpreter, compiled, on a GPU."""

import cases_batch_norm
import cases_flow_edges
import cases_queue_infonce
import pytest
from cases_batch_norm import (  # noqa: F401
    test_groups_are_normalized_apart,
    test_tickets_are_left_as_they_were_and_two_runs_give_identical_bits,
)
from cases_flow_edges import (  # noqa: F401
    test_a_row_too_long_is_said,
    test_leading_dimensions_and_no_frames,
    test_one_frame_equals_the_loop,
)
from cases_queue_infonce import (  # noqa: F401
    test_a_query_without_negatives_has_no_loss_and_no_gradient,
    test_backward_does_not_read_the_bank,
    test_two_runs_give_identical_bits,
    test_what_the_kernel_cannot_take_is_said,
)

pytestmark = pytest.mark.gpu

test_norm_kernel_equals_the_definition = cases_batch_norm.test_kernel_equals_the_definition
test_loss_kernel_equals_the_definition = cases_queue_infonce.test_kernel_equals_the_definition
test_edges_kernel_equals_the_definition = cases_flow_edges.test_kernel_equals_the_definition
