"""States on disk: what the lower layers give, whatever was killed on the way."""

import pytest
import torch
from cut_models import CONFIG, cut, make_model

from msd_models.stored_states import store_states
from msd_models.upper_layers import LowerLayers, with_upper_adapters

IDS = [[number % 31 + 1] * (2 + number * 7 % 13) for number in range(80)]


class Killed(Exception):
    """Stands for a process that ends."""


class Counted(LowerLayers):
    """Counts forward passes and ends after some."""

    def __init__(self, lower, limit=10**9):
        self.__dict__.update(lower.__dict__)
        self.calls, self.limit = 0, limit

    def __call__(self, ids_BT):
        if self.calls == self.limit:
            raise Killed
        self.calls += 1
        return super().__call__(ids_BT)


def lower_layers(dtype=torch.float32):
    model = with_upper_adapters(make_model(), CONFIG).to(dtype)
    return cut(model, 1, "last")[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_text_is_read_as_the_lower_layers_gave_it(tmp_path, dtype):
    lower = lower_layers(dtype)
    states = store_states(IDS, lower, tmp_path, 50)
    states_BTD, lengths_B = states.read(torch.tensor([7, 2, 40]))
    assert states_BTD.dtype is dtype
    for place, text in enumerate((7, 2, 40)):
        wanted_TD = lower(torch.tensor([IDS[text]]))[0]
        assert lengths_B[place] == len(IDS[text])
        # Padding beside a text changes the last digits of its matrix products.
        tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
        torch.testing.assert_close(states_BTD[place, : lengths_B[place]], wanted_TD, atol=tolerance, rtol=tolerance)


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    lower = lower_layers()
    wanted = store_states(IDS, lower, tmp_path / "whole", 20)
    whole = Counted(lower)
    store_states(IDS, whole, tmp_path / "counted", 20)
    assert whole.calls > 40
    with pytest.raises(Killed):
        store_states(IDS, Counted(lower, limit=40), tmp_path / "killed", 20)
    rest = Counted(lower)
    found = store_states(IDS, rest, tmp_path / "killed", 20)
    assert 0 < rest.calls < whole.calls
    torch.testing.assert_close(found.states_SD, wanted.states_SD, atol=0, rtol=0)
    again = Counted(lower)
    store_states(IDS, again, tmp_path / "killed", 20)
    assert again.calls == 0


def test_other_texts_start_anew(tmp_path):
    lower = lower_layers()
    store_states(IDS, lower, tmp_path, 50)
    other = [[1, 2, 3], [4, 5]]
    found, _ = store_states(other, lower, tmp_path, 50).read(torch.tensor([1]))
    torch.testing.assert_close(found[0, :2], lower(torch.tensor([[4, 5]]))[0], atol=1e-5, rtol=1e-5)
