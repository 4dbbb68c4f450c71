import numpy as np
import pytest

from utils.core.errors import UserError
from utils.pretraining.settings import (
    Stage,
    epochs_within,
    learning_rate_at,
    plan_stages,
    stage_of,
)


def test_half_of_the_epochs_grow_the_network_and_none_is_lost():
    assert plan_stages(40, grow=True) == [Stage(1, 5), Stage(2, 5), Stage(3, 5), Stage(4, 5), Stage(5, 20)]
    assert plan_stages(5, grow=True) == [Stage(depth, 1) for depth in range(1, 6)]
    assert plan_stages(40, grow=False) == [Stage(5, 40)]
    for epochs in range(5, 60):
        assert sum(stage.epochs for stage in plan_stages(epochs, grow=True)) == epochs


def test_too_few_epochs_to_grow_are_refused():
    with pytest.raises(UserError, match=r"an epoch at each of 5 depths, but there are 4 in all.*--no-grow"):
        plan_stages(4, grow=True)


def test_stages_follow_one_another():
    stages = [Stage(1, 2), Stage(2, 1), Stage(5, 3)]
    assert [stage_of(stages, epoch) for epoch in range(1, 7)] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (2, 0),
        (2, 1),
        (2, 2),
    ]
    with pytest.raises(ValueError, match="epoch 7 is beyond the 6"):
        stage_of(stages, 7)


def test_as_many_epochs_as_fit():
    assert epochs_within(60, [1, 1, 1, 1, 10], grow=False) == 6
    assert epochs_within(59.9, [1, 1, 1, 1, 10], grow=False) == 5
    growing = epochs_within(100, [1, 2, 3, 4, 5], grow=True)
    cost = [sum(s.epochs * s.depth for s in plan_stages(count, True)) for count in (growing, growing + 1)]
    assert cost[0] <= 100 < cost[1]
    assert epochs_within(0.1, [1, 1, 1, 1, 1], grow=True) == 5


def test_learning_rate_rises_then_follows_half_a_cosine():
    rates = [learning_rate_at(step, 1000, 0.5, last=True) for step in range(1001)]
    assert rates[0] == pytest.approx(0.005)
    assert rates[99] == rates[100] == 0.5
    assert rates[550] == pytest.approx(0.25)  # half way between step 100 and step 1000
    assert rates[1000] == pytest.approx(0, abs=1e-12)
    assert (np.diff(rates[:99]) > 0).all()
    assert (np.diff(rates[100:]) < 0).all()
    assert learning_rate_at(1000, 1000, 0.5, last=False) == pytest.approx(0.15)
    assert learning_rate_at(0, 1, 0.5, last=True) == 0.5
