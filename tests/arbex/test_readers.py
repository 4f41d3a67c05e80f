"""Each reader on a tree of the exact layout, with the traps of the real one."""

import face_trees
import pytest
import torch

from examples.arbex.faces.face_table import TEST, TRAIN, VALIDATION
from examples.arbex.readers.aff_wild2 import FrameNames
from examples.arbex.readers.jaffe import rating_distribution
from examples.arbex.readers.reading import READERS, read_faces
from examples.arbex.readers.rows import SplitOptions


def kinds(table):
    counts = {}
    for problem in table.problems:
        counts[problem.kind] = counts.get(problem.kind, 0) + problem.count
    return counts


def labels_by_name(table):
    return {
        name: table.class_names[label]
        for name, label in zip(table.names, table.labels.tolist(), strict=True)
    }


def groups_by_split(table):
    return [
        set(table.groups[table.splits == split].tolist()) for split in (TRAIN, VALIDATION, TEST)
    ]


@pytest.mark.parametrize("dataset", READERS)
def test_every_reader_gives_rgb_images_and_all_three_splits(dataset, tmp_path):
    table = read_faces(dataset, face_trees.TREES[dataset](tmp_path))
    assert all(len(part) > 0 for part in map(table.subset, (TRAIN, VALIDATION, TEST)))
    for index in range(len(table)):
        image = table.images[index]
        assert image.shape[0] == 3
        assert image.dtype == torch.uint8
    again = read_faces(dataset, tmp_path)
    assert torch.equal(again.splits, table.splits)
    assert list(again.names) == list(table.names)


@pytest.mark.parametrize("dataset", ["jaffe", "ferg-db", "csv", "aff-wild2"])
def test_splits_share_no_group(dataset, tmp_path):
    train, validation, test = groups_by_split(
        read_faces(dataset, face_trees.TREES[dataset](tmp_path))
    )
    assert not train & validation | train & test | validation & test


def test_raf_db_labels_count_from_one_in_the_authors_order(tmp_path):
    table = read_faces("raf-db", face_trees.raf_db(tmp_path))
    labels = labels_by_name(table)
    assert labels["Image/aligned/train_00001_aligned.jpg"] == "surprise"
    assert labels["Image/aligned/train_00007_aligned.jpg"] == "neutral"
    assert labels["Image/aligned/test_0007_aligned.jpg"] == "neutral"  # no newline after it
    assert [len(table.subset(split)) for split in (TRAIN, VALIDATION, TEST)] == [13, 1, 7]
    assert kinds(table) == {}


def test_raf_db_may_begin_at_basic_and_have_more_columns(tmp_path):
    face_trees.raf_db(tmp_path)
    listing = tmp_path / face_trees.RAF_LIST
    listing.write_text(listing.read_text().replace("train_00001.jpg 5", "train_00001.jpg 5 x"))
    listing.write_text(
        "\ufeff" + listing.read_text().replace("\n", "\r\n").replace(".jpg 2", ".jpg\t2 x")
    )
    table = read_faces("raf-db", tmp_path / "basic")
    assert len(table) == 21
    assert kinds(table) == {"extra columns": 3}


def test_raf_db_reports_rows_and_images_that_have_no_partner(tmp_path):
    face_trees.raf_db(tmp_path)
    folder = tmp_path / face_trees.RAF_ALIGNED
    (folder / "train_00003_aligned.jpg").unlink()
    face_trees.write_image(folder / "train_00099_aligned.jpg")
    table = read_faces("raf-db", tmp_path)
    assert len(table) == 20
    assert kinds(table) == {"missing image": 1, "image without row": 1}
    missing = next(p for p in table.problems if p.kind == "missing image")
    assert missing.where == f"{tmp_path / face_trees.RAF_LIST}:3"


def test_aff_wild2_joins_frames_and_codes_by_number(tmp_path):
    table = read_faces("aff-wild2", face_trees.aff_wild2(tmp_path))
    labels = labels_by_name(table)
    video = {n: c for n, c in labels.items() if n.startswith("1-30-1280x720/")}
    # Frame 3 is ignored (-1), frame 4 has no face, frame 5 has code 7.
    assert video == {
        "1-30-1280x720/00001.jpg": "neutral",
        "1-30-1280x720/00002.jpg": "anger",
        "1-30-1280x720/00005.jpg": "other",
    }
    assert kinds(table) == {
        "labelled frame without face": 2,  # frame 4 above, frame 1 of _right
        "frame without label": 1,  # frame 4 of _left
        "video without labels": 1,
    }


def test_aff_wild2_codes_follow_the_header_of_their_own_file(tmp_path):
    labels = labels_by_name(read_faces("aff-wild2", face_trees.aff_wild2(tmp_path)))
    assert labels["video5/00001.jpg"] == "other"
    assert labels["video5/00002.jpg"] == "surprise"


@pytest.mark.parametrize("seed", range(4))
def test_aff_wild2_never_parts_the_two_people_of_a_video(tmp_path, seed):
    table = read_faces("aff-wild2", face_trees.aff_wild2(tmp_path), splits=SplitOptions(seed=seed))
    split = {n.split("/")[0]: s for n, s in zip(table.names, table.splits.tolist(), strict=True)}
    assert split["6-30-1920x1080_left"] == split["6-30-1920x1080_right"]
    assert split["video5"] == split["20-24-1920x1080"] == TEST
    group = {n.split("/")[0]: g for n, g in zip(table.names, table.groups.tolist(), strict=True)}
    assert group["6-30-1920x1080_left"] != group["6-30-1920x1080_right"]


def test_aff_wild2_of_the_older_challenge_has_seven_classes(tmp_path):
    face_trees.aff_wild2(tmp_path)
    old = tmp_path / "annotations/EXPR_Recognition_Challenge"
    (tmp_path / "Third ABAW Annotations").rename(tmp_path / "annotations")
    (tmp_path / "annotations/EXPR_Classification_Challenge").rename(old)
    for path in old.glob("*/*.txt"):
        path.write_text("Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise\n0\n1\n")
    table = read_faces("aff-wild2", tmp_path)
    assert len(table.class_names) == 7


def test_frame_names_need_no_string_a_frame():
    import numpy as np

    names = FrameNames(["a", "b"], np.array([0, 1, 1], np.int32), np.array([1, 7, 123456]))
    assert list(names) == ["a/00001.jpg", "b/00007.jpg", "b/123456.jpg"]
    assert list(names[1:]) == ["b/00007.jpg", "b/123456.jpg"]


@pytest.mark.parametrize("ratings", ["A_README_FIRST.txt", "JAFFE_labels.txt", "labels.txt"])
def test_jaffe_joins_ratings_by_key_and_stops_before_the_second_table(tmp_path, ratings):
    table = read_faces("jaffe", face_trees.jaffe(tmp_path, ratings))
    rows = {name: index for index, name in enumerate(table.names)}
    assert labels_by_name(table)["KL.DI1.14.tiff"] == "disgust"
    anger = table.distributions[rows["KA.AN1.39.tiff"]]
    # Five columns of the second table would have made KA-NE1 all of everything.
    assert table.class_names[int(anger.argmax())] == "anger"
    neutral = table.distributions[rows["KA.NE1.26.tiff"]]
    assert table.class_names[int(neutral.argmax())] == "neutral"
    torch.testing.assert_close(table.distributions.sum(1), torch.ones(10))
    assert kinds(table) == {
        "other serial": 1,  # KL-FE1 is 174 in the name, 175 in the table
        "image without ratings": 1,  # YM.HA3
        "ratings without image": 1,  # ZZ-NE9
    }


def test_jaffe_without_ratings_has_no_soft_labels(tmp_path):
    face_trees.jaffe(tmp_path)
    (tmp_path / "jaffe/A_README_FIRST.txt").unlink()
    assert read_faces("jaffe", tmp_path).distributions is None


def test_jaffe_leaves_one_person_out(tmp_path):
    table = read_faces("jaffe", face_trees.jaffe(tmp_path), splits=SplitOptions(held_out=("NM",)))
    assert {name[:2] for name in table.subset(TEST).names} == {"NM"}


def test_no_rating_above_one_means_neutral():
    distribution = rating_distribution(torch.ones(6))
    assert distribution.tolist() == [1.0] + [0.0] * 6


def test_ferg_db_calls_joy_happiness_and_passes_over_what_is_no_picture(tmp_path):
    table = read_faces(
        "ferg-db", face_trees.ferg_db(tmp_path), splits=SplitOptions(held_out=("mery",))
    )
    labels = labels_by_name(table)
    assert labels["aia/aia_joy/aia_joy_1.png"] == "happiness"
    assert len(table) == 6 * 7 * 2 - 1
    assert kinds(table) == {"empty image": 1, "stray file": 1}
    assert {name.split("/")[0] for name in table.subset(TEST).names} == {"mery"}


@pytest.mark.parametrize("tree", [face_trees.fer_plus_folders, face_trees.fer_plus_tables])
def test_fer_plus_keeps_majorities_and_gives_votes_as_soft_labels(tmp_path, tree):
    table = read_faces("fer-plus", tree(tmp_path))
    assert labels_by_name(table) == {
        "FER2013Train/fer0000001.png": "neutral",
        "FER2013Train/fer0000003.png": "happiness",
        "FER2013Valid/fer0028709.png": "surprise",
        "FER2013Test/fer0032298.png": "contempt",
    }
    # Five of nine votes, since the tenth stands alone; two are for unknown.
    expected = torch.tensor([5, 0, 0, 0, 2, 0, 0, 0]) / 7
    torch.testing.assert_close(table.distributions[0], expected)
    assert table.distributions[2, 2] == pytest.approx(7 / 9)
    assert table.splits.tolist() == [TRAIN, TRAIN, VALIDATION, TEST]
    skipped = {"no majority": 1, "voted no expression": 1}
    if tree is face_trees.fer_plus_tables:
        skipped["row without image name"] = 1
    assert kinds(table) == skipped


def test_fer_plus_pixels_stay_aligned_past_an_empty_name(tmp_path):
    table = read_faces("fer-plus", face_trees.fer_plus_tables(tmp_path))
    assert [int(table.images[index].unique()) for index in range(4)] == [1, 3, 5, 6]


def test_affectnet_codes_are_the_authors_whatever_the_folders_order(tmp_path):
    table = read_faces("affectnet", face_trees.affectnet_folders(tmp_path))
    labels = labels_by_name(table)
    assert labels["train/1/train11.jpg"] == "happiness"
    assert labels["val/7/val71.jpg"] == "contempt"
    assert len(table.subset(TEST)) == 16  # the official validation set
    assert kinds(table) == {"no expression": 4}  # code 8


def test_affectnet_folders_may_be_named_in_the_alphabets_order(tmp_path):
    for name in ("Anger", "Contempt", "Happy", "Neutral"):
        for part in ("train", "val"):
            for number in range(3):
                face_trees.write_image(tmp_path / part / name / f"{number}.jpg")
    table = read_faces("affectnet", tmp_path)
    assert table.class_names == ("neutral", "happiness", "anger", "contempt")
    assert labels_by_name(table)["train/Happy/0.jpg"] == "happiness"


def test_affectnet_annotations_of_the_authors(tmp_path):
    table = read_faces("affectnet", face_trees.affectnet_annotations(tmp_path))
    assert table.class_names[-1] == "anger"  # no contempt in this tree
    assert labels_by_name(table)["train_set/images/3.jpg"] == "surprise"


def test_class_folders_take_valid_as_the_test_where_there_is_none(tmp_path):
    for part in ("train", "valid"):
        for number in range(10):
            face_trees.write_image(tmp_path / part / str(number % 2 * 10) / f"{number}.png")
    table = read_faces("folders", tmp_path)
    assert table.class_names == ("0", "10")
    assert [len(table.subset(split)) for split in (TRAIN, VALIDATION, TEST)] == [9, 1, 10]


def test_csv_labels_are_ordered_by_value_and_groups_stay_whole(tmp_path):
    table = read_faces("csv", face_trees.csv_table(tmp_path) / "faces.csv")
    assert table.class_names == ("9", "10")
    assert len(table.groups.unique()) == 5


def test_csv_keeps_the_splits_it_gives(tmp_path):
    for number in range(4):
        face_trees.write_image(tmp_path / f"{number}.png")
    text = "label,image,split\na,0.png,train\nb,1.png,validation\na,2.png,test\nb,3.png,train\n"
    table = read_faces("csv", face_trees.write_text(tmp_path / "faces.csv", text))
    assert table.splits.tolist() == [TRAIN, VALIDATION, TEST, TRAIN]


def test_csv_may_come_from_windows_and_call_validation_val(tmp_path):
    for number in range(2):
        face_trees.write_image(tmp_path / f"faces/{number}.png")
    text = "image,label,split\r\nfaces\\0.png,a,Train\r\nfaces\\1.png,b,val\r\n"
    table = read_faces("csv", face_trees.write_text(tmp_path / "faces.csv", text))
    assert list(table.names) == ["faces/0.png", "faces/1.png"]
    assert table.splits.tolist() == [TRAIN, VALIDATION]
