"""Audit a data set before training."""
