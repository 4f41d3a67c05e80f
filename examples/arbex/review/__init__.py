"""Review of doubtful labels: on a local page, or in another tool."""
