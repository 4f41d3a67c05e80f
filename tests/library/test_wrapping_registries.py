"""Architectures that nobody chose: drawn from the registries of three libraries by a seed.

Each is either wrapped, and then its own last layer applied to the embedding gives its logits, or
refused by a message that says what to pass.
"""

import random
import re

import pytest
import torch

from reliability_balance import wrap

CLASSES, DRAWS = 5, 6
REFUSAL = re.compile(r": `(embedding|output|layout|example_input|model)` must")
# Small enough for a test: names that libraries give to their small members.
SMALL = re.compile(
    r"(tiny|nano|pico|femto|atto|xxs|_0[0-9]{2}\b|lcnet|pit_ti|resnet1[08]|mnasnet_small|xs\b"
    r"|shufflenet_v2_x0|squeezenet1_1|mobilenet_v[23]|regnet_[xy]_400|mnasnet0_5)"
)
SIZES = {
    "hidden_size": 16, "d_model": 16, "dim": 16, "embed_dim": 16, "embedding_size": 16,
    "num_hidden_layers": 1, "n_layers": 1, "encoder_layers": 1, "decoder_layers": 1,
    "num_layers": 1,
    "num_attention_heads": 2, "n_heads": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "num_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_ff": 16, "d_kv": 8,
    "n_embd": 16, "n_layer": 1, "n_head": 2, "hidden_dim": 16, "ffn_dim": 16,
    "vocab_size": 60, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "num_labels": CLASSES, "num_local_experts": 2, "num_experts": 2,
}  # fmt: skip


def images(side=224):
    return (torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)),), {}


def from_timm(name):
    timm = pytest.importorskip("timm")
    side = timm.models.get_pretrained_cfg(name).input_size[-1]
    return timm.create_model(name, num_classes=CLASSES), *images(side)


def from_torchvision(name):
    models = pytest.importorskip("torchvision.models")
    return models.get_model(name, num_classes=CLASSES, weights=None), *images()


def from_transformers(name):
    transformers = pytest.importorskip("transformers")
    config_class = transformers.models.auto.configuration_auto.CONFIG_MAPPING[name]
    config = config_class()
    known = {key: value for key, value in SIZES.items() if hasattr(config, key)}
    model = transformers.AutoModelForSequenceClassification.from_config(config_class(**known))
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2  # encoder-decoders answer for the end-of-text token
    return model, (), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def names(library):
    if library is from_timm:
        timm = pytest.importorskip("timm")
        return [name for name in timm.list_models() if SMALL.search(name)]
    if library is from_torchvision:
        models = pytest.importorskip("torchvision.models")
        return [name for name in models.list_models(module=models) if SMALL.search(name)]
    transformers = pytest.importorskip("transformers")
    return sorted(
        transformers.models.auto.modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    )


def draw(library):
    """Names in an order that the seed alone decides."""
    found = names(library)
    random.Random(26).shuffle(found)
    return found


def run(model, args, kwargs):
    with torch.no_grad():
        answer = model(*args, **kwargs)
    return getattr(answer, "logits", answer)


@pytest.mark.parametrize("library", [from_timm, from_torchvision, from_transformers])
def test_models_of_a_registry(library, record_property):
    wrapped, refused = [], []
    for name in draw(library):
        if len(wrapped) + len(refused) == DRAWS:
            break
        torch.manual_seed(0)
        try:
            model, args, kwargs = library(name)
            logits = run(model.eval(), args, kwargs)
        except Exception:  # what cannot be built so small is not drawn
            continue
        for example in (None, args or kwargs):
            try:
                output = wrap(model, example_input=example).eval()(*args, **kwargs)
            except (TypeError, ValueError, RuntimeError) as error:
                refused.append(f"{name}: {error}")
                break
        else:
            proven = wrap(model, example_input=example)
            layer = proven.source.layer
            found = proven.eval()(*args, **kwargs).embedding
            rows = torch.stack([layer.weight @ row for row in found])
            rows = rows if layer.bias is None else rows + layer.bias
            torch.testing.assert_close(rows, logits, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(output.embedding, found, rtol=1e-4, atol=1e-5)
            wrapped.append(name)
    record_property("wrapped", wrapped)
    record_property("refused", refused)
    print(f"wrapped: {', '.join(wrapped)}", *(f"refused: {each}" for each in refused), sep="\n")
    assert all(REFUSAL.search(each) for each in refused)
    assert len(wrapped) >= DRAWS // 2
