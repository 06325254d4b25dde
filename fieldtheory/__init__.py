"""Generative models as interacting theories.

The action of a density p is

    S(x) = ln p(x) + const = Σ_k Σ_{i1…ik} A^(k)_{i1…ik} (x − at)_{i1} ⋯ (x − at)_{ik},

with a plus sign, full sums over all indices, symmetric tensors and no 1/k!. Hence a Gaussian has A^(2) = −½ Σ^{-1}, and
k! A^(k) is the *vertex*, the k-th derivative at the base point `at`. A^(0) is the additive constant: the true one where it is
known, 0 otherwise; it is never compared. Arrays of points are (..., n_dim), everything is float64, and log-densities and
divergences are in nats, per dimension unless a name begins with ``total_``.

`fieldtheory` knows actions: how to write them, sample them, estimate them from samples, compare them, and predict from a
covariance when two learners agree. It never imports torch. `learners` fits generative models and turns them into actions.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

_HOME = {
    "Action": "action",
    "Comparison": "comparison",
    "Estimate": "estimation",
    "FactoredCubic": "factored",
    "NoiseSchedule": "schedule",
    "SymbolicAction": "symbolic",
    "SymmetricTensor": "tensors",
    "compare": "comparison",
    "cumulants": "statistics",
    "estimate": "estimation",
    "moments": "statistics",
    "parse_action": "text",
    "sample": "sampling",
    "sample_chains": "sampling",
}
_MODULES = ("arrays", "assembly", "calculus", "errors", "files", "flow_equation", "generalization", "graphs", "normalizability", "plots",
            "polarization", "projection", "sampling", "series", "stationary", "statistics", "symbolic", "symmetries", "tape", "tensors",
            "text", "theories", "units")

__all__ = [*sorted(_HOME), *_MODULES]


def __getattr__(name: str):
    """Load a public name when it is first used, so that the import itself is quick."""
    if name in _HOME:
        value = getattr(_import_module(f".{_HOME[name]}", __name__), name)
    elif name in _MODULES:
        value = _import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
