import numpy as np
import pytest
import torch

from bench.accuracy.data.normalisation import Normalisation, fitted, value_counts


@pytest.fixture
def pixels():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2100, 3, 4, 5), dtype=np.uint8))


def test_uint8_pixels_come_out_with_mean_0_and_deviation_1(pixels):
    out = fitted(pixels)(pixels).double()
    assert out.mean((0, 2, 3)).abs().max() < 1e-6
    assert (out.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_mean_and_deviation_are_exact(pixels):
    normalisation, values = fitted(pixels), pixels.double().numpy() / 255
    np.testing.assert_allclose(normalisation.mean, values.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(normalisation.std, values.std((0, 2, 3)), rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floating_pixels_are_taken_as_they_are(pixels, dtype):
    values = (pixels.double() / 100 + 7).to(dtype)
    normalisation = fitted(values)
    np.testing.assert_allclose(normalisation.mean, values.double().numpy().mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(normalisation.std, values.double().numpy().std((0, 2, 3)), rtol=1e-12)
    out = normalisation(values)
    assert out.dtype == torch.float32
    assert out.double().mean().abs() < 1e-5


def test_one_image_by_hand():
    out = Normalisation((0.5, 0.2), (0.25, 0.1), 255)(torch.tensor([[[[255]], [[51]]]], dtype=torch.uint8))
    torch.testing.assert_close(out, torch.tensor([[[[2.0]], [[0.0]]]]), atol=1e-6, rtol=0)


def test_a_channel_that_never_varies_is_centred():
    pixels = torch.full((3, 1, 2, 2), 9, dtype=torch.uint8)
    assert fitted(pixels)(pixels).abs().max() < 1e-6
    assert "mean 0.0352941, standard deviation 0 of pixels / 255, here" in fitted(pixels).described("here")


def test_values_are_counted_by_channel():
    counts = value_counts(torch.tensor([[[[0, 255]], [[7, 7]]]], dtype=torch.uint8))
    assert counts.shape == (2, 256)
    assert counts[0, [0, 255]].tolist() == [1, 1]
    assert counts[1, 7] == 2
    assert counts.sum() == 4
