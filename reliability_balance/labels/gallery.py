"""Save the most doubtful labels for review: as a table, or as an HTML page with images."""

import base64
import csv
import importlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reliability_balance import checks
from reliability_balance.files import open_atomically, write_atomically
from reliability_balance.labels.inspection import (
    KNOWN_VERDICTS,
    DoubtfulLabel,
    LabelRanking,
    Verdict,
)

GRAY, RGB = 0, 2  # colour types of the PNG header
COLUMNS = ("sample", "given", "suggested", "verdict", "doubt", "plausibility")
FORMULA_STARTS = (*"=+-@\t\r\n'", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last are full width
PART = 2**16  # rows of a table that are written at once
CARD_WIDTH = 168  # pixels; smaller images are enlarged without smoothing

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --muted: #5b6472; --line: #e2e6ea;
  --page: #fff; --card: #f8fafb; --wrong: #b3372f; --unsure: #8a5a00; --right: #1f6f8b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --muted: #a3acb9; --line: #323a45;
  --page: #14181d; --card: #1d232b; --wrong: #ff8f86; --unsure: #f0b85a; --right: #74c3dd; } }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--page);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 75rem; margin: 0 auto; padding: 2rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; max-width: 46rem; color: var(--muted); }
ol { list-style: none; margin: 1.5rem 0 0; padding: 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
li { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow: hidden; font-size: .82rem; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #8883; }
.small { image-rendering: pixelated; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .5rem; margin: 0;
  padding: .6rem .75rem .7rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
.verdict, .name { grid-column: 1 / -1; overflow-wrap: anywhere; }
.verdict { font-weight: 650; } .name { display: block; color: var(--muted); font-weight: 400; }
.mislabelled { color: var(--wrong); } .ambiguous { color: var(--unsure); }
.undoubted { color: var(--right); }
@media (max-width: 30rem) { ol { grid-template-columns: 1fr 1fr; gap: .6rem; }
  dl { padding: .5rem .6rem .6rem; } }
"""

HEAD = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    "<title>{title}</title><style>" + STYLE.replace("{", "{{").replace("}", "}}") + "</style>"
    "</head>\n<body><main>\n<h1>{title}</h1>\n<p>{summary}</p>\n"
    "<p>Doubt is the estimated probability that the label is wrong. Plausibility is the predicted "
    "probability of the label, divided by the sum of those of the label and of the likeliest other "
    "class: near 0 the sample clearly looks like the other class, near 50 % it is ambiguous.</p>\n"
    "<ol>\n"
)
CARD = (
    '<li><img class="{kind}" src="{source}" alt="{alt}">'
    '<dl><dt class="verdict {verdict}">{verdict} <span class="name">{name}</span></dt>'
    "<dt>given</dt><dd>{given}</dd><dt>suggested</dt><dd>{suggested}</dd>"
    "<dt>doubt</dt><dd>{doubt}</dd><dt>plausibility</dt><dd>{plausibility}</dd></dl></li>"
)


def spreadsheet_text(text: str) -> str:
    """Prefix text with ' if a spreadsheet would run it as a formula, or if it begins with '.

    Names of files and classes may begin with = + - @ or a control character. A leading ' in the
    result was always added here, so removing it restores the text.

    Example:
        >>> [spreadsheet_text(name) for name in ("=cmd|' /C calc'!A0", "'s.png", "a.png")]
        ["'=cmd|' /C calc'!A0", "''s.png", 'a.png']
    """
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def save_csv(ranking: LabelRanking, path: Path) -> None:
    """Write the ranking to a CSV file, the most doubtful label first.

    The file is written atomically, in parts of constant memory. Names are passed through
    :func:`spreadsheet_text`; characters that UTF-8 cannot encode are escaped by a backslash.

    Args:
        ranking: ranking to write, with the names that it has.
        path: path of the file.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from reliability_balance.labels import RefurbishedTargets, rank_labels
        >>> targets, labels = RefurbishedTargets(40, 2, warmup=0), torch.arange(40) % 2
        >>> probs = 0.8 * torch.nn.functional.one_hot(labels, 2) + 0.1
        >>> labels[2] = 1
        >>> for _ in range(3):
        ...     _ = targets(torch.arange(40), labels, probs)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "doubtful.csv")
        ...     save_csv(rank_labels(targets, labels, class_names=["cat", "dog"]), path)
        ...     print(path.read_text().split()[1])
        2,dog,cat,mislabelled,0.654...,0.100...
    """
    with open_atomically(path) as file:
        text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(text)  # quotes both kinds of line ends within names
        writer.writerow(COLUMNS)
        for part in _parts(ranking):
            writer.writerows(
                [
                    spreadsheet_text(ranking.sample_name(row.sample)),
                    spreadsheet_text(ranking.class_name(row.given)),
                    spreadsheet_text(ranking.class_name(row.suggested)),
                    row.verdict.name.lower(),
                    f"{row.doubt:.6f}",
                    f"{row.plausibility:.6f}",
                ]
                for row in part
            )
        text.detach()  # flushes, and leaves the file open


def save_parquet(ranking: LabelRanking, path: Path) -> None:
    """Write the ranking to a Parquet file, the most doubtful label first; needs pyarrow.

    The columns are those of :func:`save_csv`; indices and scores are numbers. The file is written
    atomically, in parts of constant memory.

    Args:
        ranking: ranking to write.
        path: path of the file.

    Raises:
        ImportError: without the package pyarrow.
    """
    try:
        arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    except ImportError as error:
        raise ImportError("a Parquet file needs pyarrow: pip install pyarrow") from error
    # Numbers stay numbers where there are no names.
    has_names = (ranking.class_names, ranking.sample_names)
    name_class, name_sample = (
        _in_utf_8(name) if names else int
        for name, names in zip((ranking.class_name, ranking.sample_name), has_names, strict=True)
    )
    kinds = [arrow.string() if names else arrow.int64() for names in has_names]
    types = [kinds[1], kinds[0], kinds[0], arrow.string(), arrow.float64(), arrow.float64()]
    schema = arrow.schema(list(zip(COLUMNS, types, strict=True)))
    with open_atomically(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for part in _parts(ranking):
            columns = zip(
                *(
                    (
                        name_sample(row.sample),
                        name_class(row.given),
                        name_class(row.suggested),
                        row.verdict.name.lower(),
                        row.doubt,
                        row.plausibility,
                    )
                    for row in part
                ),
                strict=True,
            )
            writer.write_table(arrow.table(dict(zip(COLUMNS, columns, strict=True)), schema))


def save_gallery(
    ranking: LabelRanking,
    path: Path,
    image_of: Callable[[int], npt.NDArray[np.uint8]],
    *,
    title: str = "Doubtful labels",
    count: int = 60,
) -> None:
    """Write a self-contained HTML page of the most doubtful labels.

    Args:
        ranking: ranking to show; select a part of it with :meth:`LabelRanking.only`.
        path: path of the file, which is written atomically.
        image_of: returns the image of a sample index, (H, W) or (H, W, 3) uint8.
        title: title of the page.
        count: maximum number of labels, >= 1.

    Raises:
        TypeError: if an image is not a uint8 array.
        ValueError: on an image of another shape, or count < 1.
    """
    checks.at_least("count", count, 1)
    shown = list(ranking.first(count))
    cards = [_card(ranking, row, image_of(row.sample)) for row in shown]
    kinds = (Verdict.UNKNOWN,) if ranking.caution else KNOWN_VERDICTS[::-1]
    counts = ", ".join(f"{len(ranking.only(each))} {each.name.lower()}" for each in kinds)
    summary = f"Of {len(ranking)} labels: {counts}. Here are the {len(shown)} most doubtful."
    caution = f" No verdicts: {ranking.caution}." if ranking.caution else ""
    head = _fill(HEAD, title=title, summary=summary + caution)
    page = head + "\n".join(cards) + "\n</ol>\n</main></body></html>\n"
    write_atomically(path, page.encode("utf-8", "backslashreplace"))


def _in_utf_8(name: Callable[[int], str]) -> Callable[[int], str]:
    """Escape characters that UTF-8 cannot encode by a backslash."""
    return lambda place: name(place).encode("utf-8", "backslashreplace").decode()


def _parts(ranking: LabelRanking) -> Iterator[LabelRanking]:
    for start in range(0, len(ranking), PART):
        yield ranking.rows(slice(start, start + PART))


def _fill(template: str, **values: str) -> str:
    """Fill an HTML template with escaped values."""
    return template.format(**{name: escape(value) for name, value in values.items()})


def _card(ranking: LabelRanking, row: DoubtfulLabel, pixels: npt.NDArray[np.uint8]) -> str:
    name = ranking.sample_name(row.sample)
    given, suggested = ranking.class_name(row.given), ranking.class_name(row.suggested)
    verdict = row.verdict.name.lower()
    return _fill(
        CARD,
        kind="small" if pixels.shape[1] < CARD_WIDTH else "",
        source=f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}",
        alt=f"{name}: labelled {given}, {verdict}, suggested {suggested}",
        verdict=verdict,
        name=name,
        given=given,
        suggested=suggested,
        doubt=f"{row.doubt:.1%}",
        plausibility=f"{row.plausibility:.1%}",
    )


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode a grey or RGB image as PNG.

    Args:
        pixels: (H, W) or (H, W, 3) bytes.

    Raises:
        TypeError: if `pixels` is not an array of bytes.
        ValueError: on another shape, or an empty image.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        got = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise TypeError(f"`pixels` must be a uint8 array; got {got}")
    is_gray = pixels.ndim == 2
    if not (is_gray or (pixels.ndim == 3 and pixels.shape[2] == 3)) or 0 in pixels.shape:
        raise ValueError(f"`pixels` must have shape (H, W) or (H, W, 3); got {pixels.shape}")
    height, width = pixels.shape[:2]
    lines = pixels.reshape(height, -1)
    # Each line starts with the type of its filter: 0, none.
    raw = np.hstack([np.zeros((height, 1), np.uint8), lines]).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, GRAY if is_gray else RGB, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
