"""Doubtful faces for other annotation tools, and their answers: Label Studio and FiftyOne.

Both are read and written as their JSON files; neither tool needs to be installed.
"""

import json
from pathlib import Path
from textwrap import shorten
from typing import Any
from xml.sax.saxutils import quoteattr
from zlib import crc32

from examples.arbex.readers.rows import ReadingError
from examples.arbex.report.html_page import picture_url, png_bytes
from examples.arbex.review.queue import DoubtfulFace, Review
from examples.result_files import open_result, save_json, save_text

CONTROL, OBJECT = "expression", "face"  # names of Label Studio's tags
PIXELS = 1024  # of a picture's longer side


def export_label_studio(review: Review, folder: Path) -> None:
    """Write ``tasks.json``, with pictures and suggestions, and the labelling ``config.xml``.

    Raises:
        OSError: if a file cannot be written.
    """
    choices = "".join(f"\n    <Choice value={quoteattr(each)}/>" for each in review.class_names)
    save_text(
        folder / "config.xml",
        f'<View>\n  <Image name="{OBJECT}" value="$image"/>\n'
        '  <Header value="labelled $given, suggested $suggested"/>\n'
        f'  <Choices name="{CONTROL}" toName="{OBJECT}" choice="single" required="true">'
        f"{choices}\n  </Choices>\n</View>\n",
    )
    tasks = [
        {
            "data": {
                "image": picture_url(review.picture(number), PIXELS),
                "path": face.name,
                "given": face.given,
                "suggested": face.suggested,
                "doubt": f"{face.doubt:.0%}",
            },
            "predictions": [
                {
                    "model_version": "reliability_balance",
                    "score": face.doubt,
                    "result": [
                        {
                            "from_name": CONTROL,
                            "to_name": OBJECT,
                            "type": "choices",
                            "value": {"choices": [face.suggested]},
                        }
                    ],
                }
            ],
        }
        for number, face in enumerate(review.faces)
    ]
    save_json(folder / "tasks.json", tasks)


def read_label_studio(path: Path) -> dict[str, str]:
    """Return the label of each annotated face in an export as JSON; the last annotation counts.

    Skipped tasks, and tasks without annotations, are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ReadingError: if it is not such an export, an annotation has several choices, or two tasks
            give a face different labels; it names the task and the face.
    """
    labels: dict[str, str] = {}
    for number, task in enumerate(_read_json(path, list), start=1):
        where = f"{path}: task {number}"
        name = task["data"].get("path") if _holds(task, "data", dict) else None
        if not isinstance(name, str) or not _holds(task, "annotations", list):
            raise ReadingError(
                where,
                "a task of an export as JSON, with text at data.path and a list of annotations",
                _short(task),
            )
        where = f"{where}, {name}"
        label = _choice(task["annotations"], where)
        if label is not None and labels.setdefault(name, label) != label:
            raise ReadingError(
                where, f"one label per face, {labels[name]!r} as before", repr(label)
            )
    return labels


def _choice(annotations: list[Any], where: str) -> str | None:
    """Return the choice of the last annotation; None if there is none."""
    if not all(isinstance(each, dict) for each in annotations):
        raise ReadingError(where, "annotations with a list `result`", _short(annotations))
    given = [each for each in annotations if not each.get("was_cancelled")]
    if not given:
        return None
    results = given[-1].get("result")
    if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
        raise ReadingError(where, "annotations with a list `result`", _short(given[-1]))
    values = [each.get("value") for each in results if each.get("from_name") == CONTROL]
    if not values:
        return None
    choices: Any = values[0].get("choices") if isinstance(values[0], dict) else None
    if len(values) > 1 or not _is_one_text(choices):
        raise ReadingError(where, "one choice, as a list of one class", _short(values))
    return str(choices[0])


def _is_one_text(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)


def _holds(value: Any, key: str, kind: type[Any]) -> bool:
    return isinstance(value, dict) and isinstance(value.get(key), kind)


def _short(value: object) -> str:
    return shorten(repr(value), 120)


def export_fiftyone(review: Review, folder: Path) -> None:
    """Write ``data/`` with pictures, and ``labels.json`` with the given labels.

    The folder is a ``FiftyOneImageClassificationDataset``; each label has the suggestion and the
    doubt as attributes. A picture's name is the row of the face in its data set, and a checksum of
    the face's name, since FiftyOne's own export may leave out the attributes.

    Raises:
        OSError: if a file cannot be written.
    """
    labels = {}
    for number, face in enumerate(review.faces):
        with open_result(folder / "data" / f"{_key(face)}.png") as file:
            file.write(png_bytes(review.picture(number), PIXELS))
        labels[_key(face)] = {
            "label": face.given,
            "attributes": {"suggested": face.suggested, "doubt": face.doubt, "path": face.name},
        }
    save_json(folder / "labels.json", {"classes": review.class_names, "labels": labels})


def read_fiftyone(path: Path, review: Review) -> dict[str, str]:
    """Return the changed labels in the ``labels.json`` of an exported classification data set.

    FiftyOne does not record which faces were looked at: an unchanged label is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ReadingError: if it is not such a file, or has other faces than the doubtful ones; it names
            the face.
    """
    content = _read_json(path, dict)
    if not _holds(content, "labels", dict):
        raise ReadingError(path, "labels of a FiftyOneImageClassificationDataset", list(content))
    faces = {_key(face): face for face in review.faces}
    changed = {}
    for key, value in content["labels"].items():
        where = f"{path}: {key}"
        attributes = value.get("attributes") if isinstance(value, dict) else None
        exported = attributes.get("path") if isinstance(attributes, dict) else None
        if key not in faces:
            raise ReadingError(where, "one of the doubtful faces", exported or "another")
        face = faces[key]
        if exported not in (None, face.name):
            raise ReadingError(where, f"the face {face.name}", f"{exported}, of other data")
        label = value.get("label") if isinstance(value, dict) else value
        label = _class(label, content.get("classes"), where)
        if label not in (None, face.given):
            changed[face.name] = label
    return changed


def _key(face: DoubtfulFace) -> str:
    return f"{face.row:07}-{crc32(face.name.encode()):08x}"


def _class(label: Any, classes: Any, where: str) -> str | None:
    """Return a label that is text, an index of the classes, or None."""
    if label is None or isinstance(label, str):
        return label
    if type(label) is int and isinstance(classes, list) and 0 <= label < len(classes):
        return str(classes[label])
    raise ReadingError(where, "a class, or the index of one in `classes`", _short(label))


def _read_json(path: Path, kind: type[Any]) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"`file` must be an export as JSON; got {path}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ReadingError(path, "JSON", error) from error
    if not isinstance(content, kind):
        raise ReadingError(path, f"a JSON {kind.__name__}", type(content).__name__)
    return content
