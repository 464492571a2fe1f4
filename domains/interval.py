r"""The Neumann heat kernel of an interval, in closed form and exact in the tails.

May use: torch. Boxes, the two-part simplex and the cumulative simplex are built from it.

On [0, L] with reflected Brownian motion of standard deviation sigma, two expansions of the same kernel are
used:

* sigma < L/3: images. The direct path is always the shortest, so its Gaussian is factored out and what remains are
  three exponentials w_1, w_2, w_3 in [0, 1]: the image in the lower wall, in the upper wall, and in both.
* sigma >= L/3: the cosine series, five terms,
  p = 1/L + (2/L) sum_k exp(-k^2 pi^2 sigma^2 / 2 L^2) cos(k pi x/L) cos(k pi x0/L).

Errors of sigma * score are below 1e-6 everywhere (derivation: method of images; Lou & Ermon 2023,
arXiv 2304.04740, appendix, uses the same two sums without the factoring).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from .checks import is_plain

SWITCH = 1 / 3  # in units of the length: where both expansions are accurate to 1e-6
_TERMS = 5
_LEAST_DENSITY = 0.02  # the series' range has 0.053 at least; where it is not used it may be anything
_SMALL = 16_384  # elements up to which computing both expansions costs less than sorting rows
_FEW = 4096  # elements up to which all terms of the series at once cost less than one after the other
_CHUNK = 65_536  # elements at a time in eager mode: what every step reads and writes stays in the cache
_WINDINGS = 6  # of a bridge around twice the length, either way: the noise that leaves it is 6 lengths or more
_FLOOR = -80.0  # exponents below this are zero in float32, and slow: exp of denormals costs ten times more


def log_prob(x: Tensor, x0: Tensor, low: Tensor | float, high: Tensor | float, sigma: Tensor) -> Tensor:
    """Log-density at ``x`` given ``x0``, elementwise; all arguments broadcast against each other."""
    length = high - low
    a, b, a0, b0 = x - low, high - x, x0 - low, high - x0
    direct = -(((x - x0) / sigma) ** 2) / 2 - torch.log(sigma * math.sqrt(2 * math.pi))
    weights = [torch.exp(w.clamp(min=_FLOOR)) for w in _image_exponents(a, b, a0, b0, length, sigma)]
    near = direct + torch.log1p(weights[0] + weights[1] + weights[2])
    _, series = _series(a, a0, length, sigma)
    far = torch.log(series.clamp(min=_LEAST_DENSITY) / length)
    return torch.where(sigma < SWITCH * length, near, far)


def score(x: Tensor, x0: Tensor, low: Tensor | float, high: Tensor | float, sigma: Tensor) -> Tensor:
    """Derivative in ``x`` of :func:`log_prob`, elementwise; exactly zero on both walls."""
    a, b, a0, length = x - low, high - x, x0 - low, high - low
    near, near_weight = _images(a, b, a0, high - x0, x - x0, length, sigma)
    form = _series if x.device.type == "cpu" and x.numel() > _FEW else _series_at_once
    far, far_weight = form(a, a0, length, sigma)
    small = sigma < SWITCH * length
    return _ratio(torch.where(small, near, far), torch.where(small, near_weight, far_weight), a, b)


def score_by_rows(x: Tensor, x0: Tensor, low: float, high: float, sigma: Tensor) -> Tensor:
    """:func:`score` for ``x``, ``x0`` ``[B, D]``, ``sigma`` ``[B]``: rows compute the one expansion they need.

    Rows are sorted by noise and cut where another number of terms suffices: k terms from 2/(k + 1) lengths on. Where
    looking at values makes a device wait, arithmetic is cheaper: all terms for all rows.
    """
    if x.numel() <= _SMALL or x.device.type != "cpu":
        return score(x, x0, low, high, sigma.unsqueeze(-1))
    length = high - low
    order = sigma.argsort()
    cuts = [SWITCH] + [2 / (k + 1) for k in range(_TERMS - 1, 0, -1)]
    ends = [*torch.searchsorted(sigma[order], sigma.new_tensor([c * length for c in cuts])).tolist(), len(sigma)]
    out, start = torch.empty_like(x), 0
    for terms, end in zip(range(_TERMS + 1, 0, -1), ends, strict=True):
        for rows in order[start:end].split(max(1, _CHUNK // max(1, x.shape[1]))):
            y, y0, s = x[rows], x0[rows], sigma[rows].unsqueeze(-1)
            a, a0 = (y - low, y0 - low) if low else (y, y0)
            if terms > _TERMS:
                fraction = _images(a, high - y, a0, high - y0, y - y0, length, s)
            else:
                fraction = _series(a, a0, length, s, terms)
            out[rows] = _ratio(*fraction, a, high - y)
        start = max(start, end)
    return out


def fold(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Reflect points of the line into [low, high]; points inside are returned as they are, bit for bit."""
    if isinstance(low, float) and isinstance(high, float) and is_plain(x):
        once = torch.minimum(x.maximum(2 * low - x), 2 * high - x)
        least, most = torch.aminmax(once)
        if low <= float(least) and float(most) <= high:
            return once
    length = high - low
    u = torch.remainder(x - low, 2 * length)
    folded = low + torch.minimum(u, 2 * length - u)
    inside = (x >= low) & (x <= high)
    return clip(torch.where(inside, x, folded), low, high)


def bridge(
    x0: Tensor,
    x: Tensor,
    low: Tensor | float,
    high: Tensor | float,
    below: Tensor,
    sigma: Tensor,
    generator: Generator | None,
) -> Tensor:
    """Reflected Brownian motion at noise ``below``, given ``x0`` at none and ``x`` at ``sigma``; elementwise.

    Unfolded, the path ends at one of the images of x, chosen by its Gaussian weight, and is a Brownian bridge.
    """
    length = high - low
    shifts = torch.arange(-_WINDINGS, _WINDINGS + 1, dtype=x.dtype, device=x.device)
    shifts = shifts.reshape(-1, *(1,) * x.ndim) * (2 * length)
    images = torch.cat([x + shifts, (2 * low - x) + shifts])
    chance = torch.softmax(-(((images - x0) / sigma) ** 2) / 2, 0).flatten(1).T
    chosen = torch.multinomial(chance, 1, generator=generator).reshape(1, *x.shape)
    end = images.gather(0, chosen).squeeze(0)
    share = (below / sigma) ** 2
    z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return fold(x0 + share * (end - x0) + below * (1 - share).clamp(min=0).sqrt() * z, low, high)


def clip(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Clip to [low, high], whether the bounds are numbers or tensors."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.minimum(torch.maximum(x, torch.as_tensor(low).to(x)), torch.as_tensor(high).to(x))
    return x.clamp(low, high)


def _image_exponents(
    a: Tensor, b: Tensor, a0: Tensor, b0: Tensor, length: Tensor | float, sigma: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-weights of the three nearest images beside the direct path: products of distances, so no cancellation."""
    scale = -2 / sigma**2
    both = torch.minimum(a, a0) + torch.minimum(b, b0)  # length - |x - x0|, without its rounding error
    return scale * a * a0, scale * b * b0, (scale * length * both).clamp(min=_FLOOR)


def _expm1(t: Tensor) -> Tensor:
    """exp(t) - 1 for t <= 0; in eager mode by way of tanh, since torch.expm1 slows down tenfold where it saturates."""
    if torch.compiler.is_compiling():
        return torch.expm1(t.clamp(min=_FLOOR))
    h = torch.tanh(0.5 * t)
    return (h + h) / (1 - h)


def _images(
    a: Tensor, b: Tensor, a0: Tensor, b0: Tensor, d: Tensor, length: Tensor | float, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of -(d Z + 2 (a0 w1 - b0 w2 -+ L w3)) / (Z sigma^2), Z the sum of weights.

    Next to the lower wall w1 is nearly one and d + 2 a0 w1 / (1 + w1) would cancel; with a0 = a - d and b0 = b + d
    the numerator is d (1 - w1 - w2 + w3) + 2 (a w1 - b w2 -+ L w3), whose first bracket is exact from w - 1.
    """
    one, two, three = _image_exponents(a, b, a0, b0, length, sigma)
    e1, e2, w3 = _expm1(one), _expm1(two), torch.exp(three)
    bracket = w3 - ((1 + torch.minimum(e1, e2)) + torch.maximum(e1, e2))
    numerator = torch.addcmul(d * bracket, a, 1 + e1, value=2)
    numerator = torch.addcmul(numerator, b, 1 + e2, value=-2)
    numerator = numerator - (2 * length) * torch.copysign(w3, d)
    return numerator, (e1 + e2 + w3 + 3) * -(sigma**2)


def _series(a: Tensor, a0: Tensor, length: Tensor | float, sigma: Tensor, terms: int = _TERMS) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the score by the cosine series; the latter is L times the density.

    With z = cos(pi a/L) the density is 1 + sum_k c_k T_k(z), c_k = 2 q^(k^2) T_k(cos(pi a0/L)), and its derivative
    -sin(pi a/L) sum_k k c_k U_{k-1}(z): both by Clenshaw's recurrence.
    """
    rate = math.pi / length
    phase = a * rate
    z, y = torch.cos(phase), torch.cos(a0 * rate)
    q = torch.exp((-0.5 * (sigma * rate) ** 2).clamp(min=_FLOOR))
    chebyshev = [torch.ones_like(q), y]
    while len(chebyshev) <= terms:
        chebyshev.append(2 * y * chebyshev[-1] - chebyshev[-2])
    c = [2 * decay * t for decay, t in zip(_squares(q, terms), chebyshev[1:], strict=False)]
    b, before = _clenshaw(c, 2 * z)
    slope, _ = _clenshaw([k * ck for k, ck in enumerate(c, start=1)], 2 * z)
    return -rate * torch.sin(phase) * slope, 1 + z * b - before


def _series_at_once(a: Tensor, a0: Tensor, length: Tensor | float, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`_series` with all terms in one tensor: more arithmetic, a fifth of the calls, which devices wait for."""
    rate = math.pi / length
    k = torch.arange(1, _TERMS + 1, dtype=a.dtype, device=a.device).reshape(-1, *(1,) * a.ndim)
    decay = torch.exp((-0.5 * (sigma * rate) ** 2).clamp(min=_FLOOR) * k**2)
    c = 2 * decay * torch.cos(k * (a0 * rate))
    phase = k * (a * rate)
    return -rate * (k * c * torch.sin(phase)).sum(0), 1 + (c * torch.cos(phase)).sum(0)


def _clenshaw(c: list[Tensor], w: Tensor) -> tuple[Tensor, Tensor | float]:
    """The last two values of b_k = c_k + w b_{k+1} - b_{k+2}, from the last coefficient down to the first."""
    b, before = c[-1], None
    for ck in reversed(c[:-1]):
        b, before = (ck + w * b if before is None else ck + w * b - before), b
    return b, 0.0 if before is None else before


def _squares(q: Tensor, terms: int) -> list[Tensor]:
    """q, q^4, q^9, .. by products: a general power is slower than all the rest."""
    out, step = [q], q
    for _ in range(terms - 1):
        step = step * q * q
        out.append(out[-1] * step)
    return out


def _ratio(numerator: Tensor, denominator: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Their ratio, but zero on the walls: rounding leaves eps/sigma, which matters to an ODE that must stay inside."""
    return torch.where(torch.minimum(a, b) > 0, numerator / denominator, 0.0)
