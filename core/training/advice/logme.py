"""LogME (You, Liu, Wang, Long 2021, arXiv:2102.11005): how likely the labels are under a Bayesian linear model of
the features, its two precisions set to where that is most likely. A known score of trunks for a task; larger is
better.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 20
TOLERANCE = 1e-3


def logme(x: np.ndarray, columns: np.ndarray, weights: np.ndarray | None = None) -> float:
    """`x`: features `(n, d)`; `columns`: `(n, k)`, a column a class (0 or 1) or a target. The logarithm of the
    evidence for each sample, in the mean over columns. It neither centres nor standardises, as the paper.
    `weights`: `(n,)`, how much each sample counts beside the others; its noise is taken to be as much less. None:
    all the same."""
    x = np.asarray(x, np.float64)
    if weights is not None:
        counts = weights > 0
        root = np.sqrt(weights[counts] / weights[counts].mean(dtype=np.float64))[:, None]
        x, columns = x[counts] * root, columns[counts] * root
    n, d = x.shape
    # the eigenvectors of x'x that matter, from the smaller of the two products
    if d <= n:
        values, vectors = np.linalg.eigh(x.T @ x)
        projected = (x @ vectors).T @ columns  # (d, k): singular value times u'y
        keep = values > 1e-10 * max(values[-1], 1e-300)
        sigma, against = values[keep], projected[keep] ** 2 / values[keep, None]
    else:
        values, vectors = np.linalg.eigh(x @ x.T)
        keep = values > 1e-10 * max(values[-1], 1e-300)
        sigma, against = values[keep], (vectors[:, keep].T @ columns) ** 2
    total = (columns**2).sum(0)
    return float(np.mean([_evidence(sigma, z, rest, n, d) for z, rest in zip(against.T, total, strict=True)]))


def _evidence(sigma: np.ndarray, z: np.ndarray, total: float, n: int, d: int) -> float:
    """`sigma`: eigenvalues above 0; `z`: squared projections of the column on their eigenvectors."""
    outside = max(total - float(z.sum()), 0.0)
    alpha = beta = 1.0
    m2 = residual = 0.0
    for _ in range(ROUNDS):
        t = alpha / beta
        m2 = float((sigma * z / (t + sigma) ** 2).sum())
        residual = float((z / (1 + sigma / t) ** 2).sum()) + outside
        gamma = float((sigma / (sigma + t)).sum())
        alpha, beta = gamma / (m2 + 1e-12), (n - gamma) / (residual + 1e-12)
        if abs(alpha / beta - t) / t <= TOLERANCE:
            break
    evidence = (
        d / 2 * np.log(alpha)
        + n / 2 * np.log(beta)
        - 0.5 * (np.log(alpha + beta * sigma).sum() + (d - len(sigma)) * np.log(alpha))
        - beta / 2 * residual
        - alpha / 2 * m2
        - n / 2 * np.log(2 * np.pi)
    )
    return float(evidence / n)
