"""Theories from a line of text, ``name:key=value,…``. Nothing is evaluated: names and keys are looked up, values are numbers or sizes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from ..action import Action
from ..arrays import as_count
from ..errors import InputError
from .disorder import p_spin, random_interactions
from .fields import lattice, on_site, one_site, phi4, vector_phi4
from .free import gaussian
from .magnets import mean_field_ferromagnet, soft_ising

_MOST_VARIABLES = 4096  # where all couplings are dense
_MOST_SITES = 2**18
_MOST_AXES = 4
_HIGHEST_ON_SITE = 8


def from_text(text: str) -> Action:
    """A theory from ``name:key=value,…``, on a periodic lattice where it has a ``shape``.

    ================================ ==========================================================
    name                             keys, those with a value here may be left out
    ================================ ==========================================================
    ``gaussian``                     n_dim, variance=1
    ``phi4``                         shape, mass_squared, coupling, hopping=1
    ``vector_phi4``                  the same, n_components=2
    ``on_site``                      shape, hopping=1, c1 … c8 = 0: on-site couplings by order
    ``one_site``                     cubic, quartic, mass_squared=1
    ``soft_ising``                   shape, coupling, stiffness=1, field=0
    ``mean_field_ferromagnet``       n_dim, coupling, stiffness=1, field=0
    ``random_interactions``          n_dim, cubic=0.1, quartic=0.05, seed=0
    ``p_spin``                       n_dim, order=3, strength=1, confinement=1, seed=0
    ================================ ==========================================================

    Parameters
    ----------
    text : str
        Such as ``phi4:shape=8x8,mass_squared=1,coupling=1``.

    Raises
    ------
    InputError
        Unknown name or key, or a value that is not a number.
    NotNormalizableError
        From the theory itself.
    """
    name, _, rest = str(text).partition(":")
    if name not in _THEORIES:
        raise InputError(f"theory must be one of {', '.join(_THEORIES)}, got {name[:40]!r}; write it as name:key=value,key=value.")
    build, required, optional = _THEORIES[name]
    readers, found = {**required, **optional}, {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if key not in readers or not equals or key in found:
            raise InputError(f"{name} takes {', '.join(f'{k}=' for k in readers)} once each, got {part[:40]!r}.")
        found[key] = readers[key](key, value)
    missing = [key for key in required if key not in found]
    if missing:
        raise InputError(f"{name} needs {', '.join(f'{k}=' for k in missing)}, got {rest!r}.")
    return build(**found)


def _read(read: Callable, key: str, value: str, what: str = "number"):
    try:
        return read(value)
    except ValueError:
        raise InputError(f"{key} must be a {what}, got {value[:40]!r}.") from None


def _number(key: str, value: str) -> float:
    number = _read(float, key, value)
    if not np.isfinite(number):
        raise InputError(f"{key} must be finite, got {value[:40]!r}.")
    return number


def _whole(key: str, value: str) -> int:
    return _read(int, key, value, "number without decimals")


def _size(key: str, value: str) -> int:
    size = as_count(_whole(key, value), key)
    _require_room(size, _MOST_VARIABLES, key, value)
    return size


def _shape(key: str, value: str) -> tuple[int, ...]:
    what = f"size such as 8x8, of up to {_MOST_AXES} axes"
    shape = _read(lambda text: tuple(map(int, text.split("x", _MOST_AXES - 1))), key, value, what)
    _require_room(prod(shape), _MOST_SITES, key, value)
    return shape


def _require_room(size: int, most: int, key: str, value: str) -> None:
    if size > most:
        raise InputError(f"{key} must be of a size that fits in memory, up to {most} variables, got {value[:40]!r}.")


def _on_site_on_lattice(shape, hopping: float = 1.0, **powers) -> Action:
    return on_site(lattice(shape), {int(key[1:]): c for key, c in powers.items()}, hopping)


def _random_cubic_and_quartic(n_dim, cubic=0.1, quartic=0.05, seed=0) -> Action:
    return random_interactions(n_dim, {k: s for k, s in {3: cubic, 4: quartic}.items() if s}, seed)


def _on_lattice(theory: Callable) -> Callable:
    return lambda shape, **parameters: theory(lattice(shape), **parameters)


_FIELD = ({"shape": _shape, "mass_squared": _number, "coupling": _number}, {"hopping": _number})
_SPINS = {"stiffness": _number, "field": _number}
_THEORIES = {  # name: (constructor, readers of what is needed, readers of what may be left out)
    "phi4": (_on_lattice(phi4), *_FIELD),
    "gaussian": (lambda n_dim, variance=1.0: gaussian(variance * np.eye(n_dim)), {"n_dim": _size}, {"variance": _number}),
    "random_interactions": (_random_cubic_and_quartic, {"n_dim": _size}, {"cubic": _number, "quartic": _number, "seed": _whole}),
    "vector_phi4": (_on_lattice(vector_phi4), _FIELD[0], {**_FIELD[1], "n_components": _size}),
    "on_site": (_on_site_on_lattice, {"shape": _shape},
                {"hopping": _number, **{f"c{k}": _number for k in range(1, _HIGHEST_ON_SITE + 1)}}),
    "one_site": (one_site, {"cubic": _number, "quartic": _number}, {"mass_squared": _number}),
    "soft_ising": (_on_lattice(soft_ising), {"shape": _shape, "coupling": _number}, _SPINS),
    "mean_field_ferromagnet": (mean_field_ferromagnet, {"n_dim": _size, "coupling": _number}, _SPINS),
    "p_spin": (p_spin, {"n_dim": _size}, {"order": _size, "strength": _number, "confinement": _number, "seed": _whole}),
}
