"""Learners: generative models that are fitted with torch and converted into actions.

Flows maximize the likelihood, diffusion models predict the noise. Each takes numpy arrays in and gives numpy arrays out;
`to_action` turns a fitted learner into a `fieldtheory.Action`, and `split_experiment` measures when two learners that were
trained on disjoint halves of the data agree.
"""

from importlib import import_module as _import_module

_HOME = {
    "DDPM": "diffusion",
    "Glow": "flows",
    "Learner": "learner",
    "LinearDenoiser": "diffusion",
    "NICE": "flows",
    "QuadraticFlow": "flows",
    "RealNVP": "flows",
    "certify": "conversion",
    "coupling_along": "conversion",
    "factored_cubic": "conversion",
    "leading_directions": "conversion",
    "load": "learner",
    "normal_ordered": "conversion",
    "project": "conversion",
    "record_couplings": "conversion",
    "split_experiment": "split",
    "to_action": "conversion",
    "trace_action": "conversion",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Load a public name, and with it torch, when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
