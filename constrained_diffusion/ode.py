"""The deterministic flow of a process, and an adaptive solver for it that knows when to give up.

May use: the process, torchdiffeq (loaded when first used).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .domains.checks import SolverError
from .process import Process, Score

__all__ = ["flow_field", "solve", "tight"]

State = tuple[Tensor, ...]


def flow_field(process: Process, score: Score) -> Callable[[Tensor, Tensor], Tensor]:
    """The flow dx/d(log sigma) as a function of a scalar log sigma and points ``[*batch, *event_shape]``.

    Points must lie inside: the flow does not cross walls, so that only rounding and the trial steps of a solver
    do, and these are to be projected. ``score`` is called with a scalar time.
    """

    def field(log_sigma: Tensor, x: Tensor) -> Tensor:
        sigma = log_sigma.exp()
        t = process.time(sigma)
        return sigma * process.slope(score(x, t), t)

    return field


def tight(dtype: torch.dtype) -> float:
    """A tolerance for flows that are to be inverted: 1e-6, or 1e-5 in less than double precision."""
    return 1e-6 if dtype == torch.float64 else 1e-5


def solve(
    field: Callable[[Tensor, State], State],
    start: State,
    begin: Tensor,
    end: Tensor,
    *,
    rtol: float,
    atol: float,
    method: str = "dopri5",
    max_evaluations: int = 10_000,
) -> State:
    """Solve dy/dw = field(w, y) from w = ``begin`` to ``end``.

    Args:
        field: maps a scalar w and a tuple of tensors to their derivatives.
        start: tensors at the beginning.
        begin: scalar tensor.
        end: scalar tensor, above or below.
        rtol: relative error allowed in a step.
        atol: absolute error.
        method: an adaptive one of torchdiffeq.
        max_evaluations: beyond which to give up.

    Returns:
        The tensors at the end.

    Raises:
        SolverError: too many evaluations, or the step size has fallen to nothing.
    """
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise ValueError(f"rtol and atol must not be negative, nor both zero; got {rtol!r} and {atol!r}")
    if max_evaluations < 1:
        raise ValueError(f"max_evaluations must be positive, got {max_evaluations!r}")
    from torchdiffeq import odeint

    evaluations = 0

    def counted(w: Tensor, state: State) -> State:
        nonlocal evaluations
        evaluations += 1
        if evaluations > max_evaluations:
            raise SolverError(
                f"the flow took more than {max_evaluations} evaluations: raise rtol and atol (now {rtol:g} and "
                f"{atol:g}), use float64, or a fixed-step sampler such as Heun"
            )
        # To guess a first step the solver looks ahead, where the field is nearly nothing far beyond the end.
        return field(torch.minimum(torch.maximum(w, low), high), state)

    low, high = torch.minimum(begin, end), torch.maximum(begin, end)
    if start[0].numel() == 0:
        return start
    options = {"step_t": end.unsqueeze(0)}  # a step that ends there, not one beyond it to interpolate in
    try:
        path = odeint(counted, start, torch.stack([begin, end]), rtol=rtol, atol=atol, method=method, options=options)
    except AssertionError as error:
        if not all(bool(part.isfinite().all()) for part in field(begin, start)):
            raise SolverError("the score is not finite where the flow begins") from None
        raise SolverError(
            f"the step size of the flow fell to nothing ({error}): raise rtol and atol (now {rtol:g} and {atol:g}), or "
            "use float64"
        ) from None
    return tuple(part[-1] for part in path)
