"""A task for the benchmarks, of few samples."""

import torch

from benchmarks.data.task import Task
from benchmarks.networks import perceptron


def make_task(count=300, num_classes=3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % num_classes
    truth = torch.nn.functional.one_hot(labels, num_classes).float()
    inputs = torch.randn(count, 8, generator=generator)
    inputs[:, :num_classes] += 2 * truth
    return Task(inputs, labels, truth, inputs, labels, num_classes, perceptron(8))
