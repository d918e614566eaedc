import pytest
import torch
from torch import nn

from stylize.banks import BankCache


def make_banks(value: int) -> dict[str, torch.Tensor]:
    return {"site": torch.full((1, 4, 8), float(value))}  # 128 bytes


def test_a_bank_is_found_by_weights_latents_and_timestep_alone():
    cache, net = BankCache(1 << 20), nn.Linear(2, 2)
    latents, t = torch.zeros(1, 3), torch.tensor([5])
    first = cache.get(net, (latents,), t, lambda: make_banks(1))
    assert cache.get(net, (latents.clone(),), t.clone(), lambda: make_banks(2)) is first
    others = [
        (net, (latents + 1,), t),
        (net, (latents, latents), t),
        (net, (latents,), t + 1),
        (nn.Linear(2, 2), (latents,), t),
    ]
    for value, asked in enumerate(others, 3):
        found = cache.get(*asked, lambda value=value: make_banks(value))
        assert found["site"][0, 0, 0] == value
    assert cache.hits == 1


def test_changed_weights_are_other_weights():
    cache, net = BankCache(1 << 20), nn.Linear(2, 2)
    asked = (net, (torch.zeros(1),), torch.tensor([0]))
    cache.get(*asked, lambda: make_banks(1))
    before = net.weight.detach().clone()
    net.weight.data.add_(1)  # unseen by the version counter
    assert cache.get(*asked, lambda: make_banks(2))["site"].max() == 2
    net.weight.data = before  # as it was, in other memory
    assert cache.get(*asked, lambda: make_banks(3))["site"].max() == 1


@pytest.mark.parametrize("change", [torch.neg, lambda w: w.flip(0), lambda w: w.roll(1, 1)])
def test_a_change_that_keeps_the_norm_is_a_change(change):
    cache, net = BankCache(1 << 20), nn.Linear(8, 8)
    asked = (net, (torch.zeros(1),), torch.tensor([0]))
    cache.get(*asked, lambda: make_banks(1))
    net.weight.data = change(net.weight.data)
    assert cache.get(*asked, lambda: make_banks(2))["site"].max() == 2


def test_a_new_net_in_the_memory_of_an_old_one_is_another():
    cache, t = BankCache(1 << 20), torch.tensor([0])
    for value in range(8):
        net = nn.Linear(2048, 2048)
        found = cache.get(net, (torch.zeros(1),), t, lambda value=value: make_banks(value))
        assert found["site"].max() == value


def test_half_precision_weights_can_be_hashed():
    cache, net = BankCache(1 << 20), nn.Linear(2, 2).bfloat16()
    cache.get(net, (torch.zeros(1, dtype=torch.bfloat16),), torch.tensor([0]), dict)


def test_the_least_recently_used_go_first():
    cache, net, t = BankCache(2 * 128), nn.Linear(2, 2), torch.tensor([0])
    asked = [torch.full((1,), float(value)) for value in range(3)]
    for value in (0, 1, 0, 2):
        cache.get(net, (asked[value],), t, lambda value=value: make_banks(value))
    assert cache.bytes == 2 * 128
    computed = []
    for value in (0, 2, 1):
        cache.get(net, (asked[value],), t, lambda value=value: computed.append(value) or {})
    assert computed == [1]


def test_what_does_not_fit_is_not_kept():
    cache = BankCache(100)
    banks = cache.get(nn.Linear(2, 2), (torch.zeros(1),), torch.tensor([0]), lambda: make_banks(1))
    assert banks["site"].max() == 1
    assert cache.bytes == 0
