"""Stylised faces with a known truth, drawn from a seed."""
