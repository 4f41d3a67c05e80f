"""ARBEx, the reference application: facial expressions with reliability balancing."""
