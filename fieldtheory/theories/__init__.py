"""Named theories: actions with known couplings to learn from and to test against.

* `free` — the Gaussian, with its true constant.
* `fields` — a scalar field with any on-site couplings on any graph; φ⁴ with one component or several; a single site.
* `magnets` — soft-spin Ising models on graphs and in mean field.
* `disorder` — dense random couplings: convex ones around a Gaussian, and the p-spin model on a soft sphere.
* `text` — the same from a line such as ``phi4:shape=8x8,mass_squared=1,coupling=1``.

Each docstring gives S, the couplings that follow from it — full sums over all indices, no 1/k! — and when exp S can be integrated.
"""

from .disorder import p_spin, random_interactions
from .fields import lattice, on_site, one_site, phi4, vector_phi4
from .free import gaussian
from .magnets import mean_field_ferromagnet, soft_ising
from .text import from_text

__all__ = ["from_text", "gaussian", "lattice", "mean_field_ferromagnet", "on_site", "one_site", "p_spin", "phi4",
           "random_interactions", "soft_ising", "vector_phi4"]
