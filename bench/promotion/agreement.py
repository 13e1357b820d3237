"""A6: our formulas beside those of `ville`, an independent implementation, where the two coincide."""

from __future__ import annotations

import math

import numpy as np

from retrain.trials.sequential import Score, interval, log_e, log_srm_e, log_two_sided_e


def differences(*, cases: int, seed: int) -> dict[str, float]:
    """The largest difference of each formula over random cases."""
    import ville  # type: ignore[import-untyped]  # known to tests and benches only

    generator = np.random.default_rng(seed)
    worst = {"two-sided mixture": 0.0, "one-sided boundary": 0.0, "confidence sequence": 0.0, "sample ratio": 0.0}
    for _ in range(cases):
        n = int(generator.integers(5, 2_000))
        sigma, r, alpha = generator.uniform(0.05, 2.0), generator.uniform(3.0, 200.0), generator.uniform(0.001, 0.2)
        x = generator.normal(generator.uniform(-0.3, 0.3), sigma, n)
        found = Score(s=float(x.sum()), w=float(n), v=n * sigma**2, n_t=n, n_c=n)
        theirs = ville.MSPRT(sigma=sigma, tau=sigma**2 / math.sqrt(r)).fit(x).log_e_values_[-1]
        edge = float(ville.normal_mixture(found.v, alpha, r, one_sided=True))
        radius = float(ville.normal_mixture(found.v, alpha, r)) / n
        bounds = interval(found, alpha, r)
        share, k = generator.uniform(0.05, 0.95), int(generator.integers(0, n + 1))
        drawn = generator.permutation(np.repeat([1.0, 0.0], [k, n - k]))
        split = ville.BernoulliTest(share, prior=(100.0 * share, 100.0 * (1.0 - share))).fit(drawn).log_e_values_[-1]
        at_edge = log_e(Score(edge, 1.0, found.v, n, n), 0.0, r)
        pairs = {
            "two-sided mixture": log_two_sided_e(found, 0.0, r) - theirs,
            "one-sided boundary": at_edge + math.log(alpha),
            "confidence sequence": max(
                abs(bounds.lower - max(found.effect - radius, -1.0)),
                abs(bounds.upper - min(found.effect + radius, 1.0)),
            ),
            "sample ratio": log_srm_e((k, n - k), (share, 1.0 - share)) - split,
        }
        worst = {name: max(worst[name], abs(float(value))) for name, value in pairs.items()}
    return worst
