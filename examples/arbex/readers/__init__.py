"""Readers, one per data set, from the layout that its authors publish to a face table."""
