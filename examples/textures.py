"""Textures: patches of 8×8 pixels that GLOW generates, beside real ones and a Gaussian of the same mean and covariance.

The photographs come with scikit-image: pip install 'fieldtheory-learners[images]'. With the argument `quick` the fit is short.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import learners as ln

try:
    from skimage import data
except ImportError:
    sys.exit("The photographs come with scikit-image, which is not installed: pip install 'fieldtheory-learners[images]'.")

ZOOM = {"brick": 3, "grass": 1}  # pixels of the photograph, each way, in one of ours
N_STEPS = 60 if "quick" in sys.argv else 1200
COLORS = {"real": "0.3", "GLOW": "C1", "Gaussian": "C0"}
rng = np.random.default_rng(0)


def windows(name):
    """Patches to learn from and, without a pixel in common, patches to judge by; flat, with noise of one grey level."""
    photograph, n = getattr(data, name)().astype(float), ZOOM[name]
    height, width = photograph.shape[0] // n, photograph.shape[1] // n
    image = photograph[: height * n, : width * n].reshape(height, n, width, n).mean(axis=(1, 3))
    border = 3 * width // 4
    return cut(image[:, :border]), cut(image[:, border:])


def cut(image):
    """At most 20,000 patches. Grey levels become continuous numbers: without noise their density is infinite."""
    x = rng.permutation(np.lib.stride_tricks.sliding_window_view(image, (8, 8)).reshape(-1, 64))[:20_000]
    return (x + rng.uniform(size=x.shape)) / 256


def show(ax, x, title, darkest, brightest):
    """64 patches as a square."""
    tiles = np.pad(x[:64].reshape(8, 8, 8, 8), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    ax.imshow(tiles.transpose(0, 2, 1, 3).reshape(72, 72)[:-1, :-1], cmap="gray", vmin=darkest, vmax=brightest)
    ax.set_title(title)
    ax.set_axis_off()


def steps_between_pixels(x):
    """Differences of neighbours in a row: of a Gaussian they are Gaussian."""
    return np.diff(x.reshape(-1, 8, 8), axis=2).ravel()


figure = Figure(figsize=(13, 6), layout="constrained")
for row, name in zip(figure.subplots(2, 4), ZOOM):
    x, held_out = windows(name)
    mean, covariance = x.mean(axis=0), np.cov(x.T)
    flow = ln.Glow((1, 8, 8)).fit(x, n_steps=N_STEPS, seed=0)
    z = np.linalg.solve(np.linalg.cholesky(covariance), (held_out - mean).T)
    gaussian = 0.5 * (np.square(z).sum(axis=0).mean() + np.linalg.slogdet(2 * np.pi * covariance)[1])
    print(f"{name}: held-out nats per dimension {-flow.log_prob(held_out).mean() / 64:.3f}, of the Gaussian {gaussian / 64:.3f}")

    patches = {"real": held_out[:5000], "GLOW": flow.sample(5000, seed=1), "Gaussian": rng.multivariate_normal(mean, covariance, 5000)}
    shades, unit = np.quantile(held_out, (0.005, 0.995)), steps_between_pixels(held_out).std()
    for ax, (label, shown) in zip(row, patches.items()):
        show(ax, shown, f"{name}, {label}", *shades)
        row[3].hist(steps_between_pixels(shown) / unit, np.linspace(-6, 6, 61), density=True, histtype="step", lw=1.5, log=True,
                    color=COLORS[label], label=label)
    row[3].set(xlabel="difference of neighbouring pixels (σ)", ylabel="density", ylim=(1e-4, 4))
    row[3].legend(frameon=False)
figure.savefig("textures.png", dpi=150)
print("picture: textures.png")
