"""Held-out nats per dimension and training steps per second beside zuko's NICE and RealNVP and normflows' GLOW.

    pip install --no-deps zuko normflows scikit-image lazy_loader imageio tifffile
    python -m pytest -m benchmark -s tests/benchmarks/test_flow_quality.py

Peers go through the same loop: the same whitened samples, optimizer, schedule, batches, validation and choice of the best weights. They
have at least as many weights. Data: handwritten digits with uniform noise of one grey level (64 pixels), textures as 8×8 patches, of which
the right quarter of the image is held out, and φ⁴ on lattices.
"""

import math
import time
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import fieldtheory as ft
from learners import NICE, Glow, QuadraticFlow, RealNVP
from learners.fit import Training
from learners.samples import HeldSamples

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]

SEEDS = (0, 1)
N_LAYERS, HIDDEN = 6, 64


@cache
def digits():
    from sklearn.datasets import load_digits

    rng, x = np.random.default_rng(0), load_digits().data
    x = (rng.permutation(x) + rng.uniform(size=x.shape)) / 17
    return x[:1400], x[1400:]


@cache
def texture(name):
    image, rng = getattr(pytest.importorskip("skimage.data"), name)().astype(float), np.random.default_rng(0)

    def patches(region, stride):
        windows = np.lib.stride_tricks.sliding_window_view(region, (8, 8))[::stride, ::stride].reshape(-1, 64)
        return (windows + rng.uniform(size=windows.shape)) / 256

    return patches(image[:, :376], 3), patches(image[:, 384:], 8)


@cache
def lattice(shape, coupling):
    theory = ft.theories.from_text(f"phi4:shape={shape},mass_squared=1,coupling={coupling}")
    return tuple(ft.sample(theory, n, seed=seed, n_chains=8) for seed, n in enumerate((20_000, 10_000)))


DATA = {"digits": digits, "brick": lambda: texture("brick"), "grass": lambda: texture("grass"), "φ⁴ 3×3": lambda: lattice("3x3", 4),
        "φ⁴ 8×8": lambda: lattice("8x8", 1)}


class Peer(nn.Module):
    """Somebody else's flow behind one name."""

    def __init__(self, inner, log_prob):
        super().__init__()
        self.inner, self._log_prob = inner, log_prob

    def log_prob(self, x):
        return self._log_prob(self.inner, x)


def zuko_flow(n, additive=False):
    """Affine coupling layers, or additive ones and the diagonal scaling that belongs to NICE."""
    zuko = pytest.importorskip("zuko")
    options = {"univariate": zuko.transforms.AdditiveTransform, "shapes": [()]} if additive else {}
    flow = zuko.flows.NICE(n, transforms=N_LAYERS, hidden_features=(HIDDEN, HIDDEN), activation=nn.Tanh, **options)
    if additive:
        scaling = zuko.flows.ElementWiseTransform(n)
        nn.init.zeros_(scaling.phi[0])
        nn.init.zeros_(scaling.phi[1])
        flow = zuko.flows.Flow([*flow.transform.transforms, scaling], flow.base)
    return Peer(flow, lambda flow, x: flow().log_prob(x))


def normflows_glow(n_scales, hidden=32, n_layers=4, unit=None):
    """As in the examples of normflows, for 1×8×8 images; its activations are rectified unless a unit is given."""
    nf = pytest.importorskip("normflows")
    flows, merges, bases = [], [], []
    for level in range(n_scales):
        channels = 2 ** (n_scales + 1 - level)
        flows.append([*(nf.flows.GlowBlock(channels, hidden, split_mode="channel") for _ in range(n_layers)), nf.flows.Squeeze()])
        merges += [nf.flows.Merge()] if level else []
        size = 8 // 2 ** (n_scales - level)
        bases.append(nf.distributions.DiagGaussian((channels // 2 if level else channels, size, size)))
    flow = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)
    for network in (m for m in flow.modules() if unit and isinstance(m, nf.nets.ConvNet2d)):
        network.net = nn.Sequential(*(unit() if isinstance(m, nn.LeakyReLU) else m for m in network.net))
    return Peer(flow, lambda flow, x: flow.log_prob(x.unflatten(1, (1, 8, 8)), None))


def normflows_real_nvp(n):
    nf = pytest.importorskip("normflows")
    flows, maps = [], [((n + 1) // 2, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, n // 2 * 2)]
    for _ in range(N_LAYERS):
        network = nn.Sequential(*(part for sizes in maps for part in (nn.Linear(*sizes), nn.Tanh())))[:-1]
        flows += [nf.flows.AffineCouplingBlock(network, scale_map="exp"), nf.flows.Permute(n, mode="swap")]
    return Peer(nf.NormalizingFlow(nf.distributions.DiagGaussian(n, trainable=False), flows), lambda flow, x: flow.log_prob(x))


def size(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def no_larger(make, largest):
    """Our flow with as many hidden units as its number of weights allows."""
    return next(flow for flow in map(make, range(HIDDEN, 0, -1)) if size(flow) <= largest)


def losses_of_peer(make, whitening, data, seed, settings):
    """−ln p per dimension of the held-out points; actnorms adapt to the first thousand points, as ours do."""
    W, n = whitening(HeldSamples(data[0]).covariance), data[0].shape[1]
    log_det, inside = np.linalg.slogdet(W)[1], [(x - data[0].mean(axis=0)) @ W.T for x in data]
    torch.manual_seed(seed)
    peer = make()
    with torch.no_grad():
        peer.log_prob(torch.as_tensor(inside[0][:1024], dtype=torch.float32))
    training = Training.of_modules(lambda m, x: -(m.log_prob(x).mean() + log_det) / n, [peer], inside[0], seed=seed, **settings)
    training.run()
    with torch.no_grad():
        for name, value in training.best()[0].items():
            peer.get_parameter(name).copy_(value)
        return -(peer.log_prob(torch.as_tensor(inside[1], dtype=torch.float32)).double().numpy() + log_det) / n


def losses_of_ours(make, data, seed, settings):
    flow = make().fit(data[0], seed=seed, **settings)
    return -flow.log_prob(data[1]) / data[0].shape[1]


def compare(name, ours, peer, make_peer, whitening, data, **settings):
    """Print both and the difference, whose error holds the scatter over held-out points and that over seeds."""
    settings = {"precision": "float32", "batch_size": 256, **settings}
    theirs = np.array([losses_of_peer(make_peer, whitening, data, seed, settings) for seed in SEEDS])
    mine = np.array([losses_of_ours(ours, data, seed, settings) for seed in SEEDS])
    difference = mine - theirs
    error = math.hypot(difference.mean(axis=0).std() / math.sqrt(len(data[1])), difference.mean(axis=1).std(ddof=1) / math.sqrt(len(SEEDS)))
    print(f"{name:<34} {mine.mean():>9.4f} ({size(ours()):>6,} weights)  {peer} {theirs.mean():>9.4f} ({size(make_peer()):>6,})  "
          f"difference {difference.mean():>+8.4f} ± {error:.4f}")
    return difference.mean(), error


@pytest.mark.parametrize("name", ["digits", "brick", "grass", "φ⁴ 3×3"])
def test_nice_and_real_nvp_are_no_worse_than_those_of_zuko(name):
    """The difference may exceed zero by 3 errors: per comparison a false alarm of 1e-3, were the errors normal."""
    data, settings = DATA[name](), {"n_steps": 1200, "learning_rate": 1e-3 if name == "digits" else 3e-3}
    n, whitening = data[0].shape[1], NICE(2)._whitening
    limit = size(zuko_flow(n))
    print(f"\n{name}: nats per dimension on {len(data[1]):,} held-out points after {settings['n_steps']:,} steps, ours and zuko's")
    for ours, make, peer in (
        ("NICE", lambda: NICE(n, N_LAYERS, (HIDDEN, HIDDEN)), lambda: zuko_flow(n, additive=True)),
        ("RealNVP without mixing", lambda: RealNVP(n, N_LAYERS, (HIDDEN, HIDDEN), mix=False), lambda: zuko_flow(n)),
        ("RealNVP, fewer hidden units", lambda: no_larger(lambda h: RealNVP(n, N_LAYERS, (h, h)), limit), lambda: zuko_flow(n)),
    ):
        difference, error = compare(ours, make, "zuko", peer, whitening, data, **settings)
        assert difference < 3 * error


@pytest.mark.parametrize("name", ["digits", "brick", "grass", "φ⁴ 8×8"])
def test_glow_is_no_worse_than_that_of_normflows(name):
    data = DATA[name]()
    limit = size(normflows_glow(2))
    print(f"\n{name}: nats per dimension on {len(data[1]):,} held-out points after 500 steps, ours and normflows'")
    difference, error = compare("GLOW of two scales", lambda: no_larger(lambda h: Glow((1, 8, 8), n_layers=4, hidden=h, n_scales=2), limit),
                                "normflows", lambda: normflows_glow(2), Glow(n_dim=2)._whitening, data, n_steps=500,
                                learning_rate=3e-3 if name == "digits" else 1e-2)
    assert difference < 3 * error


def seconds_per_step(steps, n_steps):
    """CPU time of each, the least of five runs that take turns, so that whatever slows the machine meets them all."""
    times = np.empty((5, len(steps)))
    for row, column in np.ndindex(times.shape):
        began = time.process_time()
        for _ in range(n_steps):
            steps[column]()
        times[row, column] = (time.process_time() - began) / n_steps
    return times.min(axis=0)


def our_step(flow, x):
    training, _ = flow._prepared(HeldSamples(x), [np.random.default_rng(0)], **{**flow.recipe, "batch_size": 256})
    batches = training.batches.after(0)
    return lambda: training._advance(next(batches))


def peer_step(peer, x):
    """As their tutorials train."""
    optimizer, x = torch.optim.Adam(peer.parameters(), 1e-3), torch.as_tensor(x, dtype=torch.float32)
    rng = np.random.default_rng(0)

    def step():
        batch = x[torch.from_numpy(rng.integers(len(x), size=256))]
        optimizer.zero_grad()
        (-peer.log_prob(batch).mean()).backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("n", [6, 64])
def test_steps_per_second_of_real_nvp(n):
    """The same layers, units, batch and optimizer, float32, one thread."""
    torch.set_num_threads(1)
    x = np.random.default_rng(0).normal(size=(5000, n))
    flow = RealNVP(n, N_LAYERS, (HIDDEN, HIDDEN), mix=False)
    steps = our_step(flow, x), peer_step(zuko_flow(n), x), peer_step(normflows_real_nvp(n), x)
    mine, zuko, nf = seconds_per_step(steps, 100)
    print(f"\nRealNVP, {n} variables: {1 / mine:.0f} steps/s; {zuko / mine:.2f} × zuko, {nf / mine:.2f} × normflows")
    assert zuko / mine >= 1
    assert nf / mine >= 1


def test_steps_per_second_of_glow():
    """Eight steps of flow at one scale, 32 hidden channels, SiLU in both."""
    torch.set_num_threads(1)
    x = np.random.default_rng(0).normal(size=(5000, 64))
    ours, theirs = Glow((1, 8, 8), n_layers=8, hidden=32, n_scales=1, unit="silu"), normflows_glow(1, n_layers=8, unit=nn.SiLU)
    mine, nf = seconds_per_step((our_step(ours, x), peer_step(theirs, x)), 25)
    print(f"\nGLOW, 1×8×8: {1 / mine:.0f} steps/s; {nf / mine:.2f} × normflows")
    assert nf / mine >= 1


def test_ten_thousand_steps_of_a_quadratic_flow():
    """Four layers, five variables, batches of 256, float64: at most 10 s of CPU time, validation and the whitening included."""
    x = np.random.default_rng(0).normal(size=(20_000, 5))
    began = time.process_time()
    QuadraticFlow(5, 4).fit(x, n_steps=10_000, batch_size=256)
    spent = time.process_time() - began
    print(f"\n10,000 steps of a quadratic flow: {spent:.1f} s")
    assert spent <= 10
