"""Data sets with known true labels, corruptions of labels, and data sets with human labels."""
