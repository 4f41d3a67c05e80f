"""Eq. 9-22 of the paper as naive loops over numpy arrays, written from the text alone.

Nothing here shares code with the library: a sum in the paper is a loop here.
"""

import math

import numpy as np


def softmax(scores):
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return np.array([value / sum(exponentials) for value in exponentials])


def normalized_entropy(probs):
    """Eq. 11, divided by log C, so that a uniform distribution has entropy 1."""
    total = 0.0
    for p in probs:
        if p > 0:
            total -= p * math.log(p)
    return total / math.log(len(probs))


def confidence(probs):
    """Eq. 10."""
    return 1.0 - normalized_entropy(probs)


def distance(embedding, anchor):
    """Eq. 12."""
    total = 0.0
    for e, a in zip(embedding, anchor, strict=True):
        total += abs(a - e) ** 2
    return math.sqrt(total)


def anchor_distances(embedding, anchors):
    num_classes, num_anchors, _ = anchors.shape
    result = np.zeros((num_classes, num_anchors))
    for i in range(num_classes):
        for j in range(num_anchors):
            result[i, j] = distance(embedding, anchors[i, j])
    return result


def anchor_similarities(distances, delta):
    """Eq. 13."""
    num_classes, num_anchors = distances.shape
    nearest = distances.min()  # taken out of both sums, so that neither underflows
    total = 0.0
    for i in range(num_classes):
        for j in range(num_anchors):
            total += math.exp(-(distances[i, j] - nearest) / delta)
    result = np.zeros_like(distances)
    for i in range(num_classes):
        for j in range(num_anchors):
            result[i, j] = math.exp(-(distances[i, j] - nearest) / delta) / total
    return result


def anchor_correction(similarities):
    """Eq. 14, with the one-hot m written out."""
    num_classes, num_anchors = similarities.shape
    result = np.zeros(num_classes)
    for i in range(num_classes):
        m = np.zeros(num_classes)
        m[i] = 1.0
        for j in range(num_anchors):
            result += similarities[i, j] * m
    return result


def attend(tokens, query_weight, key_weight, value_weight, biases, num_heads):
    """Eq. 15 for each token: scaled dot-product attention of each head, heads concatenated."""
    query_bias, key_bias, value_bias = biases
    queries = [query_weight @ token + query_bias for token in tokens]
    keys = [key_weight @ token + key_bias for token in tokens]
    values = [value_weight @ token + value_bias for token in tokens]
    width = len(query_bias) // num_heads
    attended = []
    for query in queries:
        heads = []
        for head in range(num_heads):
            part = slice(head * width, (head + 1) * width)
            weights = softmax([query[part] @ key[part] / math.sqrt(width) for key in keys])
            heads.append(sum(w * value[part] for w, value in zip(weights, values, strict=True)))
        attended.append(np.concatenate(heads))
    return attended


def fuse(first, second):
    """Eq. 18 and 19; equal weights where both confidences are 0."""
    first_confidence, second_confidence = confidence(first), confidence(second)
    total = first_confidence + second_confidence
    weight = 0.5 if total <= 0 else first_confidence / total
    return np.array([weight * a + (1 - weight) * b for a, b in zip(first, second, strict=True)])


def anchor_loss(anchors):
    """Eq. 21 as printed: four sums."""
    num_classes, num_anchors, _ = anchors.shape
    total = 0.0
    for i in range(num_classes):
        for j in range(num_anchors):
            for k in range(num_classes):
                for m in range(num_anchors):
                    total -= distance(anchors[i, j], anchors[k, m]) ** 2
    return total


def center_loss(embedding, anchors, label):
    """Eq. 22 of one sample."""
    return min(distance(embedding, anchor) ** 2 for anchor in anchors[label])


def mlp_head(embedding, layers):
    """The paper's head in eval mode: (weight, bias, batch norm or None) of each layer."""
    values = embedding
    for weight, bias, norm in layers:
        values = weight @ values + bias
        if norm is not None:
            scale, shift, mean, variance, epsilon = norm
            values = np.maximum(values, 0.0)
            values = (values - mean) / np.sqrt(variance + epsilon) * scale + shift
    return values
