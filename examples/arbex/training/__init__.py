"""Training that can be stopped at any batch and resumed exactly."""
