"""The flow between latent vectors of music and normal ones."""

from __future__ import annotations

import pytest
import torch

from tritone_training.bars.latent_flow import LatentFlow, negative_log_likelihood

N_LATENT = 7


def correlated(n: int, seed: int = 0) -> torch.Tensor:
    """Vectors that are far from normal: two clusters with correlated coordinates."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(n, N_LATENT, generator=generator)
    first[:, 1] = 0.9 * first[:, 0] + 0.1 * first[:, 1]
    sign = torch.randint(0, 2, (n, 1), generator=generator) * 2 - 1
    return 3 + first * 0.5 + 2 * sign


@pytest.fixture
def flow() -> LatentFlow:
    """A flow that is not the identity."""
    torch.manual_seed(0)
    flow = LatentFlow(N_LATENT, width=8, n_couplings=3)
    flow.fit_components(correlated(500))
    flow.temperature.fill_(0.8)
    for coupling in flow.couplings:
        torch.nn.init.normal_(coupling.layers[-1].weight, std=0.3)
    return flow.requires_grad_(False)


def test_the_inverse_returns_the_latent_vectors(flow: LatentFlow) -> None:
    latent = correlated(50, seed=1)
    normal, _ = flow(latent)
    assert not torch.allclose(normal, latent)
    torch.testing.assert_close(flow.inverse(normal), latent, atol=1e-4, rtol=1e-4)


def test_a_new_flow_changes_nothing() -> None:
    flow = LatentFlow(N_LATENT, width=8, n_couplings=3)
    latent = correlated(5)
    normal, log_determinant = flow(latent)
    assert torch.equal(normal, latent)
    assert torch.equal(flow.inverse(latent), latent)
    assert not log_determinant.any()


def test_the_determinant_is_that_of_the_jacobian(flow: LatentFlow) -> None:
    latent = correlated(4, seed=2)
    _, log_determinant = flow(latent)
    for row, ours in zip(latent, log_determinant, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: flow(x[None])[0][0], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, ours, atol=1e-4, rtol=1e-4)


def test_principal_components_make_correlated_vectors_independent() -> None:
    flow = LatentFlow(N_LATENT, width=8, n_couplings=0)
    latent = correlated(2_000)
    flow.fit_components(latent)
    normal, _ = flow(latent)
    torch.testing.assert_close(normal.mean(0), torch.zeros(N_LATENT), atol=1e-3, rtol=0)
    torch.testing.assert_close(normal.T @ normal / len(normal), torch.eye(N_LATENT), atol=1e-2, rtol=0)


def test_a_lower_temperature_makes_samples_more_typical(flow: LatentFlow) -> None:
    normal = torch.randn(200, N_LATENT, generator=torch.Generator().manual_seed(0))
    wide = flow.inverse(normal)
    flow.temperature.fill_(0.4)
    narrow = flow.inverse(normal)
    assert negative_log_likelihood(flow, narrow).mean() < negative_log_likelihood(flow, wide).mean()


def test_variances_are_those_of_draws_without_couplings() -> None:
    torch.manual_seed(0)
    flow = LatentFlow(N_LATENT, width=8, n_couplings=0)
    flow.fit_components(torch.randn(500, N_LATENT) * torch.linspace(0.5, 2, N_LATENT))
    flow.temperature.fill_(0.5)
    mean, log_variance = torch.ones(1, N_LATENT), torch.linspace(-4, 0, N_LATENT)[None]
    draws, _ = flow(mean + torch.randn(20_000, N_LATENT) * torch.exp(0.5 * log_variance))
    normal_mean, normal_log_variance = flow.normalised(mean, log_variance)
    torch.testing.assert_close(draws.mean(0), normal_mean[0], atol=0.05, rtol=0.02)
    torch.testing.assert_close(draws.var(0).log(), normal_log_variance[0], atol=0.05, rtol=0.02)


def test_training_raises_the_likelihood_of_held_out_vectors() -> None:
    """Principal components know no curves: mean and variance of some coordinates depend on another."""

    def curved(n: int) -> torch.Tensor:
        x = torch.randn(n, N_LATENT)
        x[:, 1:4] = x[:, 1:4] * torch.exp(x[:, :1]) + 2 * x[:, :1] ** 2
        return x

    torch.manual_seed(0)
    flow = LatentFlow(N_LATENT, width=32, n_couplings=4)
    latent, held_out = curved(2_000), curved(500)
    flow.fit_components(latent)
    before = negative_log_likelihood(flow, held_out).mean().item()
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        negative_log_likelihood(flow, latent[torch.randint(0, len(latent), (128,))]).mean().backward()
        optimizer.step()
    assert negative_log_likelihood(flow, held_out).mean().item() < before - 1
