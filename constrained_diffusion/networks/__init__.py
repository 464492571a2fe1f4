"""Networks that predict scores; each is a plain ``torch.nn.Module`` called as ``network(x, log_sigma)``."""
