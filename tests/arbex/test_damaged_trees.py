"""Each kind of damage to a data set gives an error that names file, line, form and finding."""

import re

import face_trees
import numpy as np
import pytest
import torch
from synthetic_faces import synthetic_table

from examples.arbex.faces.face_dataset import FaceDataset, drop_corrupt
from examples.arbex.faces.image_sources import CorruptImageError
from examples.arbex.readers.reading import check_images, read_faces
from examples.arbex.readers.rows import ReadingError, SplitOptions


def replace_text(path, old, new):
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode()))


def delete(path):
    if path.is_dir():
        for each in path.iterdir():
            delete(each)
        path.rmdir()
    else:
        path.unlink()


def in_raf_list(old, new):
    return lambda root: replace_text(root / face_trees.RAF_LIST, old, new)


def in_video(old, new):
    name = f"{face_trees.ANNOTATIONS}/Train_Set/1-30-1280x720.txt"
    return lambda root: replace_text(root / name, old, new)


def in_ratings(old, new):
    return lambda root: replace_text(root / "jaffe/A_README_FIRST.txt", old, new)


def in_file(name, old, new):
    return lambda root: replace_text(root / name, old, new)


def without(name):
    return lambda root: delete(root / name)


def write_bytes(name, content):
    return lambda root: (root / name).write_bytes(content)


HAPPY = "29 5.00 1.00 1.00 1.00 1.00 1.00 KA-HA1"

# data set, damage, error, what its message says in this order
DAMAGE = {
    "raf: no such folder": (
        "raf-db",
        lambda root: delete(root),
        FileNotFoundError,
        "does not exist",
    ),
    "raf: no list": (
        "raf-db",
        without(face_trees.RAF_LIST),
        FileNotFoundError,
        "expected the list of labels at EmoLabel/list_patition_label.txt",
    ),
    "raf: only originals": (
        "raf-db",
        lambda root: (root / face_trees.RAF_ALIGNED).rename(root / "basic/Image/original"),
        FileNotFoundError,
        "the aligned faces at Image/aligned",
    ),
    "raf: empty list": (
        "raf-db",
        write_bytes(face_trees.RAF_LIST, b"\n"),
        ReadingError,
        "list_patition_label.txt: expected rows of text; got an empty file",
    ),
    "raf: binary list": (
        "raf-db",
        write_bytes(face_trees.RAF_LIST, b"\xff\xfe\x00t"),
        ReadingError,
        "expected UTF-8 text",
    ),
    "raf: label from 0": (
        "raf-db",
        in_raf_list("train_00003.jpg 3", "train_00003.jpg 0"),
        ReadingError,
        "list_patition_label.txt:3: expected .* label from 1 to 7; got '0'",
    ),
    "raf: label beyond 7": (
        "raf-db",
        in_raf_list("test_0007.jpg 7", "test_0007.jpg 8"),
        ReadingError,
        "list_patition_label.txt:21: .* got '8'",
    ),
    "raf: label is a word": (
        "raf-db",
        in_raf_list("train_00002.jpg 2", "train_00002.jpg fear"),
        ReadingError,
        "list_patition_label.txt:2: .* got 'fear'",
    ),
    "raf: row without label": (
        "raf-db",
        in_raf_list("train_00004.jpg 4", "train_00004.jpg"),
        ReadingError,
        "list_patition_label.txt:4: expected a row like `train_00001.jpg 5`.* got 'train_00004",
    ),
    "raf: name of no split": (
        "raf-db",
        in_raf_list("train_00005.jpg", "val_00005.jpg"),
        ReadingError,
        "list_patition_label.txt:5: expected a name that begins with train_ or test_; got 'val_",
    ),
    "raf: image listed twice": (
        "raf-db",
        in_raf_list("train_00006.jpg", "train_00001.jpg"),
        ReadingError,
        "list_patition_label.txt:6: expected each image once; got train_00001 again, as on .*:1",
    ),
    "raf: no image left": (
        "raf-db",
        lambda root: [delete(p) for p in (root / face_trees.RAF_ALIGNED).glob("*.jpg")],
        ReadingError,
        "expected at least one face with a label; got none; missing image: ",
    ),
    "aff: no frames": (
        "aff-wild2",
        without("cropped_aligned"),
        FileNotFoundError,
        "expected the frames at cropped_aligned",
    ),
    "aff: no annotations": (
        "aff-wild2",
        without("Third ABAW Annotations"),
        FileNotFoundError,
        "expected a folder EXPR_Classification_Challenge or EXPR_Recognition_Challenge",
    ),
    "aff: no header": (
        "aff-wild2",
        in_video(face_trees.AFF_HEADER, "0"),
        ReadingError,
        "1-30-1280x720.txt:1: expected a header like .*; got '0'",
    ),
    "aff: valence and arousal": (
        "aff-wild2",
        in_video(face_trees.AFF_HEADER, "valence,arousal"),
        ReadingError,
        "1-30-1280x720.txt:1: .* valence-arousal challenge",
    ),
    "aff: code out of range": (
        "aff-wild2",
        in_video("\n7\n", "\n8\n"),
        ReadingError,
        "1-30-1280x720.txt:6: expected a code from -1 to 7; got '8'",
    ),
    "aff: code is no number": (
        "aff-wild2",
        in_video("\n-1\n", "\n?\n"),
        ReadingError,
        "1-30-1280x720.txt:4: expected a code from -1 to 7; got '\\?'",
    ),
    "aff: blank line would shift frames": (
        "aff-wild2",
        in_video("\n-1\n", "\n\n"),
        ReadingError,
        "1-30-1280x720.txt:4: expected a code from -1 to 7; got ''",
    ),
    "aff: other classes in one file": (
        "aff-wild2",
        in_video(",Other", ",Contempt"),
        ReadingError,
        "expected classes",
    ),
    "aff: video in both sets": (
        "aff-wild2",
        lambda root: face_trees.write_text(
            root / face_trees.ANNOTATIONS / "Validation_Set/1-30-1280x720.txt", "Neutral,Anger\n0"
        ),
        ReadingError,
        "expected each video in one set",
    ),
    "jaffe: unknown pose": (
        "jaffe",
        lambda root: (root / "jaffe/KA.AN1.39.tiff").rename(root / "jaffe/KA.XX1.39.tiff"),
        ReadingError,
        "KA.XX1.39.tiff: expected a pose of NE, AN, .*; got XX",
    ),
    "jaffe: no table of ratings": (
        "jaffe",
        in_ratings("#   HAP  SAD  SUR  ANG  DIS  FEA  PIC", "ratings"),
        ReadingError,
        "A_README_FIRST.txt: expected a line `# HAP SAD SUR ANG DIS FEA PIC`; got none",
    ),
    "jaffe: five ratings in a row": (
        "jaffe",
        in_ratings(HAPPY, HAPPY.replace(" 1.00 KA", " KA")),
        ReadingError,
        "A_README_FIRST.txt:8: expected a row like .*; got '29 5.00",
    ),
    "jaffe: rating beyond 5": (
        "jaffe",
        in_ratings(HAPPY, HAPPY.replace("5.00", "50.0")),
        ReadingError,
        "A_README_FIRST.txt:8: expected means from 1 to 5; got",
    ),
    "jaffe: nobody to hold out": (
        "jaffe",
        lambda root: None,
        ValueError,
        "`held_out` must name groups of the data, KA, KL, NM, YM; got QQ",
    ),
    "ferg: folder of another name": (
        "ferg-db",
        lambda root: (root / "FERG_DB_256/aia/aia_joy").rename(root / "FERG_DB_256/aia/aia_bliss"),
        ReadingError,
        "aia_bliss: expected a folder like aia_anger or aia_joy; got aia_bliss",
    ),
    "fer+: neither folders nor tables": (
        "fer-plus",
        without("FER2013Train"),
        FileNotFoundError,
        "expected the folders FER2013Train, .* or the files fer2013new.csv and fer2013.csv",
    ),
    "fer+: no votes in a folder": (
        "fer-plus",
        without("FER2013Test/label.csv"),
        FileNotFoundError,
        "label.csv: expected the votes of FER2013Test",
    ),
    "fer+: box not quoted": (
        "fer-plus",
        in_file("FER2013Train/label.csv", '"(0, 0, 48, 48)",5', "(0, 0, 48, 48),5"),
        ReadingError,
        "label.csv:2: expected a name, a quoted box and 10 votes; got",
    ),
    "fer+: a vote that is no number": (
        "fer-plus",
        in_file("FER2013Valid/label.csv", ",7,", ",x,"),
        ReadingError,
        "label.csv:1: expected 10 counts of votes, not all 0; got 0,0,x",
    ),
    "fer+: no votes in a row": (
        "fer-plus",
        in_file("FER2013Test/label.csv", "1,0,0,9", "0,0,0,0"),
        ReadingError,
        "label.csv:1: expected 10 counts of votes, not all 0",
    ),
    "fer+ tables: header": (
        "fer-plus tables",
        in_file("fer2013new.csv", "contempt", "disdain"),
        ReadingError,
        "fer2013new.csv:1: expected a header of usage,image name,neutral",
    ),
    "fer+ tables: usage": (
        "fer-plus tables",
        in_file("fer2013new.csv", "PublicTest", "Public"),
        ReadingError,
        "fer2013new.csv:7: expected a usage of Training, PublicTest, PrivateTest; got 'Public'",
    ),
    "fer+ tables: columns": (
        "fer-plus tables",
        in_file("fer2013new.csv", "fer0000003.png,0,", "fer0000003.png,"),
        ReadingError,
        "fer2013new.csv:5: expected 12 columns; got 11",
    ),
    "fer+ tables: a row of pixels too few": (
        "fer-plus tables",
        lambda root: (root / "fer2013.csv").write_text(
            "".join((root / "fer2013.csv").open().readlines()[:-1])
        ),
        ReadingError,
        "fer2013.csv: expected 7 rows, one for each row of votes; got 6",
    ),
    "fer+ tables: rows of another order": (
        "fer-plus tables",
        in_file("fer2013.csv", "PublicTest", "PrivateTest"),
        ReadingError,
        "fer2013.csv:7: expected the split of .*fer2013new.csv:7; got 'PrivateTest'",
    ),
    "fer+ tables: pixels cut short": (
        "fer-plus tables",
        in_file("fer2013.csv", "3 3 3 3 ", ""),
        ReadingError,
        "fer2013.csv:5: expected 2304 pixels from 0 to 255",
    ),
    "affectnet: no train": (
        "affectnet",
        without("train"),
        ReadingError,
        "expected a folder `train`; got val",
    ),
    "affectnet: annotation of a pickle": (
        "affectnet annotations",
        lambda root: np.save(
            root / "train_set/annotations/3_exp.npy", np.array({"a": 1}), allow_pickle=True
        ),
        ReadingError,
        "3_exp.npy: expected one code from 0 to 10; got",
    ),
    "affectnet: code out of range": (
        "affectnet annotations",
        lambda root: np.save(root / "val_set/annotations/3_exp.npy", np.array("11")),
        ReadingError,
        "3_exp.npy: expected one code from 0 to 10; got 11",
    ),
    "folders: one class": (
        "folders",
        without("calm"),
        ReadingError,
        "expected images of two classes or more; got \\('cross',\\)",
    ),
    "csv: header": (
        "csv",
        in_file("faces.csv", "image,label", "file,label"),
        ReadingError,
        "faces.csv:1: expected a header of image, label, split, group, each once; got",
    ),
    "csv: columns": (
        "csv",
        in_file("faces.csv", "3.png,10,", "3.png,"),
        ReadingError,
        "faces.csv:5: expected 3 columns; got 2",
    ),
    "csv: no image": (
        "csv",
        in_file("faces.csv", "pictures/3.png,10,", ",10,"),
        ReadingError,
        "faces.csv:5: expected the path of an image; got none",
    ),
    "csv: unknown split": (
        "csv",
        in_file("faces.csv", "label,group", "label,split"),
        ReadingError,
        "faces.csv:2: expected a split of train, validation, test; got 'person 0'",
    ),
}
TREES = face_trees.TREES | {
    "fer-plus tables": face_trees.fer_plus_tables,
    "affectnet annotations": face_trees.affectnet_annotations,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind, tmp_path):
    tree, damage, error, message = DAMAGE[kind]
    root = TREES[tree](tmp_path / "data")
    damage(root)
    splits = SplitOptions(held_out=("QQ",)) if "hold out" in kind else None
    with pytest.raises(error, match=message) as caught:
        read_faces(tree.split()[0], root, splits=splits)
    assert str(root) in str(caught.value) or "held_out" in message


@pytest.mark.parametrize(
    ("damage", "content"),
    [
        ("cut short", lambda whole: whole[: len(whole) // 2]),
        ("text", lambda whole: b"<html>not found</html>"),
        ("header only", lambda whole: whole[:24]),
    ],
)
def test_a_damaged_image_is_an_error_or_is_left_out_and_reported(tmp_path, damage, content):
    face_trees.raf_db(tmp_path)
    path = tmp_path / face_trees.RAF_ALIGNED / "train_00002_aligned.jpg"
    path.write_bytes(content(path.read_bytes()))
    table = read_faces("raf-db", tmp_path)
    with pytest.raises(
        CorruptImageError, match=f"{re.escape(str(path))} must be an image .* bytes"
    ):
        FaceDataset(table, lambda image: image)[1]
    sound = drop_corrupt(table)
    assert len(sound) == len(table) - 1
    assert list(sound.names) == [name for name in table.names if not name.endswith(path.name)]
    (problem,) = sound.problems
    assert problem.kind == "corrupt image"
    assert problem.where.endswith(path.name)
    assert drop_corrupt(sound) is sound


def test_a_file_that_vanished_is_not_called_corrupt(tmp_path):
    table = read_faces("raf-db", face_trees.raf_db(tmp_path))
    (tmp_path / face_trees.RAF_ALIGNED / "train_00001_aligned.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="train_00001_aligned"):
        table.images[0]


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"`dataset` must be one of rendered, raf-db.* got 'raf'"):
        read_faces("raf", tmp_path)
    table = synthetic_table()
    with pytest.raises(ValueError, match=r"`corrupt` must be one of error, skip, un.*; got 'drop'"):
        check_images(table, "drop", torch.arange(3))
    with pytest.raises(ValueError, match=r"`root` must .* None: add --set data\.root=FOLDER"):
        read_faces("raf-db", None)
    official = face_trees.raf_db(tmp_path)
    with pytest.raises(ValueError, match="`held_out` must be empty where the test set is official"):
        read_faces("raf-db", official, splits=SplitOptions(held_out=("train_00001",)))
    with pytest.raises(ValueError, match=r"`test_share` must lie in \[0, 1\); got 1.5"):
        SplitOptions(test_share=1.5)
