"""Stylised faces with known ground truth, rendered from a seed."""
