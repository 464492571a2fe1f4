"""Networks: ``network(x, log_sigma, **condition)`` to a tensor like x, of order one."""

from .images import ImageTransformer, UNet
from .mlp import MLP, null_condition

__all__ = ["MLP", "ImageTransformer", "UNet", "null_condition"]
