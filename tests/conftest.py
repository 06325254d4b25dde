"""One thread per process, before numpy loads: spinning OpenMP threads on shared cores cost a factor of thirty."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
