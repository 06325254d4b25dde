"""Theory on paper, kept in symbols: integrate a field out, find the broken phase, then put in numbers."""

import numpy as np
import sympy

import fieldtheory as ft

phi, sigma = sympy.symbols("phi sigma", real=True)
m2, M, g, lam, v = sympy.symbols("m2 M g lambda v", positive=True)

# A field φ with a quartic coupling, and a heavy field σ that sits on φ².
S = ft.SymbolicAction(-m2 * phi**2 / 2 - lam * phi**4 / 24 - M * sigma**2 / 2 - g * sigma * phi**2 / 2, [phi, sigma])
effective = S.integrate_out(sigma)
print("effective action:", effective.expression)
print("effective quartic vertex:", effective.vertex(4)[0, 0, 0, 0])  # -lambda + 3 g²/M: the exchange of σ attracts

# The same in numbers, held against an integral on a grid.
values = {"m2": 1.0, "M": 2.0, "g": 0.5, "lambda": 1.0}
both, one = S.bind(**values), effective.bind(**values)
y = np.linspace(-15, 15, 6001)
points = np.linspace(-2, 2, 9)
direct = [np.log(np.trapezoid(np.exp(both(np.column_stack([np.full_like(y, p), y]))), y)) for p in points]
print(f"largest difference to quadrature: {np.abs(one(points[:, None]) - direct).max():.1e}")

# A negative mass term: the mode moves to v² = 6 m²/λ, where fluctuations have the mass 2 m² and a cubic vertex.
broken = ft.SymbolicAction(m2 * phi**2 / 2 - lam * phi**4 / 24, [phi]).recenter([v])
[minimum] = sympy.solve(broken[0], v)
propagator, cubic = (e.subs(v, minimum) for e in (broken.propagator()[0, 0], broken.vertex(3)[0, 0, 0]))
print("mode:", minimum, " propagator:", propagator, " cubic vertex:", cubic)

# Text in, text out; the couplings are floats, bit for bit.
action = ft.parse_action("-x0**2/2 - x1**2/2 + 0.6*x0*x1**2 - x1**4")
print("A_011 =", action[0, 1, 1], " x1 alone:", action.integrate_out(["x0"]).to_text())
