"""Face data: a common table for all data sets, images, transforms, and reading by name."""
