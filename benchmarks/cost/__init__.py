"""Measurements of time and memory, and what is measured."""
