"""Transformers of a few hundred weights, and sentences for them."""

import torch
from transformers import BertConfig, BertForSequenceClassification

from reliability_balance import wrap

LENGTH = 6


def tiny_bert(num_labels=3, dropout=0.1):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=num_labels,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return wrap(BertForSequenceClassification(config))


def sentences(count=96, num_labels=3, length=LENGTH):
    """Sentences of 3 to 6 words, of which the second tells the class; padding fills the rest."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for place in range(count):
        label, words = place % num_labels, 3 + place % 4
        ids = torch.randint(5, 12, (length,), generator=generator)
        ids[:2] = torch.tensor([1, 2 + label])
        ids[words:] = 0
        mask = (torch.arange(length) < words).long()
        rows.append(
            {"input_ids": ids, "attention_mask": mask, "label": label, "text": "not for the model"}
        )
    return rows
