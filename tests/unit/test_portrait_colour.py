import numpy as np
import pytest

from dpe_model.portrait.colour import lab_to_rgb, rgb_to_lab


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # published values of the sRGB primaries (D65)
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
    ],
)
def test_known_colours(rgb, lab):
    assert np.allclose(rgb_to_lab(np.array(rgb, np.float32)), lab, atol=0.02)


def test_round_trip():
    rgb = np.random.default_rng(0).uniform(size=(20, 20, 3)).astype(np.float32)
    assert np.allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-4)
