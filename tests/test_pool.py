"""Batches of noised points: how often, when and beside what each is used."""

import pytest
import torch

from constrained_diffusion import pool as module
from constrained_diffusion.losses import Noised
from constrained_diffusion.pool import NoisePool

SIZE = 8  # of a batch
ROUND = 64 * SIZE  # points noised at a time
DATA = torch.arange(100.0).unsqueeze(-1)


class Numbered:
    """Stands for a loss: gives every point that it noises a number, and keeps from which it was made."""

    def __init__(self, with_target=True):
        self.count, self.with_target = 0, with_target

    def prepare(self, x0, *, generator=None):
        number = torch.arange(self.count, self.count + len(x0)).float()
        self.count += len(x0)
        target = -number.unsqueeze(-1) if self.with_target else None
        return Noised(number.unsqueeze(-1), x0[:, 0] / 100, 2 * number, target)


def pool(loss, reuse, batches, condition=DATA):
    generator = torch.Generator().manual_seed(0)
    return NoisePool(loss, DATA, condition, batch_size=SIZE, batches=batches, reuse=reuse, generator=generator)


def uses(reuse, rounds):
    """Of each noised point, the rounds in which it was used."""
    batches = 64 * reuse * rounds
    loss = Numbered()
    source = pool(loss, reuse, batches)
    found = {}
    for i in range(batches):
        for number in source.draw()[0].x[:, 0].long().tolist():
            found.setdefault(number, []).append(i // (64 * reuse))
    assert loss.count == ROUND * rounds, "noise is drawn as often as the number of batches and of uses says"
    return found


def test_each_point_serves_one_batch():
    found = uses(1, 5)
    assert sorted(found) == list(range(5 * ROUND))
    assert all(rounds == [number // ROUND] for number, rounds in found.items())


@pytest.mark.parametrize("reuse", [2, 3])
def test_uses_are_rounds_apart(reuse):
    rounds, apart = 20, 4
    found = uses(reuse, rounds)
    for number, at in found.items():
        first = number // ROUND
        if apart * (reuse - 1) <= first < rounds - apart * (reuse - 1):
            assert at == [first + apart * k for k in range(reuse)]
        assert at[0] == first
        assert len(at) <= 2 * reuse - 1  # in the first rounds there is nothing else to use
    assert sum(map(len, found.values())) == rounds * ROUND * reuse


def test_a_batch_has_points_of_several_rounds():
    source = pool(Numbered(), 3, 64 * 3 * 12)
    for _ in range(64 * 3 * 10):
        source.draw()
    batches = [source.draw()[0].x[:, 0].long() // ROUND for _ in range(64)]
    assert {int(r) for batch in batches for r in batch} == {2, 6, 10}
    assert sum(len(batch.unique()) > 1 for batch in batches) > 60


@pytest.mark.parametrize("reuse", [1, 3])
@pytest.mark.parametrize("with_target", [True, False])
def test_what_belongs_to_a_point_stays_with_it(reuse, with_target):
    source = pool(Numbered(with_target), reuse, 64 * reuse * 10)
    for _ in range(64 * reuse * 10):
        noised, extra = source.draw()
        torch.testing.assert_close(extra["condition"][:, 0] / 100, noised.t)
        assert torch.equal(noised.weight, 2 * noised.x[:, 0])
        assert (noised.target is None) != with_target
        assert noised.target is None or torch.equal(noised.target, -noised.x)


def test_no_condition_and_few_batches():
    loss = Numbered()
    source = pool(loss, 3, 7, condition=None)
    drawn = [source.draw() for _ in range(7)]
    assert all(extra == {} for _, extra in drawn)
    assert loss.count == 3 * SIZE  # no more than seven batches need


def test_batches_repeat():
    first, again = (pool(Numbered(), 3, 600) for _ in range(2))
    for _ in range(600):
        assert torch.equal(first.draw()[0].x, again.draw()[0].x)


@pytest.mark.parametrize(("reuse", "batches"), [(1, 24), (3, 2)])
def test_no_more_is_held_than_fits(monkeypatch, reuse, batches):
    """Of three uses nine rounds are kept, and three are laid beside one another."""
    monkeypatch.setattr(module, "_NUMBERS", 24 * SIZE)
    loss = Numbered()
    pool(loss, reuse, 1000).draw()
    assert loss.count == batches * SIZE
