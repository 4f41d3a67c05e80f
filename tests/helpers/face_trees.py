"""Small trees of files with the exact layouts of the facial-expression data sets."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

RAF_LIST = "basic/EmoLabel/list_patition_label.txt"
RAF_ALIGNED = "basic/Image/aligned"
ANNOTATIONS = "Third ABAW Annotations/EXPR_Classification_Challenge"
AFF_HEADER = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
FER_HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)
FERG_CHARACTERS = ("aia", "bonnie", "jules", "malcolm", "mery", "ray")
FERG_EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


def write_image(path: Path, value: int = 128, mode: str = "RGB", size: int = 8) -> Path:
    """A picture whose pixels depend on `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "P": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.full((size, size, *channels), value % 256, dtype=np.uint8)
    pixels[0, 0] = value // 256 % 256
    image = Image.fromarray(pixels, mode="L" if mode == "P" else mode)
    if mode == "P":
        image.putpalette([level for level in range(256) for _ in range(3)])
    image.save(path)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def raf_db(root: Path) -> Path:
    """14 training and 7 test faces; labels from 1, and no newline after the last row."""
    rows = [f"train_{i + 1:05d}.jpg {i % 7 + 1}" for i in range(14)]
    rows += [f"test_{i + 1:04d}.jpg {i % 7 + 1}" for i in range(7)]
    write_text(root / RAF_LIST, "\n".join(rows))
    for number, row in enumerate(rows):
        name = row.split()[0].removesuffix(".jpg")
        write_image(root / RAF_ALIGNED / f"{name}_aligned.jpg", 10 * number)
    write_text(root / RAF_ALIGNED / ".DS_Store", "x")
    return root


def aff_wild2(root: Path) -> Path:
    """Four training videos, one of two people, and two of validation; frames are missing."""
    videos = {
        "Train_Set/1-30-1280x720": ([0, 1, -1, 3, 7], [1, 2, 3, 5]),
        "Train_Set/6-30-1920x1080_left": ([4, 4, 4], [1, 2, 3, 4]),
        "Train_Set/6-30-1920x1080_right": ([5, 5, 5], [2, 3]),
        "Train_Set/9-15-1920x1080": ([6, 6], [1, 2]),
        "Validation_Set/20-24-1920x1080": ([2, 0, -1], [1, 2, 3]),
    }
    for name, (codes, frames) in videos.items():
        lines = "\n".join(map(str, codes))
        write_text(root / ANNOTATIONS / f"{name}.txt", f"{AFF_HEADER}\n{lines}\n")
        for frame in frames:
            folder = root / "cropped_aligned" / name.split("/")[1]
            write_image(folder / f"{frame:05d}.jpg", frame * 20)
    # The same classes in another order: codes follow the file's own header.
    shuffled = "Other,Neutral,Surprise,Sadness,Happiness,Fear,Disgust,Anger"
    write_text(root / ANNOTATIONS / "Validation_Set/video5.txt", f"{shuffled}\r\n0\r\n2")
    for frame in (1, 2):
        write_image(root / f"cropped_aligned/video5/{frame:05d}.jpg", 200 + frame)
    write_image(root / "cropped_aligned/unlabelled/00001.jpg", 3)
    write_text(root / "cropped_aligned/.DS_Store", "x")
    write_text(root / "cropped_aligned/video5/.DS_Store", "x")
    return root


JAFFE_IMAGES = (
    *("KA.NE1.26", "KA.AN1.39", "KA.HA1.29", "KL.DI1.14", "KL.FE1.174", "KL.SA1.10"),
    *("NM.SU1.101", "NM.AN2.105", "NM.NE2.98", "YM.HA3.54"),
)
JAFFE_README = """The Japanese Female Facial Expression Database\r
Some text about it, with \xe9 that is not ASCII.\r
\r
#   HAP  SAD  SUR  ANG  DIS  FEA  PIC\r
------------------------------------\r
26 1.50 1.50 1.25 1.25 1.25 1.25 KA-NE1\r
39 1.00 1.50 1.25 4.50 2.00 1.25 KA-AN1\r
29 5.00 1.00 1.00 1.00 1.00 1.00 KA-HA1\r
14 1.00 2.00 1.00 2.00 4.00 1.00 KL-DI1\r
175 1.00 2.00 3.00 1.00 2.00 4.00 KL-FE1\r
10 1.00 4.00 1.00 1.00 2.00 2.00 KL-SA1\r
101 2.00 1.00 5.00 1.00 1.00 2.00 NM-SU1\r
105 1.00 2.00 1.00 3.50 3.00 1.00 NM-AN2\r
98 1.00 1.00 1.00 1.00 1.00 1.00 NM-NE2\r
219 1.00 1.00 1.00 1.00 1.00 1.00 ZZ-NE9\r
\r
Semantic Ratings Data (Fear Excluded)\r
#   HAP  SAD  SUR  ANG  DIS  PIC\r
1 5.00 5.00 5.00 5.00 5.00 KA-NE1\r
"""


def jaffe(root: Path, ratings: str = "A_README_FIRST.txt") -> Path:
    """Ten pictures of four persons, and ratings that do not fit them one to one."""
    for number, name in enumerate(JAFFE_IMAGES):
        mode = "P" if number % 2 else "L"
        write_image(root / "jaffe" / f"{name}.tiff", 20 * number, mode)
    path = root / "jaffe" / ratings
    path.write_bytes(JAFFE_README.encode("latin-1"))
    return root


def ferg_db(root: Path) -> Path:
    """Two pictures a cell, transparent or not; one of 0 bytes, and stray files."""
    value = 0
    for character in FERG_CHARACTERS:
        for emotion in FERG_EMOTIONS:
            name = f"{character}_{emotion}"
            for number in (1, 10):
                value += 1
                folder = root / "FERG_DB_256" / character / name
                write_image(
                    folder / f"{name}_{number}.png", value, "RGBA" if number == 1 else "RGB"
                )
    (root / "FERG_DB_256/aia/aia_joy/aia_joy_10.png").write_bytes(b"")
    write_text(root / "FERG_DB_256/.DS_Store", "x")
    write_text(root / "FERG_DB_256/aia/.DS_Store", "x")
    write_text(root / "FERG_DB_256/aia/aia_anger/notes.txt", "x")
    return root


# Usage, name, ten votes.
FER_ROWS = (
    ("Training", "fer0000000.png", (4, 0, 0, 1, 3, 2, 0, 0, 0, 0)),  # no majority
    ("Training", "fer0000001.png", (5, 0, 0, 1, 2, 0, 0, 0, 2, 0)),  # a vote that nobody shares
    ("Training", "", (0, 0, 0, 0, 0, 0, 0, 0, 0, 10)),  # one of the 173
    ("Training", "fer0000003.png", (0, 10, 0, 0, 0, 0, 0, 0, 0, 0)),
    ("Training", "fer0000004.png", (0, 0, 0, 2, 0, 0, 0, 0, 8, 0)),  # unknown
    ("PublicTest", "fer0028709.png", (0, 0, 7, 0, 0, 0, 2, 0, 0, 0)),  # nine votes
    ("PrivateTest", "fer0032298.png", (0, 0, 0, 0, 1, 0, 0, 9, 0, 0)),
)
FER_FOLDERS = {
    "Training": "FER2013Train",
    "PublicTest": "FER2013Valid",
    "PrivateTest": "FER2013Test",
}


def fer_plus_folders(root: Path) -> Path:
    """The official dump: a label.csv without header and a quoted box in each folder."""
    for usage, folder in FER_FOLDERS.items():
        rows = [row for row in FER_ROWS if row[0] == usage and row[1]]
        text = "".join(
            f'{name},"(0, 0, 48, 48)",{",".join(map(str, votes))}\n' for _, name, votes in rows
        )
        write_text(root / folder / "label.csv", text)
        for _, name, _ in rows:
            write_image(root / folder / name, int(name[3:10]), "L", 48)
    return root


def fer_plus_tables(root: Path) -> Path:
    """fer2013new.csv, and the pixels of all rows in fer2013.csv."""
    rows = [f"{usage},{name},{','.join(map(str, votes))}" for usage, name, votes in FER_ROWS]
    write_text(root / "fer2013new.csv", "\r\n".join([FER_HEADER, *rows]) + "\r\n")
    with (root / "fer2013.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for index, (usage, _, _) in enumerate(FER_ROWS):
            writer.writerow([0, " ".join([str(index)] * 48 * 48), usage])
    return root


def affectnet_folders(root: Path) -> Path:
    """Class folders by code, with one of code 8 (none)."""
    for part in ("train", "val"):
        for code in range(9):
            for number in (1, 2):
                write_image(
                    root / part / str(code) / f"{part}{code}{number}.jpg", code * 25 + number
                )
    return root


def affectnet_annotations(root: Path) -> Path:
    """The authors' files: an array of one string for each image."""
    for part in ("train_set", "val_set"):
        for number in range(8):
            write_image(root / part / "images" / f"{number}.jpg", 30 * number)
            path = root / part / "annotations" / f"{number}_exp.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.array(str(number % 7)))
    return root


def class_folders(root: Path) -> Path:
    """Two classes with ten images each, and no split."""
    for number in range(20):
        write_image(root / ("calm", "cross")[number % 2] / f"{number}.png", 12 * number)
    return root


def csv_table(root: Path) -> Path:
    """Ten images of five groups; labels are numbers, of which 10 comes after 9."""
    lines = ["image,label,group"]
    for number in range(10):
        write_image(root / "pictures" / f"{number}.png", 25 * number)
        lines.append(f"pictures/{number}.png,{9 + number % 2},person {number // 2}")
    write_text(root / "faces.csv", "\n".join(lines))
    return root


TREES: dict[str, Callable[[Path], Path]] = {
    "raf-db": raf_db,
    "aff-wild2": aff_wild2,
    "jaffe": jaffe,
    "ferg-db": ferg_db,
    "fer-plus": fer_plus_folders,
    "affectnet": affectnet_folders,
    "folders": class_folders,
    "csv": csv_table,
}
