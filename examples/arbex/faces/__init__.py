"""Faces as data: one table for every data set, images, transforms, and reading by name."""
