"""The prediction: losses, divergences and convergence against the number of samples per half.

From a known spectrum the averages are those of `spectrum.Population` with the next order in 1/n. From samples they are transferred
(`transfer.Transferred`), with the fluctuation of the samples' norms calibrated inside the data (`split_half`); the intervals are
95 %, from a delete-group jackknife over the samples together with the error of the calibration.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from xarray import Dataset

from ..arrays import Columns, as_count, as_samples
from ..errors import InputError, RegimeWarning
from ..schedule import NoiseSchedule
from .convergence import convergence as convergence_at
from .convergence import convergence_stochastic
from .kullback_leibler import kl_exact, kl_with_ridge
from .losses import total_losses
from .norms import NormFluctuations
from .spectrum import Population
from .split_half import calibrate
from .transfer import Transferred

_GROUPS = 10
_Z95 = 1.959964
_LARGEST_N = 1e9
_SAMPLERS = ("probability_flow", "stochastic")


@dataclass(frozen=True)
class SamplesNeeded:
    """N per half at which two learners reach a convergence.

    Attributes
    ----------
    n_samples, low, high : float
        The number and a 95 % interval; equal for a known spectrum. inf where the samples given cannot tell.
    convergence : float
    beyond : float
        N up to which the samples given can tell.
    """

    n_samples: float
    low: float
    high: float
    convergence: float
    beyond: float = np.inf

    def __str__(self) -> str:
        if not np.isfinite(self.n_samples):
            return f"more than {self.beyond:.0f}"
        if self.low == self.high:
            return f"{self.n_samples:.0f}"
        return f"{self.n_samples:.0f} ({self.low:.0f} … {self.high:.0f})"

    def summary(self) -> dict:
        """The numbers as plain floats."""
        return {"n_samples": self.n_samples, "low": self.low, "high": self.high, "convergence": self.convergence}


class _FromSpectrum:
    """A known spectrum: values without intervals."""

    def __init__(self, spectrum, ridge: float):
        self.curve, self.ridge = Population(spectrum), ridge
        self.n_dim, self.dropped, self.largest, self.next_order = self.curve.n_dim, (), np.inf, True

    def evaluate(self, function: Callable, transform, inverse) -> tuple:
        value = function(self.curve)
        return value, None, None

    def divergences(self, N: int, mean_known: bool) -> tuple[float, float]:
        if self.ridge:
            return kl_with_ridge(self.curve, N, self.ridge, mean_known)
        return kl_exact(self.curve.n_dim, N, mean_known)


class _FromSamples:
    """One data set: values with jackknife intervals."""

    def __init__(self, samples, ridge: float, seed: int):
        samples = as_samples(samples, min_samples=4)
        columns = Columns.of(samples)
        x = columns.drop(samples)
        self.dropped, self.n_dim, self.ridge = tuple(int(i) for i in columns.dropped), x.shape[1], ridge
        eigenvalues = _eigenvalues(x)
        self.variance, self.variance_error = calibrate(x, eigenvalues, seed)
        self.curve = self._transferred(eigenvalues, len(x) - 1, self.variance)
        high, low = self.variance + self.variance_error, max(0.0, self.variance - self.variance_error)
        self.moved = [self._transferred(eigenvalues, len(x) - 1, v) for v in (high, low)]
        self.groups = list(self._groups(x, seed))
        self.largest = min(curve.largest for curve in (self.curve, *self.groups))
        self.next_order = False

    def _transferred(self, eigenvalues, n: int, variance: float) -> Transferred:
        return Transferred(eigenvalues, n, NormFluctuations.lognormal(variance), self.n_dim)

    def _groups(self, x: np.ndarray, seed: int):
        order = np.random.default_rng([seed, 8]).permutation(len(x))
        for left_out in np.array_split(order, min(_GROUPS, len(x))):
            rest = np.delete(x, left_out, axis=0)
            yield self._transferred(_eigenvalues(rest), len(rest) - 1, self.variance)

    def evaluate(self, function: Callable, transform, inverse) -> tuple:
        """Value and 95 % interval of a function of the curve, symmetric after `transform`."""
        value = function(self.curve)
        centre = transform(value)
        groups = np.array([transform(function(curve)) for curve in self.groups])
        jackknife = (len(groups) - 1) / len(groups) * np.sum((groups - groups.mean(axis=0)) ** 2, axis=0)
        high, low = (transform(function(curve)) for curve in self.moved)
        spread = _Z95 * np.sqrt(jackknife + 0.25 * (high - low) ** 2)
        return value, inverse(centre - spread), inverse(centre + spread)

    def divergences(self, N: int, mean_known: bool) -> tuple[float, float]:
        return kl_exact(self.n_dim, N, mean_known) if not self.ridge else (np.nan, np.nan)


def _eigenvalues(x: np.ndarray) -> np.ndarray:
    """Of the unbiased covariance, those that are zero to rounding set to zero."""
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    return np.where(s > 1e-10 * s[0], s**2 / (len(x) - 1), 0.0)


def predict(samples=None, spectrum=None, n_samples: Sequence[int] = (), sampler: str = "probability_flow", ridge: float = 0.0,
            mean_known: bool = False, schedule: NoiseSchedule | None = None, seed: int = 0) -> Dataset:
    """Predict what two linear diffusion models trained on disjoint halves will do.

    Parameters
    ----------
    samples : array_like, shape (n_total, n_dim)
        Data to predict from; constant columns are left out. Or:
    spectrum : array_like, shape (n_dim,)
        Eigenvalues of the covariance, if known.
    n_samples : sequence of int
        N per half, each at least 3 (2 if the mean is known).
    sampler : {"probability_flow", "stochastic"}
        Which sampler `convergence` is for; `convergence_stochastic` is always there.
    ridge : float
        Variance c ≥ 0 added to every direction: γ_t = c ᾱ_t.
    mean_known : bool
        The learners know the mean; else they estimate it.
    schedule : NoiseSchedule, optional
        Of the losses; that of Ho et al. with 1,000 steps by default.
    seed : int
        Of the calibration and the groups of the jackknife.

    Returns
    -------
    xarray.Dataset
        Over n_samples: convergence, convergence_stochastic; train_loss, test_loss (mean over dimensions and steps) and
        train_loss_step, test_loss_step over step; kl_data_model, kl_model_data (nats per dimension; NaN from samples with a ridge, inf
        where they diverge). With samples, `_low` and `_high` of 95 % intervals. Attributes: sampler, ridge, dropped columns,
        norm_variance (of ln τ), seed, version.

    Raises
    ------
    InputError
        Not exactly one of samples and spectrum, bad samples or numbers.

    Warns
    -----
    RegimeWarning
        Some N lie beyond what so few samples for the number of dimensions can tell; they are NaN.
    """
    source = _source(samples, spectrum, ridge, seed)
    if sampler not in _SAMPLERS:
        raise InputError(f"sampler must be one of {', '.join(_SAMPLERS)}, got {sampler!r}.")
    sizes = [as_count(N, "n_samples", minimum=2 if mean_known else 3) for N in np.atleast_1d(np.asarray(n_samples, dtype=object))]
    if not sizes:
        raise InputError("n_samples must hold at least one number of samples per half, it is empty.")
    schedule = schedule or NoiseSchedule.linear()
    told = [N for N in sizes if source.largest >= N]
    if len(told) < len(sizes):
        warnings.warn(f"N beyond {source.largest:.0f} cannot be told from so few samples in {source.n_dim} dimensions, they are NaN; "
                      "give more samples.", RegimeWarning, stacklevel=2)
    data = _observables(source, sizes, ridge, mean_known, schedule)
    if sampler == "stochastic":
        data |= {f"convergence{end}": data[f"convergence_stochastic{end}"] for end in ("", "_low", "_high")
                 if f"convergence_stochastic{end}" in data}
    divergences = np.array([source.divergences(N, mean_known) for N in sizes])
    data |= {"kl_data_model": ("n_samples", divergences[:, 0]), "kl_model_data": ("n_samples", divergences[:, 1])}
    return Dataset(data, coords={"n_samples": sizes, "step": np.arange(1, schedule.n_steps + 1)}, attrs=_attributes(source, sampler, seed))


def _observables(source, sizes: list[int], ridge: float, mean_known: bool, schedule: NoiseSchedule) -> dict:
    """All that depends on the curve, with intervals where there are any."""
    def flow(curve):
        return _by_size(source, sizes, lambda N, n: convergence_at(curve, n, ridge * N / n, source.next_order), mean_known)

    def stochastic(curve):
        return _by_size(source, sizes, lambda N, n: convergence_stochastic(curve, n, ridge * N / n, source.next_order), mean_known)

    def losses(curve):
        blank = np.full((2, schedule.n_steps), np.nan)
        found = [np.array(total_losses(curve, N, schedule, ridge * schedule.alpha_bar, mean_known, source.next_order)) / source.n_dim
                 if source.largest >= N else blank for N in sizes]
        return np.array(found).transpose(1, 0, 2)

    def mean_losses(curve):
        return losses(curve).mean(axis=2)

    data = {}
    for name, function in (("convergence", flow), ("convergence_stochastic", stochastic)):
        _store(data, name, ("n_samples",), source.evaluate(function, _logit, expit))
    for ending, function, dims in (("", mean_losses, ("n_samples",)), ("_step", losses, ("n_samples", "step"))):
        value, low, high = source.evaluate(function, np.log, np.exp)
        for i, name in enumerate((f"train_loss{ending}", f"test_loss{ending}")):
            _store(data, name, dims, (value[i], None if low is None else low[i], None if high is None else high[i]))
    return data


def _by_size(source, sizes, function: Callable, mean_known: bool) -> np.ndarray:
    """function(N, n) by N, NaN beyond what the source can tell."""
    return np.array([function(N, N if mean_known else N - 1) if source.largest >= N else np.nan for N in sizes])


def _store(data: dict, name: str, dims: tuple, found: tuple) -> None:
    for ending, values in zip(("", "_low", "_high"), found):
        if values is not None:
            data[f"{name}{ending}"] = (dims, values)


def _logit(q: np.ndarray) -> np.ndarray:
    return logit(np.clip(q, 1e-12, 1 - 1e-12))


def _source(samples, spectrum, ridge: float, seed: int):
    if (samples is None) == (spectrum is None):
        raise InputError("exactly one of samples and spectrum must be given, got "
                         f"{'neither' if samples is None else 'both'}.")
    if not 0 <= ridge < np.inf:
        raise InputError(f"ridge must be a finite variance of at least 0, got {ridge!r}.")
    seed = as_count(seed, "seed", minimum=0)
    return _FromSamples(samples, ridge, seed) if spectrum is None else _FromSpectrum(spectrum, ridge)


def _attributes(source, sampler: str, seed: int) -> dict:
    from .. import __version__

    return {"sampler": sampler, "ridge": source.ridge, "dropped_columns": list(source.dropped), "seed": seed,
            "norm_variance": float(getattr(source, "variance", 0.0)), "version": __version__,
            "convention": "n_samples is N per half; losses are means over dimensions; divergences are nats per dimension"}


def samples_needed(samples=None, spectrum=None, convergence: float = 0.9, ridge: float = 0.0, mean_known: bool = False,
                   seed: int = 0) -> SamplesNeeded:
    """N per half at which two linear diffusion models reach a convergence, probability flow.

    Parameters
    ----------
    samples, spectrum, ridge, mean_known, seed
        As `predict`.
    convergence : float
        q, strictly between 0 and 1.

    Returns
    -------
    SamplesNeeded

    Raises
    ------
    InputError
        As `predict`, or convergence outside (0, 1).
    """
    if not 0 < convergence < 1:
        raise InputError(f"convergence must lie strictly between 0 and 1, got {convergence!r}.")
    source = _source(samples, spectrum, ridge, seed)
    top = min(source.largest, _LARGEST_N)

    def crossing(curve) -> float:
        def excess(log_n: float) -> float:
            n = np.exp(log_n)
            return convergence_at(curve, n, ridge * (n + (not mean_known)) / n, source.next_order) - convergence

        low, high = np.log(0.5), np.log(top)
        if excess(high) < 0:
            return np.inf
        return np.exp(brentq(excess, low, high, xtol=1e-10)) + (not mean_known) if excess(low) < 0 else 1.0

    with np.errstate(invalid="ignore"):
        value, low, high = source.evaluate(crossing, np.log, np.exp)
    if low is None:
        low = high = value
    return SamplesNeeded(float(value), float(low), float(high), convergence, float(source.largest))
