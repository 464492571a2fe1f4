"""Networks: ``network(x, log_sigma, **condition)`` to a tensor like x, of order one."""

from .mlp import MLP, null_condition

__all__ = ["MLP", "null_condition"]
