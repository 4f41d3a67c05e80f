"""Common names of expressions over all data sets."""

ALIASES = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "contemptuous": "contempt",
}
EXPRESSIONS = (
    *("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise"),
    *("contempt", "other"),
)


def expression_name(text: str) -> str | None:
    """Return the common name of an expression, or None.

    Example:
        >>> expression_name("Happy"), expression_name("banana")
        ('happiness', None)
    """
    name = text.strip().lower()
    name = ALIASES.get(name, name)
    return name if name in EXPRESSIONS else None
