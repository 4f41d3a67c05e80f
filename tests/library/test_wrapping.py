"""Wrapping: plain networks, options, errors. Real timm, torchvision and HF models: see below."""

import copy
import io
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn

from reliability_balance import ReliabilityLoss, fit_head, wrap


class ConvNet(nn.Module):
    """A feature map, a pooled embedding, and a head that was registered first."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
        self.gate = nn.Linear(8, 8)

    def forward(self, images):
        pooled = self.features(images).mean((2, 3))
        return self.head(pooled * self.gate(pooled).sigmoid())


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3)
    )


IMAGES = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(2))


def test_the_embedding_is_what_enters_the_last_linear_layer():
    classifier = mlp()
    model = wrap(classifier).eval()
    output = model(IMAGES)
    assert torch.equal(output.embedding, classifier[:4](IMAGES))
    assert output.corrected.shape == (4, 3)
    assert torch.equal(model.embed(IMAGES), output.embedding)


def test_a_kept_head_and_no_correction_give_the_original_bit_for_bit():
    classifier = mlp().eval()
    logits = classifier(IMAGES)
    output = wrap(classifier, keep_head=True, correction_weight=0.0).eval()(IMAGES)
    assert torch.equal(output.logits, logits)
    assert torch.equal(output.log_probs, logits.log_softmax(-1))


def test_the_original_logits_stay_reachable():
    classifier = mlp().eval()
    before = classifier(IMAGES)
    model = wrap(classifier).eval()
    assert torch.equal(model.model(IMAGES), before)


def test_a_new_head_freezes_the_old_one_and_unwrap_thaws_it():
    classifier = mlp()
    model = wrap(classifier)
    assert not classifier[4].weight.requires_grad
    ReliabilityLoss()(model(IMAGES), torch.tensor([0, 1, 2, 0])).total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with pytest.warns(UserWarning, match="last layer was not trained"):
        assert model.unwrap() is classifier
    assert classifier[4].weight.requires_grad
    assert not classifier[4]._forward_hooks
    with pytest.raises(RuntimeError, match="the model was unwrapped"):
        model(IMAGES)


def test_unwrap_warns_of_a_last_layer_that_was_not_trained(recwarn):
    for options, mode in (({}, False), ({"keep_head": True}, True)):
        model = wrap(mlp(), **options).train(mode)
        model(IMAGES)
        model.unwrap()
    frozen = wrap(mlp().requires_grad_(False))  # the balancer alone is trained
    frozen(IMAGES)
    frozen.unwrap()
    assert not recwarn
    model = wrap(mlp())
    model(IMAGES)
    model = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="last layer was not trained") as caught:
        model.unwrap()
    assert caught[0].filename == __file__


def test_unwrap_gives_the_model_back_unchanged():
    classifier = mlp().eval()
    weights = copy.deepcopy(classifier.state_dict())
    expected = classifier(IMAGES)
    restored = wrap(classifier, keep_head=True).unwrap()
    assert torch.equal(restored(IMAGES), expected)
    assert all(torch.equal(value, weights[name]) for name, value in restored.state_dict().items())


def test_a_named_feature_map_becomes_tokens():
    network = ConvNet()
    model = wrap(network, 3, embedding="features", example_input=IMAGES).eval()
    assert model.embed(IMAGES).shape == (4, 4, 8)
    assert model.balancer.embedding_dim == 8
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"features.0.weight", "features.0.bias"}


def test_a_feature_extractor_is_its_own_embedding():
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh())
    model = wrap(extractor, 3, embedding="", example_input=IMAGES).eval()
    assert torch.equal(model(IMAGES).embedding, extractor(IMAGES))


def test_the_layer_that_answers_is_found_with_an_example():
    network = ConvNet().eval()
    model = wrap(network, example_input=IMAGES).eval()
    assert repr(model.source) == "input of 'head', which gives the model's logits"
    torch.testing.assert_close(network.head(model.embed(IMAGES)), network(IMAGES))


def test_a_layer_that_does_not_answer_is_found_out_at_the_first_call():
    with pytest.raises(ValueError, match=r"'gate', gives \(4, 8\), the model \(4, 3\); got None"):
        wrap(ConvNet(), 3)(IMAGES)


def test_a_kept_answer_beside_a_named_layer():
    output = wrap(ConvNet(), 3, embedding="features", example_input=IMAGES, keep_head=True)(IMAGES)
    assert output.logits.shape == (4, 3)


def test_an_example_leaves_mode_and_statistics_alone():
    classifier = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))
    classifier[1].eval()
    wrap(classifier, example_input=IMAGES)
    assert classifier.training
    assert not classifier[1].training
    assert int(classifier[1].num_batches_tracked) == 0


@pytest.mark.parametrize("keep_head", [False, True])
def test_saved_weights_load_into_a_new_model(keep_head):
    first, second = (wrap(mlp(), keep_head=keep_head).eval() for _ in range(2))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(second(IMAGES).corrected, first(IMAGES).corrected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent(duplicate):
    model = wrap(mlp()).eval()
    model(IMAGES)
    other = duplicate(model)
    assert torch.equal(other(IMAGES).corrected, model(IMAGES).corrected)
    other.unwrap()
    assert model(IMAGES).corrected.shape == (4, 3)


def test_the_balancer_follows_the_models_dtype():
    assert wrap(mlp().double())(IMAGES.double()).corrected.dtype == torch.float64


def test_the_balancer_is_beside_the_layer_that_gives_the_embedding():
    """Parts of a model may be elsewhere: here the first layer is nowhere."""
    split = nn.Sequential(nn.Linear(4, 8, device="meta"), nn.Linear(8, 3).double())
    balancer = wrap(split).balancer
    assert balancer.anchors.device.type == "cpu"
    assert balancer.anchors.dtype == torch.float64


def test_threads_do_not_see_each_others_embeddings():
    class Meeting(nn.Module):
        """Lets nobody on before all have passed the embedding."""

        def __init__(self):
            super().__init__()
            self.barrier = threading.Barrier(2)

        def forward(self, x):
            self.barrier.wait(timeout=30)
            return x

    network = nn.Sequential(nn.Linear(4, 8), Meeting(), nn.Linear(8, 3))
    model = wrap(network, 3, embedding="0").eval()
    batches = [torch.randn(5, 4), torch.randn(5, 4)]
    found = {}

    def predict(place):
        found[place] = model(batches[place]).embedding

    threads = [threading.Thread(target=predict, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, batch in enumerate(batches):
        torch.testing.assert_close(found[place], network[0](batch))


def test_fit_head_on_stored_embeddings_learns():
    classifier = mlp()
    images = torch.randn(200, 1, 4, 4)
    labels = (images.flatten(1)[:, 0] > 0).long()
    model = wrap(classifier, head="linear")
    frozen = copy.deepcopy(classifier.state_dict())
    features = model.eval().embed(images).detach()
    criterion = ReliabilityLoss()
    history = fit_head(
        model.balancer, features, labels, criterion=criterion, epochs=20, learning_rate=1e-2
    )
    assert history[-1] < 0.8 * history[0]
    assert not model.balancer.training
    assert all(torch.equal(value, frozen[name]) for name, value in classifier.state_dict().items())


def test_a_kept_head_gives_the_logits_of_stored_embeddings():
    classifier = mlp()
    model = wrap(classifier, keep_head=True)
    features = model.eval().embed(IMAGES).detach()
    logits = model.primary_logits(features)
    torch.testing.assert_close(logits, model.unwrap()(IMAGES))
    labels = torch.tensor([0, 1, 2, 0])
    assert len(fit_head(model.balancer, features, labels, primary_logits=logits, epochs=2)) == 2
    named = wrap(ConvNet(), 3, embedding="features", example_input=IMAGES, keep_head=True)
    with pytest.raises(ValueError, match="`primary_logits` needs the input of the last layer"):
        named.primary_logits(torch.randn(4, 8))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: wrap("resnet18"), TypeError, "`model` must be a torch.nn.Module; got str"),
        (
            lambda: wrap(nn.Conv2d(1, 3, 4), 3),
            ValueError,
            "`embedding` must name a layer, since the model ends in no linear layer",
        ),
        (
            lambda: wrap(mlp(), 5, keep_head=True),
            ValueError,
            "`num_classes` must be 3, the width of the head that keep_head=True keeps; got 5",
        ),
        (
            lambda: wrap(mlp(), keep_head=True, head="mlp"),
            ValueError,
            "`head` must be None with keep_head=True; got 'mlp'",
        ),
        (
            lambda: wrap(mlp(), embedding="body"),
            ValueError,
            "`embedding` must name a layer of the model; got 'body'. Layers: 0, 1, 2, 3, 4",
        ),
        (
            lambda: wrap(ConvNet(), 3, embedding="features"),
            ValueError,
            "`example_input` must be given to learn the width of layer 'features'",
        ),
        (
            lambda: wrap(
                nn.Sequential(nn.Linear(4, 2), nn.Flatten(0), nn.Unflatten(0, (2, 2))),
                2,
                embedding="1",
                example_input=torch.randn(2, 4),
            ),
            ValueError,
            r"must name a layer that gives \(B, D\), tokens or a feature map; got \(4,\)",
        ),
        (
            lambda: wrap(mlp(), embedding="", example_input=IMAGES),
            ValueError,
            "`num_classes` must be given, since the model's layers do not show it; got None",
        ),
        (lambda: wrap(mlp(), num_anchors=-1), ValueError, "`num_anchors` must be at least 0"),
        (
            lambda: wrap(nn.Sequential(mlp(), nn.Threshold(0.1, 0.2)), example_input=IMAGES),
            ValueError,
            "the last linear layer, '0.4', gives other values than the model; got None",
        ),
        (
            lambda: wrap(mlp(), embedding="1"),
            ValueError,
            "`num_classes` must be given, since the model's layers do not show it; got None",
        ),
        (
            lambda: wrap(mlp(), layout="NHWC"),
            ValueError,
            "`layout` must be one of 'channels_first', 'channels_last'; got 'NHWC'",
        ),
        (
            lambda: wrap(mlp(), layout="channels_last"),
            ValueError,
            "`layout` must be None without a named `embedding` and an `example_input`",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_number_of_classes_may_come_from_the_example():
    extractor = nn.Sequential(nn.Conv2d(1, 5, 4), nn.Flatten())
    model = wrap(extractor, embedding="0", example_input=IMAGES, keep_head=True).eval()
    assert model.balancer.num_classes == 5
    assert torch.equal(model(IMAGES).logits, extractor(IMAGES))


class Scaled(nn.Module):
    def __init__(self, head, scale=2.0):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU())
        self.head, self.scale = head, scale

    def forward(self, images):
        return self.head(self.features(images)) / self.scale


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 12))

    def forward(self, features):
        return nn.functional.normalize(features) @ nn.functional.normalize(self.weight).T


@pytest.mark.parametrize("head", [nn.Linear(12, 5), Cosine(), nn.Sequential(Cosine(), nn.ReLU())])
def test_a_head_without_a_last_linear_layer_is_replaced(head):
    network = Scaled(head)
    with pytest.raises(ValueError, match="`embedding` must name a layer") as caught:
        wrap(network, example_input=IMAGES)
    assert "example_input" not in str(caught.value)  # it was passed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = wrap(network, embedding="features", example_input=IMAGES)
    assert model.balancer.num_classes == 5
    assert not any(p.requires_grad for p in head.parameters())
    ReliabilityLoss()(model(IMAGES), torch.arange(4)).total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_frozen_extractor_does_not_show_the_number_of_classes():
    network = Scaled(nn.Identity())
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        wrap(network, embedding="features", example_input=IMAGES)


def test_a_sigmoid_head_is_referred_to_two_outputs():
    with pytest.raises(ValueError, match=r"`model` must have an output for each class; got one"):
        wrap(nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Linear(12, 1)))
    two = wrap(nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Linear(12, 1)), 2)
    assert two(IMAGES).corrected.shape == (4, 2)


def test_a_failed_wrap_leaves_no_hook_behind():
    classifier = mlp()
    with pytest.raises(ValueError, match="`num_anchors`"):
        wrap(classifier, num_anchors=-1)
    assert not classifier[4]._forward_hooks
    assert classifier[4].weight.requires_grad


def test_a_model_that_gives_no_tensor():
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            self.layer(x)
            return {"answer": None}

    with pytest.raises(TypeError, match=r"`output` must name .* the model gave a dict of"):
        wrap(Silent())(torch.randn(2, 4))
