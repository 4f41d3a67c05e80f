"""Predict pictures and videos, on the command line, in a page, or in exported files."""
