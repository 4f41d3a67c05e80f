"""Data never shrink in silence: what a reader leaves out is counted, and too much is an error."""

import os
import time
from dataclasses import replace

import face_trees
import pytest
import torch
from synthetic_faces import synthetic_table

from examples.arbex.configuration import Data
from examples.arbex.faces.completeness import (
    describe_completeness,
    expect_complete,
    missing_share,
    with_lone_classes,
)
from examples.arbex.faces.face_table import FaceTable, Problem
from examples.arbex.faces.image_sources import CorruptImageError
from examples.arbex.readers.labels import is_no_label, name_classes
from examples.arbex.readers.reading import check_images, read_faces
from examples.arbex.readers.rows import ReadingError
from examples.arbex.run_data import load_faces
from examples.arbex.serving.media import read_media
from examples.image_data import load_images

TREES = face_trees.TREES | {"affectnet annotations": face_trees.affectnet_annotations}


def kinds(table):
    counts = {}
    for problem in table.problems:
        counts[problem.kind] = counts.get(problem.kind, 0) + problem.count
    return counts


def lost(table):
    return sum(problem.count for problem in table.problems if problem.lost)


def tree_of(root, count=12, names=("happy", "sad"), parts=("train", "test")):
    """Folders of splits and classes, with `count` pictures each; all pictures differ."""
    value = 0
    for part in parts:
        for name in names:
            for number in range(count):
                value += 1
                face_trees.write_image(root / part / name / f"{number:03}.png", value)
    return root


def csv_of(root, labels, header="image,label", extra=""):
    """A table of one picture a label."""
    lines = [header]
    for number, label in enumerate(labels):
        face_trees.write_image(root / f"{number}.png", 20 * number + 1)
        lines.append(f"{number}.png,{label}{extra}")
    return face_trees.write_text(root / "faces.csv", "\n".join(lines) + "\n")


# The layout


def test_pictures_one_folder_too_deep_are_counted_and_are_an_error(tmp_path):
    """80 of 92 were gone, and nothing was said."""
    tree_of(tmp_path, count=3)
    for number in range(80):
        face_trees.write_image(tmp_path / "train/happy/session 1" / f"{number}.png", number)
    table = read_faces("folders", tmp_path)
    assert len(table) == 12
    assert kinds(table) == {"image in another place": 80}
    assert missing_share(table) == (80, 92)
    data = Data(dataset="folders", root=tmp_path)
    with pytest.raises(ValueError, match=r"`data.max_missing` must .* got 0.1, and 80 of 92") as no:
        load_faces(data)
    assert str(tmp_path / "train/happy/session 1") in str(no.value)
    assert len(load_faces(replace(data, max_missing=0.9))) == 12


@pytest.mark.parametrize("tree", TREES)
def test_every_reader_counts_a_picture_that_moved(tree, tmp_path):
    dataset = tree.split()[0]
    root = TREES[tree](tmp_path)
    before = read_faces(dataset, root)
    file = before.images.root / before.names[0]
    (file.parent / "more").mkdir()
    file.rename(file.parent / "more" / file.name)
    after = read_faces(dataset, root)
    assert len(after) == len(before) - 1
    assert lost(after) > lost(before)


@pytest.mark.parametrize("tree", ["raf-db", "aff-wild2", "jaffe", "fer-plus", "csv"])
def test_every_list_tells_of_a_picture_that_is_gone(tree, tmp_path):
    dataset = tree.split()[0]
    root = TREES[tree](tmp_path)
    before = read_faces(dataset, root)
    (before.images.root / before.names[0]).unlink()
    assert lost(read_faces(dataset, root)) == lost(before) + 1


def test_annotations_tell_of_a_picture_that_is_gone(tmp_path):
    face_trees.affectnet_annotations(tmp_path)
    (tmp_path / "train_set/images/3.jpg").unlink()
    assert kinds(read_faces("affectnet", tmp_path)) == {"missing image": 1}


@pytest.mark.parametrize(
    ("dataset", "place"),
    [
        ("folders", "loose.png"),
        ("folders", "train/loose.png"),
        ("folders", "extra/happy/loose.png"),
        ("folders", "train/nan/loose.png"),
        ("folders", "train/happy/a/b/loose.JPG"),
        ("affectnet", "train/grumpy/loose.png"),
        ("ferg-db", "FERG_DB_256/aia/loose.png"),
        ("jaffe", "jaffe/loose.tiff"),
        ("raf-db", f"{face_trees.RAF_ALIGNED}/loose.jpg"),
        ("fer-plus", "FER2013Test/loose.png"),
        ("aff-wild2", "cropped_aligned/video5/1.jpg"),
        ("aff-wild2", "cropped_aligned/video5/00003.png"),
        ("aff-wild2", "cropped_aligned/loose.jpg"),
    ],
)
def test_a_picture_where_none_belongs_is_counted(dataset, place, tmp_path):
    root = tree_of(tmp_path) if dataset == "folders" else face_trees.TREES[dataset](tmp_path)
    before = read_faces(dataset, root)
    face_trees.write_image(root / place, 9)
    after = read_faces(dataset, root)
    assert list(after.names) == list(before.names)
    assert lost(after) == lost(before) + 1


def test_what_systems_leave_among_pictures_is_no_class_and_no_picture(tmp_path):
    tree_of(tmp_path)
    before = list(read_faces("folders", tmp_path).names)
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints", "$RECYCLE.BIN", "__pycache__"):
        face_trees.write_image(tmp_path / "train" / name / "1.png", 3)
        face_trees.write_image(tmp_path / "train/happy" / name / "1.png", 3)
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._000.png"):
        face_trees.write_text(tmp_path / "train/happy" / name, "Mac OS X")
    table = read_faces("folders", tmp_path)
    assert table.class_names == ("happy", "sad")
    assert list(table.names) == before
    assert kinds(table) == {"system folder": 10}
    assert lost(table) == 0
    assert load_images(tmp_path, image_size=8).class_names == ["happy", "sad"]
    assert [frame.problem for frame in read_media(tmp_path)] == [None] * 48


def test_files_that_are_no_pictures(tmp_path):
    tree_of(tmp_path)
    folder = tmp_path / "train/happy"
    before = len(read_faces("folders", tmp_path))
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to(tmp_path / "nothing")
    (folder / "000.png").write_bytes(b"")
    face_trees.write_image(folder / ".hidden.png")
    for name in ("new.heic", "without suffix", "notes.txt"):
        face_trees.write_text(folder / name, "x")
    table = read_faces("folders", tmp_path)
    assert len(table) == before - 1
    assert kinds(table) == {
        "no regular file": 2,
        "empty image": 1,
        "hidden image": 1,
        "image of another format": 2,
        "stray file": 1,
    }
    assert lost(table) == 6


def test_upper_case_suffixes_and_links_are_read(tmp_path):
    root = tree_of(tmp_path / "data")
    face_trees.write_image(root / "train/happy/A.PNG", 500)
    linked = tree_of(tmp_path / "elsewhere", parts=("a",), names=("angry",)) / "a/angry"
    (root / "train/angry").symlink_to(linked)
    (root / "test/angry").symlink_to(linked)
    (root / "train/happy/loop").symlink_to(root)
    table = read_faces("folders", root)
    assert table.class_names == ("angry", "happy", "sad")
    assert len(table) == 49 + 24
    assert kinds(table) == {"linked folder": 1}


def test_folders_of_splits_may_be_links(tmp_path):
    root = tree_of(tmp_path / "data")
    tree_of(tmp_path / "elsewhere", parts=("val",))
    (root / "val").symlink_to(tmp_path / "elsewhere/val")
    table = read_faces("folders", root)
    assert len(table) == 72
    assert kinds(table) == {}


def test_a_folder_without_pictures_is_no_class(tmp_path):
    face_trees.write_text(tree_of(tmp_path) / "train/notes/a.json", "{}")
    table = read_faces("folders", tmp_path)
    assert table.class_names == ("happy", "sad")
    assert kinds(table) == {"stray file": 1, "folder without images": 1}


def test_a_root_one_folder_too_high_tells_where_the_pictures_are(tmp_path):
    tree_of(tmp_path / "set")
    with pytest.raises(ReadingError, match=r"got none; image in another place: .*set"):
        read_faces("folders", tmp_path)


# Splits


def test_two_spellings_of_a_class_are_refused(tmp_path):
    """Four classes were made of it, and 0 % were right."""
    tree_of(tmp_path, names=("Happy", "Sad"), parts=("train",))
    tree_of(tmp_path, names=("happy", "sad"), parts=("test",))
    with pytest.raises(ReadingError, match=r"class; 'happy' at .*test/happy; got 'Happy', which"):
        read_faces("folders", tmp_path)


def test_a_class_in_one_split_alone_is_counted(tmp_path):
    tree_of(tmp_path, parts=("train", "val", "test"))
    tree_of(tmp_path, names=("anger",), parts=("test",))
    tree_of(tmp_path, names=("angry",), parts=("train", "val"))
    table = with_lone_classes(read_faces("folders", tmp_path))
    assert kinds(table) == {"class that only one split has": 36}
    assert {problem.where: problem.detail for problem in table.problems} == {
        "anger": "it has images, but none to train on",
        "angry": "it has images, but none to test on",
    }
    with pytest.raises(ValueError, match=r"36 of 108 are: class that only one split has: 36, "):
        expect_complete(table, 0.1)


def test_without_a_test_set_no_class_lacks_in_it(tmp_path):
    path = csv_of(tmp_path, "aabb", header="image,label,split", extra=",train")
    table = with_lone_classes(read_faces("csv", path))
    assert table.problems == ()


def test_rare_faces_missing_are_told_and_are_no_error():
    problems = (Problem("missing image", "list:3", "expected a.png", 4, lost=True),)
    table = replace(synthetic_table(96), problems=(*problems, Problem("stray file", "x", "y", 99)))
    expect_complete(table, 0.04)
    with pytest.raises(ValueError, match="4 of 100"):
        expect_complete(table, 0.039)
    text = describe_completeness(table)
    assert text.startswith(
        "synthetic: 96 faces; left out, or of a class that only one split has: 4 of"
    )
    assert "missing image: 4\n    list:3: expected a.png" in text


# Labels


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("3", "3.0"),
        ("3", "03"),
        ("3", "3e0"),
        ("10", "1e1"),
        ("happy", "Happy"),
        ("very happy", "very_happy"),
        ("very happy", "very  happy"),
        ("happy", "happy\u200b"),
        ("stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("3", "\uff13"),
    ],
)
def test_one_class_written_in_two_ways_is_refused(first, second, tmp_path):
    path = csv_of(tmp_path, [first, "other", second, "other"])
    with pytest.raises(ReadingError) as refusal:
        read_faces("csv", path)
    for expected in (f"{path}:4", f"{path}:2", repr(first), repr(second), "the same class"):
        assert expected in str(refusal.value)


@pytest.mark.parametrize("text", ["nan", "NaN", "NULL", "None", "n/a", "-1", "-1.0", "", " ", "-"])
def test_labels_that_stand_for_none_are_left_out_and_counted(text, tmp_path):
    path = csv_of(tmp_path, ["0", "1", text, "0", "1"])
    table = read_faces("csv", path)
    assert table.class_names == ("0", "1")
    assert "2.png" not in list(table.names)
    assert kinds(table) == {"no label": 1}
    assert table.problems[0].where == f"{path}:4"
    assert lost(table) == 1


@pytest.mark.parametrize("text", ["0", "neutral", "1", "a", "banana", "nana", "+1"])
def test_other_labels_are_labels(text):
    assert not is_no_label(text)


def test_measured_values_are_no_classes(tmp_path):
    with pytest.raises(ReadingError, match=r"faces.csv:3: expected a class; got '0.25', which is"):
        read_faces("csv", csv_of(tmp_path, ["1", "0.25", "1"]))


def test_numbers_are_ordered_by_value_however_they_are_written(tmp_path):
    places = dict.fromkeys(["10.0", "9.0", "1e2", "-2"], "here")
    assert name_classes(tmp_path, places) == ("-2", "9.0", "10.0", "1e2")
    assert name_classes(tmp_path, dict.fromkeys(["b", "10", "9"], "here")) == ("10", "9", "b")


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = csv_of(tmp_path, ["a", "b"], header="image,label,Label ", extra=",c")
    with pytest.raises(ReadingError, match=r"faces.csv:1: .* each once; got .*'label', 'label'"):
        read_faces("csv", path)


def test_a_column_that_is_not_read_is_told(tmp_path):
    table = read_faces("csv", csv_of(tmp_path, "abab", header="image,label,usage", extra=",test"))
    (problem,) = table.problems
    assert (problem.kind, problem.detail) == ("other column", "'usage' was not read")


@pytest.mark.parametrize("again", ["1.png,a,train", "1.png,b,test", "./x/../1.png,a,train"])
def test_a_picture_with_two_labels_or_splits_is_refused(again, tmp_path):
    path = csv_of(tmp_path, "abab", header="image,label,split", extra=",train")
    (tmp_path / "x").mkdir()
    path.write_text(path.read_text() + again + "\n")
    column = "split" if "test" in again else "label"
    with pytest.raises(ReadingError, match=rf"csv:6: .* one {column}; got .* another .*csv:3"):
        read_faces("csv", path)


def test_a_row_that_is_repeated_counts_twice_and_is_told(tmp_path):
    path = csv_of(tmp_path, "abab")
    path.write_text(path.read_text() + "1.png,b\n")
    table = read_faces("csv", path)
    assert len(table) == 5
    assert kinds(table) == {"repeated row": 1}
    assert lost(table) == 0


def test_tables_as_spreadsheets_write_them(tmp_path):
    for name in ("0, the first.png", "1.png", "2.png", "3.png"):
        face_trees.write_image(tmp_path / name, len(name))
    text = '\ufeffImage,LABEL \r\n"0, the first.png", a \r\n\r\n1.png,b\r\n,\r\n2.png,a\u00a0\r\n'
    path = face_trees.write_text(tmp_path / "faces.csv", text + "3.png,b")
    table = read_faces("csv", path)
    assert table.class_names == ("a", "b")
    assert table.labels.tolist() == [0, 1, 0, 1]
    assert table.problems == ()


def test_360_of_400_pictures_that_are_missing_are_an_error(tmp_path):
    path = csv_of(tmp_path, ["a", "b"] * 20)
    rows = [f"gone/{number}.png,a" for number in range(360)]
    path.write_text(path.read_text() + "\n".join(rows))
    with pytest.raises(ValueError, match=r"360 of 400 are: missing image: 360, such as .*csv:42: "):
        load_faces(Data(dataset="csv", root=path))


def test_thirty_thousand_labels_are_read_in_linear_time_and_refused(tmp_path):
    places = {f"person {number}": "here" for number in range(30_000)}
    start = time.perf_counter()
    assert len(name_classes(tmp_path, places)) == 30_000
    lines = [f"{number}.png,person {number}" for number in range(8_000)]
    for number in range(8_000):
        (tmp_path / f"{number}.png").touch()
    path = face_trees.write_text(tmp_path / "faces.csv", "image,label\n" + "\n".join(lines))
    with pytest.raises(ValueError, match="8000 of 8000 are: class that only one split has: 8000"):
        load_faces(Data(dataset="csv", root=path, corrupt="unchecked"))
    assert time.perf_counter() - start < 60  # by 8,000 look-ups in a list of as many it is minutes


# Damage


def damaged(root):
    tree_of(root)
    path = root / "train/happy/003.png"
    path.write_bytes(path.read_bytes()[:40])
    return path


def test_damage_is_found_before_training_and_the_way_out_is_named(tmp_path):
    path = damaged(tmp_path)
    data = Data(dataset="folders", root=tmp_path)
    with pytest.raises(CorruptImageError) as refusal:
        load_faces(data)
    for expected in (str(path), "1 of 48 images are damaged", "data.corrupt=skip"):
        assert expected in str(refusal.value)
    table = load_faces(replace(data, corrupt="skip"))
    assert len(table) == 47
    assert kinds(table) == {"corrupt image": 1}
    assert missing_share(table) == (1, 48)
    assert len(load_faces(replace(data, corrupt="unchecked"))) == 48


def test_only_images_that_are_used_are_looked_at(tmp_path):
    damaged(tmp_path)
    table = load_faces(Data(dataset="folders", root=tmp_path), used=2)
    assert len(table) == 48
    with pytest.raises(CorruptImageError):
        load_faces(Data(dataset="folders", root=tmp_path), used=0)


def test_a_class_whose_images_are_all_damaged_in_the_test_stands_alone(tmp_path):
    for path in (tree_of(tmp_path) / "test/sad").iterdir():
        path.write_bytes(b"no image")
    data = Data(dataset="folders", root=tmp_path, corrupt="skip", max_missing=1.0)
    assert kinds(load_faces(data)) == {"corrupt image": 12, "class that only one split has": 12}


def test_checking_rows_of_a_table_in_memory_changes_nothing():
    table = synthetic_table()
    assert isinstance(table, FaceTable)
    assert check_images(table, "error", torch.arange(len(table))) is table
