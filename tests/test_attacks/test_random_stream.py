import pytest
import torch

from m2at_mm.attacks import own_random_stream

CPU = torch.device('cpu')


def test_draws_inside_leave_those_outside_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with pytest.raises(ZeroDivisionError), own_random_stream(CPU):
        assert torch.equal(torch.rand(3), expected)  # they go on, inside
        raise ZeroDivisionError
    with own_random_stream(CPU, seed=5):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with own_random_stream(CPU, seed=5):  # which fixes the draws inside
        assert torch.equal(torch.rand(3), first)
