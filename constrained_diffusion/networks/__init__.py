"""Networks: ``network(x, log_sigma, **condition)`` to a tensor like x, of order one."""

from .mlp import MLP

__all__ = ["MLP"]
