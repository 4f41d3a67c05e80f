"""Render self-contained HTML pages from templates that escape all values."""

import base64
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from examples.arbex.plain_text import in_utf_8
from examples.arbex.report.figure_style import DARK, LIGHT
from examples.result_files import save_text

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals.update(light=LIGHT, dark=DARK)


def render(template: str, **values: object) -> str:
    """Render a file of ``templates/``; every value is escaped."""
    return in_utf_8(TEMPLATES.get_template(template).render(values))


def save_page(path: Path, template: str, **values: object) -> None:
    """Write a page, atomically."""
    save_text(path, render(template, **values))


def png_url(png: bytes) -> str:
    """Return a PNG as a data URL."""
    return _data_url("image/png", png)


def svg_url(svg: bytes) -> str:
    """Return an SVG as a data URL."""
    return _data_url("image/svg+xml", svg)


def png_bytes(picture: Tensor, most_pixels: int) -> bytes:
    """Encode a (3, H, W) uint8 picture as PNG, downscaled to at most that size."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((most_pixels, most_pixels))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def picture_url(picture: Tensor, most_pixels: int) -> str:
    """Return the same as a data URL."""
    return png_url(png_bytes(picture, most_pixels))


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
