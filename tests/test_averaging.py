"""The exponential average of weights."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from constrained_diffusion.averaging import WeightAverage


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_as_torch_has_it():
    model = network()
    ours, torchs = WeightAverage(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(6):
        optimiser.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimiser.step()
        ours.update(0.9)
        torchs.update_parameters(model)
        for name, value in torchs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)
    assert not torch.equal(ours.module[0].weight, model[0].weight)
    assert int(ours.n_averaged) == 6


def test_the_first_update_is_the_weights_themselves():
    model = network()
    average = WeightAverage(model)
    with torch.no_grad():
        model[0].weight.add_(1.0)
    average.update(0.99)
    assert torch.equal(average.module[0].weight, model[0].weight)


def test_the_average_is_kept_and_read_again():
    model = network()
    average, again = WeightAverage(model), WeightAverage(model)
    with torch.no_grad():
        model[2].bias.add_(1.0)
    average.update(0.5)
    again.load_state_dict(average.state_dict())
    with torch.no_grad():
        model[2].bias.add_(1.0)
    for each in (average, again):
        each.update(0.5)
    assert torch.equal(average.module[2].bias, again.module[2].bias)
    torch.testing.assert_close(again.module[2].bias, model[2].bias - 0.5)
