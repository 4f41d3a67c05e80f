"""Models that people wrap, and what would be taken for their embedding without a check."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from reliability_balance import ReliabilityBalancer, ReliabilityLoss, fit_head, wrap
from reliability_balance.labels import mix

IMAGES = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(2))
VECTORS = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
LABELS = torch.tensor([0, 1, 2, 0])

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 3,
    "pad_token_id": 0,
}
DECODERS = {
    "GPT2": {"n_embd": 24, "n_layer": 1, "n_head": 2},
    "Llama": {"num_key_value_heads": 2},
    "Qwen2": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2, "head_dim": 12},
    "GPTNeoX": {},
    "OPT": {"ffn_dim": 32, "word_embed_proj_dim": 24},
}


def decoder(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **DECODERS[name]})
    return getattr(transformers, f"{name}ForSequenceClassification")(config).eval()


def padded(side, count=3):
    """Token ids of 3 texts of 7 tokens, and the same with padding."""
    ids = torch.randint(1, 50, (3, 7), generator=torch.Generator().manual_seed(1))
    filler, ones = torch.zeros(3, count, dtype=torch.int64), torch.ones(3, 7, dtype=torch.int64)
    parts = [(ids, ones), (filler, filler)] if side == "right" else [(filler, filler), (ids, ones)]
    longer, mask = (torch.cat(each, 1) for each in zip(*parts, strict=True))
    return {"input_ids": ids, "attention_mask": ones}, {"input_ids": longer, "attention_mask": mask}


def linear(layer, embedding):
    """A naive linear layer."""
    bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
    return torch.stack([layer.weight @ row + bias for row in embedding])


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_embedding_is_that_of_the_token_it_picks(name, example):
    network = decoder(name)
    plain, longer = padded("right")
    torch.manual_seed(1)
    model = wrap(network, example_input=longer if example else None).eval()
    short, long = model(**plain), model(**longer)
    torch.testing.assert_close(long.corrected, short.corrected, rtol=0, atol=1e-5)
    torch.testing.assert_close(long.embedding, short.embedding, rtol=0, atol=1e-5)
    logits = network(**plain).logits
    torch.testing.assert_close(linear(network.score, short.embedding), logits)
    assert "at the token that it picks" in repr(model)


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_a_decoder_keeps_its_head(name):
    network = decoder(name)
    _, longer = padded("right")
    logits = network(**longer).logits
    model = wrap(network, keep_head=True, correction_weight=0.0).eval()
    assert torch.equal(model(**longer).logits, logits)
    features = model.embed(**longer).detach()
    torch.testing.assert_close(model.primary_logits(features), logits)


def test_a_decoder_whose_tokens_all_have_the_same_logits_is_refused():
    network = decoder("Llama")
    nn.init.zeros_(network.score.weight)
    with pytest.raises(
        ValueError, match="`model` must give different logits to different samples and"
    ):
        wrap(network)(**padded("right")[1])


def test_a_decoder_in_half_precision():
    network = decoder("Llama").to(torch.bfloat16)
    _, longer = padded("right")
    output = wrap(network).eval()(**longer)
    logits = network(**longer).logits
    assert torch.equal(network.score(output.embedding), logits)


class TokenAverage(nn.Module):
    """A head on every token, and the mean of its answers."""

    def __init__(self, uses_mask):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 3)
        self.uses_mask = uses_mask

    def forward(self, ids, attention_mask=None):
        scores = self.head(self.embed(ids))
        if not self.uses_mask:
            return scores.mean(1)
        kept = attention_mask.unsqueeze(-1)
        return (scores * kept).sum(1) / kept.sum(1)


@pytest.mark.parametrize("by_keyword", [True, False])
def test_padding_is_left_out_of_an_average_of_tokens(by_keyword):
    plain, longer = padded("left")
    model = wrap(TokenAverage(uses_mask=True)).eval()

    def call(batch):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return model(ids, attention_mask=mask) if by_keyword else model(ids, mask)

    torch.testing.assert_close(call(longer).corrected, call(plain).corrected)
    answer = model.model(*longer.values())
    torch.testing.assert_close(linear(model.model.head, call(longer).embedding), answer)
    assert "averaged" in repr(model)


def test_an_average_that_counts_padding_is_refused_beside_a_mask():
    with pytest.raises(ValueError, match="`embedding` must name a layer"):
        wrap(TokenAverage(uses_mask=False))(*padded("left")[1].values())
    model = wrap(TokenAverage(uses_mask=False), token_mask=None).eval()
    _, longer = padded("left")
    torch.testing.assert_close(
        linear(model.model.head, model(*longer.values()).embedding), model.model(*longer.values())
    )


@pytest.mark.parametrize("attention", ["tokens", "single", "off"])
def test_padding_does_not_change_what_the_balancer_gives(attention):
    balancer = ReliabilityBalancer(8, 3, attention=attention, head="linear").eval()
    tokens, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    filler = torch.full((2, 3, 8), float("nan"))
    expected = balancer(tokens)
    longer = torch.cat([tokens, filler], 1)
    mask = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], 1)
    for name, value in balancer(longer, token_mask=mask)._asdict().items():
        if value is not None and name not in ("tokens", "token_mask"):
            torch.testing.assert_close(value, getattr(expected, name), msg=name)


def test_padding_does_not_change_what_fit_head_and_anchors_learn():
    torch.manual_seed(0)
    tokens, labels = torch.randn(12, 4, 8), torch.arange(12) % 3
    longer = torch.cat([tokens, torch.full((12, 2, 8), 1e3)], 1)
    mask = torch.cat([torch.ones(12, 4), torch.zeros(12, 2)], 1).bool()
    weights = []
    for features, options in ((tokens, {}), (longer, {"token_mask": mask})):
        torch.manual_seed(1)
        balancer = ReliabilityBalancer(8, 3, attention="tokens", num_anchors=2)
        fit_head(balancer, features, labels, epochs=2, **options)
        weights.append(torch.cat([p.detach().flatten() for p in balancer.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("attention", ["tokens", "off"])
def test_mixing_blends_the_means_of_what_is_no_padding(attention):
    balancer = ReliabilityBalancer(8, 3, attention=attention).eval()
    tokens = torch.randn(3, 4, 8)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    filled = tokens.where(mask.unsqueeze(-1), torch.nan)
    means = torch.stack([tokens[i][mask[i]].mean(0) for i in range(3)])
    torch.manual_seed(3)
    output = balancer(filled, token_mask=mask)
    of_tokens = mix(balancer, output, torch.eye(3), concentration=1.0).output.embedding
    torch.manual_seed(3)
    of_means = mix(balancer, balancer(means), torch.eye(3), concentration=1.0).output.embedding
    torch.testing.assert_close(of_tokens, of_means)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(2, 5), TypeError, "`token_mask` must be a bool tensor; got torch.float32"),
        (torch.ones(2, 4).bool(), ValueError, r"`token_mask` must have shape \(B, T\)"),
        (torch.zeros(2, 5).bool(), ValueError, "each sample a token; got 2 samples"),
    ],
)
def test_masks_that_cannot_be(mask, error, message):
    with pytest.raises(error, match=message):
        ReliabilityBalancer(8, 3).eval()(torch.randn(2, 5, 8), token_mask=mask)


def test_tokens_of_a_named_layer_leave_out_padding():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES)).eval()
    plain, longer = padded("right")
    model = wrap(network, 3, embedding="bert.encoder", example_input=longer).eval()
    torch.testing.assert_close(model(**longer).corrected, model(**plain).corrected)
    tokens, mask = model.embed_tokens(**longer)
    assert tokens.shape == (3, 10, 24)
    assert torch.equal(mask, longer["attention_mask"].bool())
    with pytest.raises(ValueError, match="got 9 padded tokens: take `embed_tokens`"):
        model.embed(**longer)
    with pytest.raises(ValueError, match=r"\(B, T\) = \(3, 10\).*with torch.float32"):
        model(longer["input_ids"], attention_mask=longer["attention_mask"].float())


class Adapter(nn.Module):
    """What peft makes of a linear layer: the layer itself, and a narrow detour."""

    def __init__(self, base):
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base_layer = base
        self.lora_A = nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


@pytest.mark.parametrize("example", [None, VECTORS])
def test_an_adapted_head_is_one_layer(example):
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Adapter(nn.Linear(8, 3)))
    model = wrap(network, example_input=example)
    assert model(VECTORS).embedding.shape == (4, 8)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith("2.")}


def test_peft_on_the_classifier():
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    network = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES))
    config = peft.LoraConfig(r=2, target_modules=["classifier", "query"])
    model = wrap(peft.get_peft_model(network, config)).eval()
    plain, _ = padded("right")
    assert model(**plain).embedding.shape == (3, 24)


@pytest.mark.parametrize(
    ("name", "width"),
    [("vit_tiny_patch16_224", 192), ("resnet18", 512), ("mobilenetv3_small_050", 1024)],
)
def test_timm_without_a_classifier_gives_features(name, width):
    timm = pytest.importorskip("timm")
    size = {"img_size": 32} if name.startswith("vit") else {}
    network = timm.create_model(name, num_classes=0, **size)
    images = torch.randn(2, 3, 32, 32)
    for example in (None, images):
        model = wrap(network, 3, example_input=example).eval()
        assert model.balancer.embedding_dim == width
        torch.testing.assert_close(model(images).embedding, network.eval()(images))
        model.unwrap()


def test_channels_last_maps_of_swin():
    models = pytest.importorskip("torchvision.models")
    network = models.swin_transformer.SwinTransformer(
        [4, 4], 24, [1, 1], [2, 2], [4, 4], num_classes=3
    )
    images = torch.randn(2, 3, 64, 96)
    model = wrap(network, 3, embedding="features", example_input=images).eval()
    assert not network.norm.weight.requires_grad  # it comes after the embedding
    assert model.balancer.embedding_dim == 48
    expected = network.features(images)
    assert expected.shape == (2, 8, 12, 48)
    torch.testing.assert_close(model(images).embedding, expected.mean((1, 2)))


def test_channels_last_maps_of_timm():
    timm = pytest.importorskip("timm")
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=0, global_pool="", img_size=64, window_size=2,
        depths=(1, 1), embed_dim=12, num_heads=(1, 1),
    )  # fmt: skip
    images = torch.randn(2, 3, 64, 64)
    model = wrap(network, 3, example_input=images).eval()
    assert model.balancer.embedding_dim == network.num_features


def test_channels_first_sequences():
    network = nn.Sequential(
        nn.Conv1d(2, 8, 3),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    signals = torch.randn(4, 2, 10)
    model = wrap(network, embedding="0", example_input=signals).eval()
    expected = F.conv1d(signals, network[0].weight, network[0].bias).transpose(1, 2)
    torch.testing.assert_close(model.embed(signals), expected)


@pytest.mark.parametrize("name", ["0", "1", "2", "3"])
def test_activations_leave_the_layout(name):
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.GELU(), nn.Dropout(), nn.Identity(), nn.Flatten(), nn.Linear(24, 3)
    )
    model = wrap(network, 3, embedding=name, example_input=IMAGES).eval()
    expected = network[: int(name) + 1](IMAGES).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.embed(IMAGES), expected)


class Map(nn.Module):
    """A 4-D map with nothing around it that tells where its channels are."""

    def forward(self, x):
        return x * 2.0


def test_a_layout_that_nothing_tells_must_be_given():
    network = nn.Sequential(Map(), nn.Flatten(), nn.Linear(60, 3))
    maps = torch.randn(2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"`layout` must be one of .* \(2, 3, 4, 5\)"):
        wrap(network, 3, embedding="0", example_input=maps)
    for layout, width in (("channels_first", 3), ("channels_last", 5)):
        model = wrap(network, 3, embedding="0", example_input=maps, layout=layout).eval()
        axes = (2, 3) if layout == "channels_first" else (1, 2)
        torch.testing.assert_close(model(maps).embedding, 2 * maps.mean(axes))
        assert model.balancer.embedding_dim == width
        model.unwrap()


def test_a_layer_that_works_in_place_comes_after_the_embedding():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    model = wrap(network, 3, embedding="1").eval()
    assert torch.equal(model(IMAGES).embedding, network[1](IMAGES.flatten(1)))
    assert bool((model(IMAGES).embedding < 0).any())


def test_answers_changed_in_place_are_found_out():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            return self.head(x).mul_(3.0)

    for example in (None, VECTORS):
        with pytest.raises(ValueError, match="'head', is changed in place afterwards"):
            wrap(Scaled(), example_input=example)(VECTORS)
    message = "'head', is changed in place afterwards"
    with torch.inference_mode(), pytest.raises(ValueError, match=message):
        wrap(Scaled())(VECTORS)


class TwoViews(nn.Module):
    """One head for two inputs."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, one, other):
        return (self.head(one) + self.head(other)) / 2


def test_a_layer_that_runs_twice_is_refused():
    with pytest.raises(RuntimeError, match=r"'head'.* ran 2 times in one call"):
        wrap(TwoViews())(VECTORS, VECTORS)
    with pytest.raises(RuntimeError, match=r"'head'.* ran 2 times in one call"):
        wrap(TwoViews(), example_input=(VECTORS, VECTORS))


def test_a_layer_that_is_called_by_keyword():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            return self.head(input=x)

    assert torch.equal(wrap(Keyword()).eval()(VECTORS).embedding, VECTORS)


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("again", [lambda model: model, lambda model: model.model])
def test_a_model_is_wrapped_once(again):
    model = wrap(network())
    with pytest.raises(ValueError, match="`model` must not be wrapped already"):
        wrap(again(model))
    assert wrap(model.unwrap()) is not model


def test_a_wrapper_that_is_dropped_leaves_the_model():
    plain = network()
    wrap(plain)
    gc.collect()
    assert not plain[2]._forward_hooks
    assert plain[2].weight.requires_grad
    wrap(plain)


def test_a_model_may_call_its_own_wrapper():
    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)
            self.wrapper = [None]

        def forward(self, x, depth=1):
            if depth:
                self.wrapper[0](x + 1.0, depth=0)
            return self.head(x)

    plain = Calls()
    plain.wrapper[0] = model = wrap(plain).eval()
    assert torch.equal(model(VECTORS).embedding, VECTORS)


@pytest.mark.parametrize("ending", [nn.Softmax(-1), nn.LogSoftmax(-1)])
def test_a_kept_head_behind_a_softmax_gives_its_logits(ending):
    plain = nn.Sequential(*network(), ending).eval()
    model = wrap(plain, keep_head=True, correction_weight=0.0).eval()
    logits = plain[:3](VECTORS)
    output = model(VECTORS)
    torch.testing.assert_close(output.corrected, logits.softmax(-1), rtol=0, atol=1e-7)
    if isinstance(ending, nn.Softmax):
        assert torch.equal(output.logits, logits)


def test_probabilities_beside_a_named_layer_are_refused():
    plain = nn.Sequential(*network(), nn.Softmax(-1))
    model = wrap(plain, 3, embedding="0", keep_head=True)
    with pytest.raises(ValueError, match="`keep_head` needs a model that outputs logits"):
        model(VECTORS)


class Returns(nn.Module):
    """A classifier that returns a given output."""

    def __init__(self, form):
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.form = form

    def forward(self, x):
        return self.form(x, self.head(x))


@pytest.mark.parametrize(
    ("form", "output"),
    [
        (lambda x, logits: {"features": x, "logits": logits}, None),
        (lambda x, logits: {"answer": logits}, None),
        (lambda x, logits: (logits, None), None),
        (lambda x, logits: (x.sum(), logits), 1),
        (lambda x, logits: {"features": x, "scores": logits}, "scores"),
    ],
)
def test_the_logits_among_what_a_model_returns(form, output):
    model = wrap(Returns(form), output=output, keep_head=True).eval()
    assert torch.equal(model(VECTORS).logits, model.model.head(VECTORS))


@pytest.mark.parametrize(
    ("form", "output", "message"),
    [
        (lambda x, logits: (x.sum(), logits), None, r"`output` must name .* got None.*\(4, 3\)"),
        (lambda x, logits: {"a": x, "b": logits}, None, r"a dict of \{a: \(4, 6\), b: \(4, 3\)\}"),
        (lambda x, logits: {"a": x, "b": logits}, "c", "got 'c', and the model gave a dict"),
        (lambda x, logits: (x, logits), 2, "got 2, and the model gave a tuple"),
    ],
)
def test_a_choice_among_what_a_model_returns_is_not_made(form, output, message):
    with pytest.raises(TypeError, match=message):
        wrap(Returns(form), output=output)(VECTORS)


class Experts(nn.Module):
    """Which expert runs depends on the input."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.only_in_training = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.experts[int(x.sum() > 0)](x)
        return self.head(x * self.only_in_training if self.training else x)


def test_what_one_batch_did_not_reach_stays_trainable():
    plain = Experts()
    with pytest.warns(UserWarning, match=r"depend on: only_in_training, experts.1.weight, exp"):
        model = wrap(plain, example_input=-VECTORS.abs())
    assert {n for n, p in plain.named_parameters() if not p.requires_grad} == {
        "head.weight",
        "head.bias",
    }
    ReliabilityLoss()(model(VECTORS.abs()), LABELS).total.backward()
    assert plain.only_in_training.grad is not None
    assert plain.experts[1].weight.grad is not None


@pytest.mark.parametrize("example", [False, True])
def test_tied_weights_train(example):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 8)
            self.head = nn.Linear(8, 5)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids).mean(1))

    plain, ids = Tied(), torch.randint(5, (4, 3))
    model = wrap(plain, example_input=ids if example else None)
    assert plain.embed.weight.requires_grad
    assert not plain.head.bias.requires_grad
    ReliabilityLoss()(model(ids), LABELS).total.backward()
    assert plain.embed.weight.grad is not None


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Linear(8, 3)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        run = lambda x: self.head(self.body(x))  # noqa: E731
        return checkpoint(run, x.requires_grad_(), use_reentrant=self.use_reentrant)


def test_reentrant_checkpointing_does_not_lose_the_graph():
    model = wrap(Checkpointed(use_reentrant=True))
    with pytest.raises(RuntimeError, match="without gradients, as under reentrant checkpointing"):
        model(VECTORS.clone())
    assert model.eval()(VECTORS.clone()).embedding.shape == (4, 8)
    plain = Checkpointed(use_reentrant=False)
    ReliabilityLoss()(wrap(plain)(VECTORS.clone()), LABELS).total.backward()
    assert plain.body[0].weight.grad is not None


def compiled(plain):
    plain.compile()
    return plain


def compiled_part(plain):
    return nn.Sequential(torch.compile(plain[:2]), torch.compile(plain[2:]))


@pytest.mark.parametrize("hide", [torch.compile, compiled, compiled_part])
def test_compiled_models_are_wrapped_before(hide):
    for example in (None, VECTORS):
        with pytest.raises(ValueError, match="`model` must be wrapped before it is compiled"):
            wrap(hide(network()), example_input=example)
    half = nn.Sequential(torch.compile(network()[:2], backend="eager"), nn.Linear(8, 3))
    assert wrap(half).eval()(VECTORS).embedding.shape == (4, 8)


def test_a_model_that_is_compiled_after_it_was_wrapped():
    model = wrap(network()).eval()
    model.model.compile(backend="eager")
    with pytest.raises(RuntimeError, match="compile the wrapped model instead"):
        model(VECTORS)


@pytest.mark.parametrize("proven", [False, True])
def test_the_wrapped_model_compiles(proven):
    model = wrap(network(), example_input=VECTORS if proven else None).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(VECTORS).corrected, model(VECTORS).corrected)


def test_a_decoder_that_was_not_proven_does_not_compile():
    model = wrap(decoder("GPT2")).eval()
    _, longer = padded("right")
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(Exception, match="`model` must be called once before it is compiled"):
        compiled(**longer)


@pytest.mark.parametrize("kind", [nn.DataParallel, "fsdp"])
def test_parallel_models_are_wrapped_before(kind):
    plain = network()
    if kind == "fsdp":
        parallel = type("FullyShardedDataParallel", (nn.Sequential,), {})(*plain)
    else:
        parallel = kind(plain)
    with pytest.raises(ValueError, match="`model` must be wrapped before it is made parallel"):
        wrap(parallel)


def test_offloaded_models_are_refused():
    accelerate = pytest.importorskip("accelerate")
    plain = network()
    accelerate.cpu_offload(plain, execution_device="cpu")
    with pytest.raises(ValueError, match="on the meta device: wrap it before it is offloaded"):
        wrap(plain)


def test_scripts_are_refused():
    with pytest.raises(ValueError, match="`model` must not be a script"):
        wrap(torch.jit.trace(network(), VECTORS))


def test_a_lazy_head():
    plain = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ValueError, match="`example_input` must be given to learn the width"):
        wrap(plain)
    assert wrap(plain, example_input=IMAGES).balancer.embedding_dim == 16


def test_embeddings_are_taken_in_the_dtype_of_the_weights():
    balancer = ReliabilityBalancer(6, 3)
    features = torch.randn(20, 6, dtype=torch.float64)
    fit_head(balancer, features, torch.arange(20) % 3, epochs=1)
    torch.testing.assert_close(balancer(features).corrected, balancer(features.float()).corrected)
    half = ReliabilityBalancer(6, 3).to(torch.bfloat16).eval()
    assert half(features).logits.dtype == torch.bfloat16


def test_quantised_and_half_models():
    plain = network().eval()
    half = wrap(network().to(torch.bfloat16)).eval()
    assert half(VECTORS.to(torch.bfloat16)).embedding.dtype == torch.bfloat16
    quantised = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear})
    output = wrap(quantised).eval()(VECTORS)
    assert torch.equal(output.embedding, quantised[:2](VECTORS))


def test_answers_for_each_token_are_refused():
    with pytest.raises(ValueError, match=r"must output \(B, C\); got \(4, 5, 3\)"):
        wrap(network(), example_input=torch.randn(4, 5, 6))


def test_sequence_first_layers_are_refused():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.LSTM(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.body(x)[0][-1])

    sequence = torch.randn(4, 4, 6)  # as many steps as samples
    assert wrap(Recurrent()).eval()(sequence).embedding.shape == (4, 8)
    with pytest.raises(ValueError, match="must name a layer whose first axis is the batch"):
        wrap(Recurrent(), 3, embedding="body", example_input=sequence, layout="channels_last")


def test_the_representation_tells_what_was_checked():
    model = wrap(network())
    assert "input of '2', to be checked at the first call" in repr(model)
    model(VECTORS)
    assert "input of '2', which gives the model's logits" in repr(model)
    named = wrap(network(), 3, embedding="0")
    assert "output of '0', not checked against the model's logits" in repr(named)


class Unsorted(nn.Module):
    """Sorts by length and puts the answers back, as packed sequences want it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x, lengths):
        order = lengths.argsort(descending=True, stable=True)
        return self.head(x[order])[order.argsort()]


def test_every_call_is_proven():
    """Equal lengths leave the order as it is, so the first call proves nothing of the next one."""
    model = wrap(Unsorted()).eval()
    model(VECTORS, torch.tensor([7, 7, 7, 7]))
    with pytest.raises(ValueError, match="'head', gives other values than the model"):
        model(VECTORS, torch.tensor([3, 7, 2, 5]))


def test_a_softmax_in_evaluation_alone_is_not_taken_twice():
    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            scores = self.head(x)
            return scores if self.training else scores.softmax(-1)

    model = wrap(Ends(), keep_head=True, correction_weight=0.0)
    model.train()(VECTORS)
    answer = model.eval().model(VECTORS)
    torch.testing.assert_close(model(VECTORS).corrected, answer)


def test_one_token_does_not_tell_a_pick_from_an_average():
    network = TokenAverage(uses_mask=False).eval()
    model = wrap(network).eval()
    model(torch.tensor([[3], [4]]))
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    torch.testing.assert_close(linear(network.head, model(ids).embedding), network(ids))
    assert "averaged" in repr(model)


def test_a_pick_among_padding_is_followed():
    """Without ids a decoder of transformers takes the last position, padding or not."""
    network = decoder("Llama")
    _, longer = padded("right")
    model = wrap(network).eval()
    model(**longer)
    call = {
        "inputs_embeds": network.model.embed_tokens(longer["input_ids"]),
        "attention_mask": longer["attention_mask"],
    }
    found = linear(network.score, model(**call).embedding)
    torch.testing.assert_close(found, network(**call).logits)


class Tabular(nn.Module):
    """Says how wide it is, as a linear layer does."""

    def __init__(self):
        super().__init__()
        self.in_features, self.out_features = 6, 3
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x).relu())


@pytest.mark.parametrize("example", [None, VECTORS])
@pytest.mark.parametrize("outer", [False, True])
def test_a_network_that_says_its_width_is_no_layer(outer, example):
    network = nn.Sequential(nn.Identity(), Tabular()) if outer else Tabular()
    model = wrap(network, example_input=example).eval()
    assert model(VECTORS).embedding.shape == (4, 16)
    assert all(p.requires_grad for n, p in network.named_parameters() if "body" in n)


def test_a_head_that_the_embedding_uses_trains():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3, bias=False)

        def forward(self, x):
            tokens = self.body(x)
            weight = (tokens @ self.head.weight.T).mean(-1).softmax(-1)
            return self.head((weight.unsqueeze(-1) * tokens).sum(1))

    network = Attends()
    model = wrap(network, example_input=torch.randn(2, 5, 6))
    assert network.head.weight.requires_grad
    assert model.unwrap() is network


def test_no_gradient_is_lost_where_the_model_alone_is_in_evaluation():
    model = wrap(Checkpointed(use_reentrant=True)).train()
    model.model.eval()
    with pytest.raises(RuntimeError, match="without gradients"):
        model(VECTORS.clone())


def test_unwrap_thaws_parameters_that_were_replaced():
    model = wrap(network())
    model.load_state_dict(wrap(network()).state_dict(), assign=True)
    assert model.unwrap()[2].weight.requires_grad


def test_copies_do_not_unwrap_the_original():
    model = wrap(network()).eval()
    replica, shallow = model._replicate_for_data_parallel(), copy.copy(model)
    del replica, shallow
    gc.collect()
    assert model(VECTORS).embedding.shape == (4, 8)
    assert not model.model[2].weight.requires_grad


def test_a_copy_of_the_network_alone_can_be_wrapped():
    model = wrap(network())
    other = copy.deepcopy(model.model)
    assert wrap(other).eval()(VECTORS).embedding.shape == (4, 8)
    assert wrap(other).unwrap()[2].weight.requires_grad
    with pytest.raises(ValueError, match="wrapped already"):
        wrap(model.model)


class Masked(nn.Module):
    """Rules a class out, and has another layer as wide as the answer."""

    def __init__(self, value):
        super().__init__()
        self.head, self.auxiliary = nn.Linear(6, 3), nn.Linear(6, 3)
        self.value = value

    def forward(self, x):
        self.auxiliary(x * 7 - 1)
        ruled_out = torch.tensor([False, False, True])
        return self.head(x).masked_fill(ruled_out, self.value)


@pytest.mark.parametrize("value", [-torch.inf, -1e6])
@pytest.mark.parametrize("example", [None, VECTORS])
def test_huge_numbers_prove_nothing(value, example):
    with pytest.raises(ValueError, match="gives other values than the model"):
        wrap(Masked(value), example_input=example)(VECTORS)


def test_heads_of_zeros_prove_nothing():
    class Distilled(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.distilled = nn.Linear(6, 3), nn.Linear(6, 3)
            for layer in (self.head, self.distilled):
                nn.init.zeros_(layer.weight)

        def forward(self, x):
            return (self.head(x) + self.distilled(x * 2)) / 2

    nn.init.zeros_(Distilled().head.bias)
    with pytest.raises(ValueError, match=r"`(model|embedding)` must"):
        wrap(Distilled(), example_input=VECTORS)
    plain = network()
    nn.init.zeros_(plain[2].weight)
    model = wrap(plain, example_input=VECTORS).eval()
    assert model(VECTORS).embedding.shape == (4, 8)
    with torch.inference_mode():
        assert model(VECTORS).embedding.shape == (4, 8)


def test_masks_that_no_call_can_have_are_refused():
    with pytest.raises(ValueError, match=r"`token_mask` must name .*got 'tokn_mask'"):
        wrap(TokenAverage(uses_mask=True), token_mask="tokn_mask")

    with pytest.raises(
        ValueError, match="must be '~padding_mask' for a mask that is 1 for padding"
    ):
        wrap(TokenAverage(uses_mask=True), token_mask="padding_mask")

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = TokenAverage(uses_mask=True)

        def forward(self, *args, **kwargs):
            return self.inner(*args, **kwargs)

    _, longer = padded("left")
    model = wrap(Outer()).eval()
    ids, mask = longer.values()
    with pytest.raises(ValueError, match=r"must give|by keyword|must name a layer"):
        model(ids, mask)
    assert model(ids, attention_mask=mask).embedding.shape == (3, 8)


def test_norms_over_maps_tell_no_axis():
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.LayerNorm([6, 2, 2]), nn.Flatten(), nn.Linear(24, 3)
    )
    model = wrap(network, 3, embedding="0", example_input=IMAGES)
    assert model.balancer.embedding_dim == 6


def test_an_encoder_that_is_made_of_sequence_first_layers_is_refused():
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(6, 2, 8), 1, enable_nested_tensor=False
    )
    network = nn.Sequential(encoder, nn.Flatten(), nn.Linear(24, 3))
    with pytest.raises(ValueError, match="must name a layer whose first axis is the batch"):
        wrap(network, 3, embedding="0", example_input=torch.randn(4, 4, 6))


def test_a_feature_extractors_width_is_no_number_of_classes():
    extractor = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        wrap(extractor, embedding="0", example_input=VECTORS)


def test_a_failed_proof_leaves_no_hook():
    class TakesTuple(nn.Linear):
        def forward(self, pair):
            return super().forward(pair[0])

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = TakesTuple(6, 3)

        def forward(self, x):
            return self.head((x, x))

    plain = Network()
    for _ in range(2):
        with pytest.raises(TypeError, match="must name a layer that takes a tensor; got tuple"):
            wrap(plain, example_input=VECTORS)
    assert not plain.head._forward_hooks


def test_empty_batches_and_answers_that_are_no_numbers():
    model = wrap(network(), head="linear").eval()
    assert model(VECTORS[:0]).corrected.shape == (0, 3)
    half = nn.Sequential(*network(), nn.LogSoftmax(-1))
    assert wrap(half, head="linear").eval()(VECTORS[:0]).corrected.shape == (0, 3)
    with pytest.raises(ValueError, match=r"NaN|finite"):
        wrap(half).eval()(VECTORS * torch.nan)


def test_more_answers_in_training_than_in_evaluation():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            answer = self.head(x)
            return (answer, x) if self.training else answer

    model = wrap(Auxiliary(), output=0, keep_head=True)
    for mode in (True, False):
        assert torch.equal(model.train(mode)(VECTORS).logits, model.model.head(VECTORS))


def test_a_layer_that_left_the_model_is_told():
    model = wrap(network()).eval()
    model.model[2] = nn.Linear(8, 3)
    with pytest.raises(RuntimeError, match="it is no longer a part of the model"):
        model(VECTORS)


def test_a_kept_head_with_dropout_gives_its_answers_for_stored_embeddings():
    adapted = Adapter(nn.Linear(8, 3))
    adapted.lora_A = nn.Sequential(nn.Dropout(0.9), adapted.lora_A)
    model = wrap(nn.Sequential(nn.Linear(6, 8), adapted), keep_head=True).train()
    features = torch.randn(5, 8)
    answers = model.primary_logits(features)
    assert torch.equal(answers, adapted.eval()(features))


class Encoder(nn.Module):
    """Calls its mask after padding, as torch does."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids, padding_mask=None):
        tokens = self.encode(ids)
        if padding_mask is not None:
            tokens = tokens.masked_fill(padding_mask.unsqueeze(-1), 0.0)
        return self.head(tokens.sum(1))


def test_masks_of_padding_and_masks_under_other_names():
    plain, longer = padded("right")
    ids, padding = longer["input_ids"], longer["attention_mask"] == 0
    options = {"embedding": "encode", "layout": "channels_last", "example_input": ids}
    model = wrap(Encoder(), 3, **options).eval()
    with pytest.raises(ValueError, match="must be 'padding_mask', or '~padding_mask' if it is 1"):
        model(ids, padding_mask=padding)
    model = wrap(model.unwrap(), 3, token_mask="~padding_mask", **options).eval()
    expected = model(plain["input_ids"])
    for call in (lambda: model(ids, padding), lambda: model(ids, padding_mask=padding)):
        torch.testing.assert_close(call().corrected, expected.corrected)


def test_options_that_nobody_has_are_named():
    with pytest.raises(TypeError, match=r"options of its own.*num_anchors.*got 'num_class'"):
        wrap(network(), num_class=4)


def test_the_wrapper_is_in_the_mode_of_its_model():
    for mode in (True, False):
        model = wrap(network().train(mode))
        assert {module.training for module in model.modules()} == {mode}
