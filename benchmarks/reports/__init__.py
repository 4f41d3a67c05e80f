"""Reports of questions whose tables need more than a few lines."""
