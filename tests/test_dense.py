"""Dense encoders: against NumPy, by hand and by their properties."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from torchrec_mtl.dense import DenseEncoder, QuantileEncoder
from torchrec_mtl.testing.modules import every_subclass, started_on_meta

SAMPLES = arrays(np.float32, st.tuples(st.integers(1, 40), st.just(2)), elements=st.floats(-100, 100, width=32))


def fitted(sample, **arguments):
    encoder = QuantileEncoder(sample.shape[1], **arguments)
    encoder.fit(sample)
    return encoder


@pytest.mark.parametrize("encoder_class", every_subclass(DenseEncoder))
def test_every_encoder_keeps_its_statistics_in_its_state(encoder_class):
    sample = np.random.default_rng(0).exponential(size=(200, 3))
    first, second = encoder_class(3), encoder_class(3)
    first.fit(sample)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    rows = torch.randn(5, 3)
    assert first(rows).shape == (5, first.out_features)
    assert first(rows[:0]).shape == (0, first.out_features)
    assert torch.equal(first(rows), second(rows))
    assert not torch.equal(first(rows), encoder_class(3)(rows)), "fitting must matter"


@pytest.mark.parametrize("encoder_class", every_subclass(DenseEncoder))
@pytest.mark.parametrize("fitted_before", [False, True])
def test_every_encoder_may_be_built_on_meta(encoder_class, fitted_before):
    def make():
        encoder = encoder_class(3)
        if fitted_before:
            encoder.fit(np.random.default_rng(0).exponential(size=(200, 3)))
        return encoder

    rows = torch.randn(5, 3)
    assert torch.equal(started_on_meta(make)(rows), make()(rows))


def test_by_hand():
    # quantiles at 0, 1/2 and 1 of 0, 1, 10: the values themselves; mean 11/3, deviation sqrt(182/9)
    encoded = fitted(np.array([[0.0], [1.0], [10.0]]), quantiles=3)(torch.tensor([[-5.0], [0.5], [1.0], [5.5], [99.0]]))
    # places q: below 0; a quarter; the median; half-way to the top: 3/4; above 1
    expected = np.sqrt(3) * (2 * np.array([0, 0.25, 0.5, 0.75, 1]) - 1)
    np.testing.assert_allclose(encoded[:, 1], expected, rtol=1e-6)
    np.testing.assert_allclose(encoded[:, 0], (np.array([-5, 0.5, 1, 5.5, 99]) - 11 / 3) / np.sqrt(182 / 9), rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(sample=SAMPLES, rows=SAMPLES)
@example(sample=np.float32([[-2e-16, 0], [2e-16, 0], [2e-16, 1e-38], [2e-16, 0]]), rows=np.zeros((1, 2), np.float32))
def test_against_numpy(sample, rows):
    places = fitted(sample, quantiles=9)(torch.from_numpy(rows))[:, 2:].numpy()
    for j in range(2):
        knots = np.unique(np.quantile(sample[:, j].astype(np.float64), np.linspace(0, 1, 9)).astype(np.float32))
        if len(knots) == 1:
            np.testing.assert_array_equal(places[:, j], 0)
            continue
        expected = np.interp(rows[:, j], knots, np.linspace(0, 1, len(knots)))
        np.testing.assert_allclose(places[:, j], np.sqrt(3) * (2 * expected - 1), atol=2e-3)


@settings(deadline=None, max_examples=60)
@given(sample=SAMPLES, rows=SAMPLES)
def test_places_rise_with_the_value_and_stay_bounded(sample, rows):
    rows = np.sort(rows, axis=0)
    places = fitted(sample)(torch.from_numpy(rows))[:, 2:].numpy()
    assert np.isfinite(places).all()
    assert np.abs(places).max() <= np.sqrt(3) + 1e-5
    assert (np.diff(places, axis=0) >= -1e-5).all()


def test_a_uniform_place_has_mean_zero_and_variance_one():
    sample = np.random.default_rng(0).lognormal(size=(20_000, 1))
    place = fitted(sample)(torch.from_numpy(sample).float())[:, 1]
    assert abs(float(place.mean())) < 0.02
    assert float(place.var()) == pytest.approx(1, abs=0.02)


def test_a_constant_feature_is_harmless():
    encoded = fitted(np.full((10, 1), 7.0))(torch.tensor([[7.0], [8.0]]))
    assert encoded.isfinite().all()
    assert encoded[0].tolist() == [0, 0]


@pytest.mark.parametrize("sample", [np.zeros((0, 2)), np.zeros((3, 1)), np.array([[1.0, np.nan]]), np.zeros(2)])
def test_a_sample_that_does_not_fit(sample):
    with pytest.raises(ValueError, match=r"expected finite numbers of shape \[N, 2\] with N > 0, but found shape"):
        QuantileEncoder(2).fit(sample)


def test_too_few_quantiles():
    with pytest.raises(ValueError, match="quantiles must be at least 2, but found 1"):
        QuantileEncoder(2, quantiles=1)
