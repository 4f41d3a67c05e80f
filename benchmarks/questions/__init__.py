"""One question per module; its first lines say what is compared on what, and how it is judged."""
