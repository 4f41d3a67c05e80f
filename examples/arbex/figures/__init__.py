"""Pictures of predictions and of training, in one style."""
