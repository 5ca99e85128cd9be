"""Pictures as control networks read them: ComfyUI's cut, its nearest pixels, any colours."""

import pytest
import torch

from executor.errors import InputError
from executor.models.control_picture import control_picture

ROW = torch.arange(8.0).reshape(1, 1, 8, 1)  # a grey picture of 8 pixels side by side


def test_its_middle_is_taken_and_its_nearest_pixels() -> None:
    # of 8 × 1 pixels the middle 2 × 1 have the wanted proportions, each becomes four
    found = control_picture(ROW, 2, 4, 1)
    assert found[0, 0].tolist() == [[3, 3, 4, 4]] * 2
    smaller = control_picture(ROW.expand(1, 4, 8, 1), 2, 4, 1)
    assert smaller[0, 0].tolist() == [[1, 3, 5, 7]] * 2


def test_grey_and_transparent_pictures_are_read_as_colours() -> None:
    generator = torch.Generator().manual_seed(1)
    colours = torch.rand(2, 8, 8, 4, generator=generator)
    assert torch.equal(control_picture(colours, 8, 8, 3), colours[..., :3].movedim(-1, 1))
    grey = control_picture(colours[..., :1], 8, 8, 3)
    assert grey.shape == (2, 3, 8, 8)
    assert torch.equal(grey, colours[..., 0][:, None].expand(-1, 3, -1, -1))


def test_a_network_of_one_channel_reads_the_mean_of_the_colours() -> None:
    colours = torch.tensor([0.0, 0.3, 0.9, 1.0]).expand(1, 8, 8, 4)
    found = control_picture(colours, 8, 8, 1)
    torch.testing.assert_close(found, torch.full((1, 1, 8, 8), 0.4))


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(InputError, match="has 1, 3 or 4 channels; this one has 2"):
        control_picture(torch.zeros(1, 8, 8, 2), 8, 8, 3)
