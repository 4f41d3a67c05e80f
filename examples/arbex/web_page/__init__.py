"""A page on this machine that predicts the faces of a picture."""
