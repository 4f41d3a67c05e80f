"""The docstrings' examples of the application's data modules are true."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "arbex.rendering.face_expressions",
        "arbex.readers.expressions",
        "arbex.readers.jaffe",
        "arbex.readers.labels",
        "arbex.faces.completeness",
        "image_files",
    ],
)
def test_docstring_examples(name):
    module = import_module(f"examples.{name}")
    failed, attempted = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert attempted
    assert not failed
