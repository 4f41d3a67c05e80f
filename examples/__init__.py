"""Examples: scripts for each integration, and the reference application."""
