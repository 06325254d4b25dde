"""Flows trained with other packages become actions too.

Run where they are installed, by pip install --no-deps zuko normflows nflows FrEIA; skipped elsewhere.
"""

from math import factorial

import numpy as np
import pytest
import torch
from torch import nn

import learners as ln
from fieldtheory.errors import InputError
from learners.conversion.model import as_model


def crescent(n):
    """Samples of a bent Gaussian in three variables."""
    z = np.random.default_rng(0).normal(size=(n, 3))
    return np.column_stack([z[:, 0], 0.6 * z[:, 1] + 0.4 * z[:, 0] ** 2, 0.8 * z[:, 2] - 0.3 * z[:, 0]])


def trained(module, loss, n_steps=150):
    x, optimizer = torch.tensor(crescent(2000), dtype=torch.float32), torch.optim.Adam(module.parameters(), 1e-2)
    for step in range(n_steps):
        optimizer.zero_grad()
        loss(module, x[torch.randint(len(x), (256,), generator=torch.Generator().manual_seed(step))]).backward()
        optimizer.step()
    return module


def zuko_flow(kind, **options):
    zuko = pytest.importorskip("zuko")
    torch.manual_seed(0)
    module = getattr(zuko.flows, kind)(features=3, transforms=2, hidden_features=(12,), **options)
    return trained(module, lambda flow, x: -flow().log_prob(x).mean())


def normflows_real_nvp(unit=nn.Tanh):
    nf = pytest.importorskip("normflows")
    torch.manual_seed(0)
    layers = []
    for i in range(4):
        mask = torch.tensor([float((i + j) % 2) for j in range(3)])
        scale, shift = (nn.Sequential(nn.Linear(3, 12), unit(), nn.Linear(12, 3)) for _ in range(2))
        layers += [nf.flows.MaskedAffineFlow(mask, shift, scale), nf.flows.ActNorm(3)]
    return trained(nf.NormalizingFlow(nf.distributions.base.DiagGaussian(3), layers), lambda flow, x: flow.forward_kld(x))


def nflows_maf():
    pytest.importorskip("nflows")
    from nflows import distributions, flows, transforms

    torch.manual_seed(0)
    steps = [transforms.MaskedAffineAutoregressiveTransform(3, 12, num_blocks=1, activation=torch.tanh), transforms.ReversePermutation(3)]
    flow = flows.Flow(transforms.CompositeTransform(steps), distributions.StandardNormal([3]))
    return trained(flow, lambda flow, x: -flow.log_prob(x).mean())


def freia_density():
    """FrEIA's networks give (z, ln|det|); the density is written down on top."""
    pytest.importorskip("FrEIA")
    from FrEIA.framework import SequenceINN
    from FrEIA.modules import AllInOneBlock

    torch.manual_seed(0)
    inn = SequenceINN(3)
    for _ in range(2):
        inn.append(AllInOneBlock, subnet_constructor=lambda a, b: nn.Sequential(nn.Linear(a, 12), nn.Tanh(), nn.Linear(12, b)))

    def log_prob(inn, x):
        z, log_det = inn(x)
        return -0.5 * z.square().sum(1) - 1.5 * np.log(2 * np.pi) + log_det

    trained(inn, lambda inn, x: -log_prob(inn, x).mean()).double().requires_grad_(False)
    return lambda x: log_prob(inn, x)


SMOOTH = {"zuko MAF": lambda: zuko_flow("MAF", activation=nn.Tanh), "normflows RealNVP": normflows_real_nvp, "nflows MAF": nflows_maf,
          "FrEIA": freia_density}
KINKED = {"zuko NSF": (lambda: zuko_flow("NSF", activation=nn.Tanh), "MonotonicRQSTransform"),
          "zuko MAF": (lambda: zuko_flow("MAF"), "ReLU"),
          "normflows RealNVP": (lambda: normflows_real_nvp(nn.ReLU), "ReLU")}


# zuko bounds log-scales by x/(1 + |x|/c), whose second derivative jumps at 0
@pytest.mark.filterwarnings("ignore:ln p should be smooth")
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_flows_convert_by_taylor(name):
    """Against nested derivatives by reverse mode in float64, order 3; and the density is the package's own."""
    module, at = SMOOTH[name](), np.array([0.2, -0.1, 0.3])
    S, model = ln.to_action(module, 4, at=at), as_model(module, 3)
    assert (S.gauge, S.order, model.kinks) == ("taylor", 4, ())

    def function(x):
        return model._log_prob(x[None])[0]

    x = torch.as_tensor(at)
    for k in range(4):
        expected = function(x).detach().numpy() / factorial(k)
        found = S.couplings[k].dense() if k else S[()]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * (1 + np.abs(expected).max()))
        function = torch.func.jacrev(function)
    near = at + 1e-2 * np.random.default_rng(1).normal(size=(5, 3))
    np.testing.assert_allclose(S(near), model.log_prob(near), atol=1e-7)
    found = ln.certify(S, module, crescent(500))
    near = crescent(20_000)
    near = near[np.linalg.norm(near - at, axis=1) < 0.4]
    assert ln.certify(S, module, near).explained[4] > 0.99
    assert found.log_integral is None or abs(found.log_integral[0]) < 5 * found.log_integral[1] + 0.01


@pytest.mark.parametrize("name", KINKED)
def test_flows_with_kinks_convert_by_averages(name):
    """Refused by Taylor with the unit named; the two averages explain what the flow has learned."""
    make, unit = KINKED[name]
    module = make()
    with pytest.raises(InputError, match=f"units with kinks, {unit}"):
        ln.to_action(module, method="taylor")
    projected = ln.to_action(module, 3, method="projection", n_samples=4000)
    averaged = ln.to_action(module, 3, method="normal_ordered", n_points=20_000, samples=crescent(2000))
    assert (projected.gauge, averaged.gauge) == ("projection", "normal_ordered")
    found = ln.certify(projected, module, crescent(500))
    assert found.score_residual[3] < found.score_residual[2] < 1
