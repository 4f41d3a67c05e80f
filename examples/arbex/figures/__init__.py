"""Figures of predictions and training, in one style."""
