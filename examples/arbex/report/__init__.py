"""Report on a trained model: scores, figures and pages."""
