"""Doubtful faces for other annotation tools, and their answers: Label Studio and FiftyOne.

Both are read and written as their JSON files; neither tool needs to be installed.
"""

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from examples.arbex.report.html_page import picture_url, png_bytes
from examples.arbex.review.queue import Review
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
        ValueError: if it is not such an export; it names the task.
    """
    labels = {}
    for number, task in enumerate(_read_json(path, list), start=1):
        where = f"{path}: task {number}"
        try:
            given = [each for each in task["annotations"] if not each.get("was_cancelled")]
            name = task["data"]["path"]
            results = [
                each["value"]["choices"]
                for each in (given[-1]["result"] if given else ())
                if each["from_name"] == CONTROL
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where} must be of an export as JSON, with data.path and annotations; "
                f"missing: {error}"
            ) from error
        if results:
            if len(results[0]) != 1:
                raise ValueError(f"{where} must have one choice; got {results[0]}")
            labels[name] = results[0][0]
    return labels


def export_fiftyone(review: Review, folder: Path) -> None:
    """Write ``data/`` with pictures, and ``labels.json`` with the given labels.

    The folder is a ``FiftyOneImageClassificationDataset``; each label has the suggestion and the
    doubt as attributes. A picture's name is the row of the face in its data set.

    Raises:
        OSError: if a file cannot be written.
    """
    labels = {}
    for number, face in enumerate(review.faces):
        with open_result(folder / "data" / f"{face.row:07}.png") as file:
            file.write(png_bytes(review.picture(number), PIXELS))
        labels[f"{face.row:07}"] = {
            "label": face.given,
            "attributes": {"suggested": face.suggested, "doubt": face.doubt, "path": face.name},
        }
    save_json(folder / "labels.json", {"classes": review.class_names, "labels": labels})


def read_fiftyone(path: Path, review: Review) -> dict[str, str]:
    """Return the changed labels in the ``labels.json`` of an exported classification data set.

    FiftyOne does not record which faces were looked at: an unchanged label is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file, or has other faces than the doubtful ones.
    """
    content = _read_json(path, dict)
    faces = {f"{face.row:07}": face for face in review.faces}
    changed = {}
    try:
        for key, value in content["labels"].items():
            if key not in faces:
                raise ValueError(f"{path}: faces must be among the doubtful ones; got {key!r}")
            label = value["label"] if isinstance(value, dict) else value
            if isinstance(label, int):
                label = content["classes"][label]
            if label is not None and label != faces[key].given:
                changed[faces[key].name] = label
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: must have labels of a FiftyOneImageClassificationDataset; got {error!r}"
        ) from error
    return changed


def _read_json(path: Path, kind: type[Any]) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"`file` must be an export as JSON; got {path}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: must be JSON: {error}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path}: must hold a JSON {kind.__name__}; got {type(content).__name__}")
    return content
