"""Codes of labels, by which changed ones are found."""

import pytest
import torch

from reliability_balance.labels.given_labels import check_unchanged, differing, label_codes


def test_half_of_each_of_two_classes_is_seldom_the_class_between():
    single, classes = label_codes(torch.arange(12), 12), torch.eye(12)
    assert torch.equal(single, label_codes(classes, 12))
    halves = label_codes((classes[:-2] + classes[2:]) / 2, 12)
    assert float(differing(single[1:-1], halves).float().mean()) > 0.7


def test_rounding_does_not_change_a_label_and_no_label_differs_from_none():
    shares = torch.rand(50, 5).softmax(-1)
    codes = label_codes(shares, 5)
    assert not bool(differing(codes, label_codes(shares.half(), 5)).any())
    assert not bool(differing(torch.full_like(codes, -1), codes).any())


def test_changed_labels_are_named():
    codes = label_codes(torch.tensor([0, 1, 2]), 3)
    check_unchanged(torch.tensor([4, 5, 6]), codes, codes.clone())
    with pytest.raises(ValueError, match=r"other labels for 1 of 3 samples.* sample 5"):
        check_unchanged(torch.tensor([4, 5, 6]), codes, codes[[0, 2, 2]])
