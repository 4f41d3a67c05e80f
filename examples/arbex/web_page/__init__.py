"""A local web page that predicts the faces in a picture."""
