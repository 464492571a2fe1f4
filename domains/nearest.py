"""The nearest point of a polytope, for a batch of points at once.

May use: torch. The dual active-set method of Goldfarb & Idnani (1983) for the identity as Hessian: constraints enter
one by one, the most violated first, and leave when their multiplier would turn negative; it ends after finitely
many steps with the exact answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import SolverError

_CAP = 50  # exchanges, for each dimension


def nearest(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Points of {y : A y <= b} nearest to ``x``.

    Args:
        x: points ``[B, D]``, float64.
        A: unit rows ``[m, D]`` of a set with interior (within the span of the rows).
        b: ``[m]``.

    Returns:
        ``[B, D]``.
    """
    excess = x @ A.T - b
    size, slots = len(x), min(A.shape)
    tolerance = 1e-13 * (b.abs().amax() + x.abs().amax(-1))
    work = torch.zeros(size, slots, dtype=torch.long, device=x.device)  # indices of the working set
    used = torch.zeros(size, slots, dtype=torch.bool, device=x.device)
    multiplier = torch.zeros(size, slots, dtype=x.dtype, device=x.device)
    entering, weight = excess.argmax(-1), torch.zeros(size, dtype=x.dtype, device=x.device)
    rows = (excess.amax(-1) > tolerance).nonzero().squeeze(-1)  # those still at work
    for _ in range(_CAP * (A.shape[1] + 1)):
        if not len(rows):
            break
        p, w, on, lam, v = entering[rows], work[rows], used[rows], multiplier[rows], excess[rows]
        normals = A[w] * on.unsqueeze(-1)
        inward = normals @ A[p].unsqueeze(-1)
        gram = normals @ normals.mT + torch.diag_embed((~on).to(x.dtype))
        share = torch.linalg.solve(gram, inward).squeeze(-1)  # of p's normal in the span of the working set
        rest = A[p] - (normals.mT @ share.unsqueeze(-1)).squeeze(-1)
        length = (rest * A[p]).sum(-1)
        here = v.gather(-1, p.unsqueeze(-1)).squeeze(-1)
        whole = torch.where(length > 1e-12, here / length, torch.inf)
        falling = torch.where(on & (share > 1e-14), lam.clamp(min=0) / share, torch.inf)
        partial, leaving = falling.min(-1)
        t = torch.minimum(whole, partial)
        if not bool(t.isfinite().all()):
            raise SolverError("the nearest point of the polytope was not found: are its walls nearly parallel?")
        excess[rows] = v - t.unsqueeze(-1) * (rest @ A.T)
        lam = (lam - t.unsqueeze(-1) * share) * on
        weight[rows] += t
        full = whole <= partial
        slot = torch.where(full, (~on).to(torch.uint8).argmax(-1), leaving).unsqueeze(-1)
        used[rows] = on.scatter(-1, slot, full.unsqueeze(-1))
        work[rows] = torch.where(full.unsqueeze(-1), w.scatter(-1, slot, p.unsqueeze(-1)), w)
        value = torch.where(full, weight[rows], 0.0).unsqueeze(-1)
        multiplier[rows] = lam.scatter(-1, slot, value)
        weight[rows] = torch.where(full, 0.0, weight[rows])
        entering[rows] = torch.where(full, excess[rows].argmax(-1), p)
        rows = rows[~full | (excess[rows].amax(-1) > tolerance[rows])]
    else:
        raise SolverError(f"the nearest point of the polytope was not found in {_CAP * (A.shape[1] + 1)} exchanges")
    # The working sets are right; solve for the multipliers once more, free of what rounding gathered on the way.
    normals = A[work] * used.unsqueeze(-1)
    gram = normals @ normals.mT + torch.diag_embed((~used).to(x.dtype))
    over = (normals @ x.unsqueeze(-1)).squeeze(-1) - b[work] * used
    final: Tensor = torch.linalg.solve(gram, over.unsqueeze(-1))
    return x - (normals.mT @ final).squeeze(-1)
