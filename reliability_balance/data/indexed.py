"""A data set that returns each sample's index, as :class:`RobustLoss` needs it."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from reliability_balance import checks

KEY = "index"


class IndexedDataset(Dataset[Any]):
    """Data set that adds to each item its index.

    A tuple or list gets the index as its last field, a dictionary the key "index", and any other
    item becomes the pair (item, index). Loaders, samplers and workers are used as before.

    The index counts the items of `dataset`. Pass :class:`RobustLoss` the labels in the same order:
    those of the subset if you index a ``Subset``, those of all samples if you split an indexed data
    set. If the items are in another order than the labels, give the index of each: by
    :class:`SampleIds`, ``ids.rows(file_names)``.

    Args:
        dataset: map-style, with ``__getitem__`` and ``__len__``: from torch, torchvision, Hugging
            Face `datasets`, or a list.
        index: index of each item, its place in the labels; None: its place in `dataset`.

    Shape:
        - index: (N,) int64, >= 0, for N items.

    Raises:
        TypeError: if `dataset` is iterable-style, or a DataLoader, or on a wrong dtype of `index`.
        ValueError: if `dataset` or a data set inside it is indexed already, or has a column or key
            "index", if its ``__getitems__`` does not return a list of as many items, or if `index`
            does not have one value for each item.
        IndexError: on an index out of range.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> data = TensorDataset(torch.randn(6, 4), torch.arange(6) % 3)
        >>> features, labels, index = next(iter(DataLoader(IndexedDataset(data), batch_size=3)))
        >>> index
        tensor([0, 1, 2])
        >>> IndexedDataset([{"text": "good", "label": 1}])[0]
        {'text': 'good', 'label': 1, 'index': 0}
    """

    def __init__(self, dataset: Any, index: Tensor | None = None) -> None:
        is_iterable = isinstance(dataset, IterableDataset)
        if is_iterable or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise TypeError(
                "`dataset` must be map-style, with __getitem__ and __len__; got "
                f"{type(dataset).__name__}. Index the data set before it goes into a DataLoader; "
                "an iterable-style one must yield each sample's place in the labels itself"
            )
        if is_indexed(dataset):
            raise ValueError(
                f"`dataset` must not be indexed already; got {_described(dataset)}: index the "
                "outermost data set, once"
            )
        if KEY in (getattr(dataset, "column_names", None) or ()):
            _refuse_key("a column")
        if index is not None:
            checks.indices("index", index)
            if len(index) != len(dataset) or bool((index < 0).any()):
                raise ValueError(
                    f"`index` must hold a place, 0 or above, for each of {len(dataset)} items; got "
                    f"{len(index)} values, {int((index < 0).sum())} below 0"
                )
        self.dataset = dataset
        self.index = None if index is None else index.clone()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        place = self._place(index)
        return self._with_index(self.dataset[place], place)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several items, by one call if `dataset` supports it; DataLoader calls this."""
        places = [self._place(index) for index in indices]
        fetch = getattr(self.dataset, "__getitems__", None)
        items = fetch(places) if fetch else [self.dataset[place] for place in places]
        if not isinstance(items, list | tuple) or len(items) != len(places):
            got = type(items).__name__
            got += f" of {len(items)}" if hasattr(items, "__len__") else ""
            raise ValueError(
                f"`dataset.__getitems__` must return a list of {len(places)} items; got {got}"
            )
        return [self._with_index(item, place) for item, place in zip(items, places, strict=True)]

    def _with_index(self, item: Any, place: int) -> Any:
        return _with_index(item, place if self.index is None else int(self.index[place]))

    def _place(self, index: int) -> int:
        """Return the index counted from the start."""
        place, count = operator.index(index), len(self)
        if not -count <= place < count:
            raise IndexError(f"`index` must lie in [{-count}, {count}); got {place}")
        return place % count


def is_indexed(dataset: Any) -> bool:
    """Return whether a data set, or one in its ``dataset`` or ``datasets``, is indexed."""
    found, waiting = set(), [dataset]
    while waiting:
        each = waiting.pop()
        if isinstance(each, IndexedDataset):
            return True
        if id(each) in found:
            continue
        found.add(id(each))
        inner = getattr(each, "dataset", None)
        if inner is not None:
            waiting.append(inner)
        inner = getattr(each, "datasets", None)
        if isinstance(inner, Mapping):
            waiting += inner.values()
        elif isinstance(inner, list | tuple):
            waiting += inner
    return False


def _described(dataset: Any) -> str:
    name = type(dataset).__name__
    return f"an {name}" if isinstance(dataset, IndexedDataset) else f"a {name} of an IndexedDataset"


def _with_index(item: Any, index: int) -> Any:
    if isinstance(item, tuple):
        return (*item, index)
    if isinstance(item, list):
        return [*item, index]
    if isinstance(item, Mapping):
        if KEY in item:
            _refuse_key("a key")
        return {**item, KEY: index}
    return item, index


def _refuse_key(what: str) -> None:
    raise ValueError(
        f"`dataset` must have no {KEY!r} of its own; got {what} of that name: rename it"
    )
