"""Look a data set over before it is trained on."""
