"""A student flow recovers the couplings of a teacher flow from its samples."""

import numpy as np
import pytest

from learners import QuadraticFlow, to_action

N_DIM, N_SAMPLES, N_TEST = 5, 100_000, 200_000
COSINE = {2: 0.995, 3: 0.99, 4: 0.98}
RELATIVE_ERROR = {2: 0.06, 3: 0.10, 4: 0.15}
EXCESS = 5e-4  # nats per dimension; a student with 120 directions to fit expects 120/(2·90,000·5) = 1.3e-4


def _recovery(seed, **recipe):
    """Excess nll per dimension with its standard error, cosine and relative error of the Taylor couplings at the data's mean."""
    teacher = QuadraticFlow.random(N_DIM, 2, seed=seed)
    samples, test = teacher.sample(N_SAMPLES, seed=1000 + seed), teacher.sample(N_TEST, seed=2000 + seed)
    student = QuadraticFlow(N_DIM, 4).fit(samples, seed=seed, n_starts=3, **recipe)
    excess = (teacher.log_prob(test) - student.log_prob(test)) / N_DIM
    learned, true = (to_action(flow, 4, at=samples.mean(axis=0)).couplings for flow in (student, teacher))
    cosine = {k: learned[k].inner(true[k]) / learned[k].norm() / true[k].norm() for k in COSINE}
    error = {k: (learned[k] + (-1.0) * true[k]).norm() / true[k].norm() for k in COSINE}
    print(f"teacher {seed}: excess {excess.mean():.1e} ± {excess.std() / np.sqrt(N_TEST):.0e}, cosine "
          + "/".join(f"{c:.4f}" for c in cosine.values()) + ", relative error " + "/".join(f"{e:.3f}" for e in error.values()))
    return excess.mean(), cosine, error


def _assert_recovered(excess, cosine, error):
    assert excess <= EXCESS
    assert all(cosine[k] >= COSINE[k] for k in COSINE)
    assert all(error[k] <= RELATIVE_ERROR[k] for k in RELATIVE_ERROR)


def test_a_teacher_is_recovered_in_a_third_of_the_steps():
    _assert_recovered(*_recovery(1, n_steps=3000, batch_size=512))


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_teachers_are_recovered(seed):
    _assert_recovered(*_recovery(seed))
