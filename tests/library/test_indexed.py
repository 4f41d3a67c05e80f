"""IndexedDataset names each sample by its place, whatever the data set's items are."""

import collections

import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
)

from reliability_balance.data import IndexedDataset
from reliability_balance.data.indexed import is_indexed

FEATURES, LABELS = torch.randn(10, 3), torch.arange(10) % 2
PAIRS = TensorDataset(FEATURES, LABELS)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_item_comes_with_its_own_index(workers):
    loader = DataLoader(IndexedDataset(PAIRS), 4, shuffle=True, num_workers=workers)
    seen = []
    for features, labels, index in loader:
        assert index.dtype == torch.int64
        assert torch.equal(features, FEATURES[index])
        assert torch.equal(labels, LABELS[index])
        seen += index.tolist()
    assert sorted(seen) == list(range(10))


def test_a_given_index_is_copied():
    index = torch.tensor([2, 0, 1])
    data = IndexedDataset(["a", "b", "c"], index=index)
    index.zero_()
    assert [place for _, place in data] == [2, 0, 1]


def test_a_subset_counts_its_own_items_and_an_indexed_one_is_divided():
    chosen = Subset(PAIRS, [7, 3, 5])
    (features, _, index), *_ = DataLoader(IndexedDataset(chosen), 3)
    assert index.tolist() == [0, 1, 2]
    assert torch.equal(features, FEATURES[[7, 3, 5]])
    (_, _, index), *_ = DataLoader(Subset(IndexedDataset(PAIRS), [7, 3, 5]), 3)
    assert index.tolist() == [7, 3, 5]
    joined = IndexedDataset(ConcatDataset([PAIRS, chosen]))
    assert [item[-1] for item in joined] == list(range(13))


@pytest.mark.parametrize(
    ("item", "indexed"),
    [
        ((1, 2), (1, 2, 0)),
        ([1, 2], [1, 2, 0]),
        (collections.namedtuple("Pair", "x y")(1, 2), (1, 2, 0)),
        ({"x": 1}, {"x": 1, "index": 0}),
        (collections.UserDict(x=1), {"x": 1, "index": 0}),
        ("text", ("text", 0)),
        (3, (3, 0)),
    ],
)
def test_items_of_each_kind(item, indexed):
    dataset = IndexedDataset([item])
    assert dataset[0] == indexed
    assert dataset[-1] == indexed
    assert dataset.__getitems__([0]) == [indexed]


def test_a_lone_tensor_becomes_a_pair():
    features, index = IndexedDataset(FEATURES)[torch.tensor(-1)]
    assert torch.equal(features, FEATURES[9])
    assert index == 9


def test_batches_are_fetched_at_once_where_the_data_set_can():
    class Columns:
        column_names = ("x",)

        def __len__(self):
            return 10

        def __getitem__(self, index):
            raise AssertionError("one by one")

        def __getitems__(self, indices):
            return [{"x": 2 * each} for each in indices]

    (batch,) = DataLoader(IndexedDataset(Columns()), 10)
    assert torch.equal(batch["x"], 2 * batch["index"])


def test_what_cannot_be_indexed_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    for dataset in (Stream(), iter([1]), DataLoader(PAIRS)):
        with pytest.raises(TypeError, match=r"`dataset` must be map-style.*got \w+"):
            IndexedDataset(dataset)
    with pytest.raises(ValueError, match="must not be indexed already; got an IndexedDataset"):
        IndexedDataset(IndexedDataset(PAIRS))
    with pytest.raises(ValueError, match="no 'index' of its own; got a key"):
        IndexedDataset([{"index": 1}])[0]
    with pytest.raises(IndexError, match=r"`index` must lie in \[-10, 10\); got 10"):
        IndexedDataset(PAIRS)[10]
    with pytest.raises(TypeError):
        IndexedDataset(PAIRS)[1:3]


def test_an_indexed_data_set_within_another_is_refused():
    indexed = IndexedDataset(PAIRS)

    class Augmented:
        def __init__(self, dataset):
            self.dataset = dataset

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, index):
            return self.dataset[index]

    for dataset in (
        Subset(indexed, [1, 2]),
        ConcatDataset([PAIRS, indexed]),
        StackDataset(first=PAIRS, second=indexed),
        Augmented(Subset(indexed, [1, 2])),
    ):
        name = type(dataset).__name__
        with pytest.raises(ValueError, match=f"indexed already; got a {name} of an IndexedData"):
            IndexedDataset(dataset)
    circular = Augmented(PAIRS)
    circular.dataset = circular
    assert not is_indexed(circular)


@pytest.mark.parametrize(
    ("items", "got"),
    [({"x": [1, 2]}, "dict of 1"), ([1], "list of 1"), (FEATURES[:2], "Tensor of 2"), (1, "int")],
)
def test_batches_that_are_no_lists_of_items_are_refused(items, got):
    class Columns(list):
        def __getitems__(self, indices):
            return items

    with pytest.raises(ValueError, match=f"must return a list of 2 items; got {got}$"):
        IndexedDataset(Columns([1, 2])).__getitems__([0, 1])


def test_torchvision():
    torchvision = pytest.importorskip("torchvision")
    data = torchvision.datasets.FakeData(4, (3, 8, 8), transform=torchvision.transforms.ToTensor())
    images, labels, index = next(iter(DataLoader(IndexedDataset(data), 4)))
    assert (images.shape, len(labels), index.tolist()) == ((4, 3, 8, 8), 4, [0, 1, 2, 3])


def test_hugging_face_datasets():
    datasets = pytest.importorskip("datasets")

    def table(**columns):
        rows = datasets.table.InMemoryTable.from_pydict(columns)
        return datasets.Dataset(rows, fingerprint="test")

    data = IndexedDataset(table(x=[1.0, 2.0, 3.0], label=[0, 1, 0]))
    batch = next(iter(DataLoader(data, 3)))
    assert sorted(batch) == ["index", "label", "x"]
    assert batch["index"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="got a column of that name"):
        IndexedDataset(table(index=[1, 2]))
