"""The docstrings' examples of the application's data modules are true."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    "name",
    [
        *("rendering.face_expressions", "readers.expressions", "readers.jaffe", "readers.labels"),
        *("image_files", "faces.completeness"),
    ],
)
def test_docstring_examples(name):
    failed, attempted = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert attempted
    assert not failed
