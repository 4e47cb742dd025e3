"""The model FLOPs of a training step against a count of its products; the check that sees a wrong gradient."""

import pytest
import torch
from torch.nn import attention
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training
from kexue_nb import nn

SHAPE = {"vocabulary": 40, "context": 8, "d": 16, "depth": 3, "heads": 2}
BATCH = 5


@pytest.mark.parametrize("runs", [1, 3])
def test_model_operations_by_counting_products(runs):
    model = nn.Transformer(nn.Init([0] * runs), **SHAPE)
    ids = torch.arange(BATCH * SHAPE["context"]).view(BATCH, -1).expand(runs, -1, -1) % SHAPE["vocabulary"]
    with attention.sdpa_kernel(attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    length = SHAPE["context"]
    masked = runs * BATCH * SHAPE["depth"] * 6 * length * (length - 1) * SHAPE["d"]  # the plain kernel multiplies the future, too
    assert counter.get_total_flops() == training.model_operations(model, BATCH * length, length) + masked


def test_a_wrong_gradient_is_seen():
    case = training.transformer_case(16, BATCH, torch.device("cpu"), torch.float32, False, **{k: v for k, v in SHAPE.items() if k != "d"})
    (peer,) = case.peers.values()
    ours, theirs = case.ours(), peer()
    assert case.distance(ours, theirs) < 1e-5
    gradients = theirs[1]()
    gradients["wq"][0, 1, 0, 0] += gradients["wq"].norm()
    assert case.distance(ours, (theirs[0], lambda: gradients)) > 0.5
    assert case.distance(ours, (theirs[0] * 1.1, theirs[1])) > 0.05
