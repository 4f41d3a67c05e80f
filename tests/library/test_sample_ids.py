"""SampleIds maps strings to rows, whatever the strings are, and survives the disk."""

import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from reliability_balance.data import IndexedDataset, SampleIds, sample_ids

# Surrogates occur in names of files that are not UTF-8.
TEXT = st.text(st.characters(exclude_categories=()), max_size=6)
DISTINCT = st.lists(TEXT, unique=True, max_size=30)


@given(DISTINCT, st.integers(0, 30), st.randoms(use_true_random=False))
def test_rows_are_those_of_a_dictionary_before_and_after_growth(texts, first, draw):
    expected = {text: row for row, text in enumerate(texts)}
    ids = SampleIds(texts[:first])
    assert ids.add(texts[first:]).tolist() == list(range(len(texts)))[first:]
    asked = draw.choices(texts, k=20) if texts else []
    assert ids.rows(asked).tolist() == [expected[text] for text in asked]
    assert list(ids) == texts
    assert len(ids) == len(texts)
    assert all(text in ids and ids.index(text) == expected[text] for text in asked)


@given(DISTINCT.filter(bool), st.integers(0, 30), TEXT)
def test_unknown_and_repeated_ids_are_refused_by_name_and_change_nothing(texts, place, other):
    ids = SampleIds(texts)
    again = texts[place % len(texts)]
    with pytest.raises(ValueError, match="`ids` must be new; got ") as caught:
        ids.add([other + "!" * 7, again])
    assert f"{again!r}, which is row {texts.index(again)} already" in str(caught.value)
    with pytest.raises(ValueError, match=r"`ids` must be distinct; got .* twice"):
        SampleIds([*texts, again])
    assert list(ids) == texts
    unknown = other + "!" * 7  # longer than any
    assert unknown not in ids
    with pytest.raises(ValueError, match="known ones; got ") as caught:
        ids.rows([again, unknown])
    assert f"{unknown!r}: call `add` first if they are new" in str(caught.value)


@given(texts=DISTINCT)
def test_equal_hashes_are_told_apart_by_the_text(texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_ids, "_hash", lambda text: len(text) % 3)
        ids = SampleIds(texts[::2])
        ids.add(texts[1::2])
        assert ids.rows(texts[::2] + texts[1::2]).tolist() == list(range(len(texts)))
        assert "not among them" not in ids
        if texts:
            with pytest.raises(ValueError, match="already"):
                ids.add([texts[-1]])


@pytest.mark.parametrize("copied", ["file", "pickle"])
def test_copies_have_the_same_rows_and_grow(tmp_path, copied):
    texts = ["a", "", "ä\ud800", "a" * 1000, "b\0c"]
    ids = SampleIds(texts)
    if copied == "file":
        ids.save(tmp_path / "ids.npz")
        other = SampleIds.load(tmp_path / "ids.npz")
    else:
        other = pickle.loads(pickle.dumps(ids))
    assert list(other) == texts
    other.add(["new"])
    other.save(tmp_path / "ids.npz")
    assert SampleIds.load(tmp_path / "ids.npz").rows(["new", "a"]).tolist() == [5, 0]
    assert [each.name for each in tmp_path.iterdir()] == ["ids.npz"]


def test_files_of_other_kinds_and_damaged_ones_are_refused(tmp_path):
    good = tmp_path / "good.npz"
    SampleIds(["one", "two"]).save(good)
    content = good.read_bytes()
    bad = {
        "text.npz": b"one,two",
        "empty.npz": b"",
        "short.npz": content[:-30],
        "flipped.npz": content.replace(b"onetwo", b"onetwi"),
        "pickle.npz": pickle.dumps(["one"]),
    }
    arrays = {
        "objects.npz": {"text": np.array(["one"], object), "ends": np.array([0, 3])},
        "missing.npz": {"text": np.frombuffer(b"one", np.uint8)},
        "floats.npz": {"text": np.zeros(3), "ends": np.array([0, 3])},
        "ends.npz": {"text": np.zeros(3, np.uint8), "ends": np.array([0, 5, 3])},
        "split.npz": {"text": np.frombuffer("ä".encode(), np.uint8), "ends": np.array([0, 1, 2])},
        "twice.npz": {"text": np.frombuffer(b"aa", np.uint8), "ends": np.array([0, 1, 2])},
    }
    for name, each in bad.items():
        (tmp_path / name).write_bytes(each)
    for name, each in arrays.items():
        np.savez(tmp_path / name, **each)
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in (*bad, *arrays, "array.npy"):
        with pytest.raises(ValueError, match="`path` must be a file of ids; got"):
            SampleIds.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        SampleIds.load(tmp_path / "none.npz")


def test_no_flipped_bit_of_a_file_escapes(tmp_path):
    """Whatever zipfile or zlib raises, the error names the file; or the ids are the same."""
    ids, path = SampleIds(["one", "two"]), tmp_path / "ids.npz"
    with path.open("wb") as file:
        np.savez_compressed(file, text=ids._text, ends=ids._ends)
    content = path.read_bytes()
    refusals: list[str] = []
    for bit in range(0, 8 * len(content), 11):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert list(SampleIds.load(path)) == list(ids)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert all(str(path) in each for each in refusals)


def test_memory_of_many_ids_is_a_few_bytes_each():
    count = 20_000
    ids = SampleIds(f"folder/{number:08}.jpg" for number in range(count))
    held = sum(each.nbytes for each in vars(ids).values())
    assert held == (19 + 24) * count + 8
    places = random.Random(0).sample(range(count), 100)
    assert ids.rows([ids[place] for place in places]).tolist() == places


@pytest.mark.parametrize("wrong", ["name.png", b"name", 3, [3], [None], ["a", b"b"]])
def test_ids_that_are_no_strings_are_refused(wrong):
    ids = SampleIds(["a"])
    for call in (SampleIds, ids.add, ids.rows):
        with pytest.raises(TypeError, match="`ids` must be strings"):
            call(wrong)


def test_the_sequence():
    assert repr(SampleIds()) == "SampleIds([])"
    assert repr(SampleIds(map(str, range(1003)))) == "SampleIds(['0', '1', '2', … and 1,000 more])"
    ids = SampleIds(["a", "b", "c"])
    assert repr(ids) == "SampleIds(['a', 'b', 'c'])"
    assert ids[-1] == "c"
    assert ids[1:] == ["b", "c"]
    assert 3 not in ids
    for row in (3, -4):
        with pytest.raises(IndexError):
            ids[row]
    with pytest.raises(ValueError, match="`value` must lie in rows 2 to None; got row 1"):
        ids.index("b", 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_in_another_order_gets_the_rows_of_its_ids(workers):
    ids = SampleIds(["c", "a", "d", "b"])
    names = ["a", "b", "c"]  # a part of the samples
    data = TensorDataset(torch.arange(3))
    indexed = IndexedDataset(data, ids.rows(names))
    for place, index in DataLoader(indexed, 2, shuffle=True, num_workers=workers):
        assert [ids[row] for row in index] == [names[each] for each in place]
    assert indexed[-1] == (torch.tensor(2), 0)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (torch.tensor([0, 1]), ValueError, "for each of 3 items; got 2 values"),
        (torch.tensor([0, 1, -2]), ValueError, "got 3 values, 1 below 0"),
        (torch.tensor([0.0, 1.0, 2.0]), TypeError, "`index` must be an int64 tensor"),
        ([0, 1, 2], TypeError, "`index` must be an int64 tensor"),
    ],
)
def test_a_wrong_index_is_refused(index, error, message):
    with pytest.raises(error, match=message):
        IndexedDataset(["a", "b", "c"], index)
