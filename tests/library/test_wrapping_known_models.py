"""timm, torchvision and Hugging Face classifiers: forward, backward, save, load, unwrap.

All are built with random weights; nothing is downloaded.
"""

import io
from contextlib import nullcontext

import pytest
import torch

from reliability_balance import ReliabilityLoss, wrap

LABELS = torch.tensor([0, 2, 1])


def timm_model(name, **options):
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=3, **options), (torch.randn(3, 3, 64, 64),), {}


def torchvision_model():
    models = pytest.importorskip("torchvision.models")
    return models.mobilenet_v3_small(num_classes=3), (torch.randn(3, 3, 64, 64),), {}


def hugging_face_vit():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    images = torch.randn(3, 3, 32, 32)
    return transformers.ViTForImageClassification(config), (), {"pixel_values": images}


def hugging_face_bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    inputs = {
        "input_ids": torch.randint(50, (3, 7)),
        "attention_mask": torch.ones(3, 7, dtype=torch.int64),
    }
    return transformers.BertForSequenceClassification(config), (), inputs


MODELS = {
    "timm resnet18": (lambda: timm_model("resnet18"), 512),
    "timm vit_tiny": (lambda: timm_model("vit_tiny_patch16_224", img_size=64), 192),
    "torchvision mobilenet_v3_small": (torchvision_model, 1024),
    "Hugging Face ViT": (hugging_face_vit, 24),
    "Hugging Face BERT": (hugging_face_bert, 24),
}


@pytest.mark.parametrize("keep_head", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_wrap_train_save_load_unwrap(name, keep_head):
    make, embedding_dim = MODELS[name]
    classifier, args, kwargs = make()
    classifier.eval()
    with torch.no_grad():
        answer = classifier(*args, **kwargs)
        original = getattr(answer, "logits", answer)

    model = wrap(classifier, 3, keep_head=keep_head)
    output = model.eval()(*args, **kwargs)
    assert output.embedding.shape == (3, embedding_dim)
    assert output.corrected.shape == (3, 3)
    if keep_head:
        assert torch.equal(output.logits, original)

    model.train()
    ReliabilityLoss()(model(*args, **kwargs), LABELS).total.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    without_gradient = [p for p in trained if p.grad is None]
    assert not without_gradient, "DDP would wait for these"
    assert all(bool(torch.isfinite(p.grad).all()) for p in trained)

    model.eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = wrap(make()[0], 3, keep_head=keep_head).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(*args, **kwargs).corrected, model(*args, **kwargs).corrected)

    with nullcontext() if keep_head else pytest.warns(UserWarning, match="was not trained"):
        assert model.unwrap() is classifier
    with torch.no_grad():
        answer = classifier.eval()(*args, **kwargs)
    assert getattr(answer, "logits", answer).shape == (3, 3)
