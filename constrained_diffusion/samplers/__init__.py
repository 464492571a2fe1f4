"""Samplers: each walks from the prior back to the data and never leaves the domain."""
