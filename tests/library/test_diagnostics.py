"""Each sickness is made, and named; a healthy model gets no complaint."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from reliability_balance import (
    ReliabilityBalancer,
    ReliabilityLoss,
    RobustLoss,
    calibrate,
    fit_head,
    wrap,
)
from reliability_balance.calibration import Familiarity, PredictionSets
from reliability_balance.core import LossTerms, get_recipe
from reliability_balance.data import symmetric_noise
from reliability_balance.diagnosis import (
    Changes,
    anchor_spacing,
    anchor_use,
    branch_agreement,
    class_shares,
    count_changes,
    diagnose,
    non_finite_parameters,
    non_finite_terms,
    rules,
    symptoms,
)

CLASSES = 4
FITTING = {
    "criterion": ReliabilityLoss(),
    "epochs": 15,
    "batch_size": 64,
    "learning_rate": 3e-2,
}


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made meanwhile."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.numel = max(self.numel, made.numel())
        return made


def blobs(count=600, seed=0):
    """Embeddings of two kinds in each class, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    kind = 2 * labels + torch.randint(2, (count,), generator=generator)
    points = 4.0 * F.one_hot(kind, 16) + torch.randn(count, 16, generator=generator) * 0.5
    return points, labels


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    balancer = ReliabilityBalancer(16, CLASSES, num_anchors=2, attention="tokens")
    fit_head(balancer, *blobs(), **FITTING)
    return balancer.state_dict()


@pytest.fixture
def balancer(trained):
    healthy = ReliabilityBalancer(16, CLASSES, num_anchors=2, attention="tokens")
    healthy.load_state_dict(trained)
    return healthy


def copying():
    """A balancer without corrections, whose embeddings are its logits."""
    return ReliabilityBalancer(CLASSES, CLASSES, num_anchors=0, attention="off", head=nn.Identity())


def batches(points, labels):
    return list(zip(points.split(100), labels.split(100), strict=True))


def whats(model, data=None):
    return [found.what for found in diagnose(model, data or batches(*blobs(seed=1))).findings]


class TestWhole:
    def test_a_healthy_model_gets_no_complaint(self, balancer):
        diagnosis = diagnose(balancer, batches(*blobs(seed=1)))
        assert diagnosis.findings == ()
        assert str(diagnosis).endswith("no problem found in these measurements")
        assert "600 samples, accuracy" in str(diagnosis)
        assert "nearest to a sample of their class: 8 of 8 (at most 2 of 2 in a class)" in str(
            diagnosis
        )

    def test_nor_does_one_with_branches_switched_off(self):
        for options in ({"num_anchors": 0, "attention": "tokens"}, {"attention": "off"}):
            balancer = ReliabilityBalancer(16, CLASSES, **options)
            fit_head(balancer, *blobs(), **FITTING)
            diagnosis = diagnose(balancer, batches(*blobs(seed=1)))
            assert diagnosis.findings == ()

    def test_every_sickness_comes_with_advice(self, balancer):
        nn.init.constant_(balancer.anchors, 1.0)
        diagnosis = diagnose(balancer, batches(*blobs(seed=1)))
        for found in diagnosis.findings:
            assert f"- {found.what}\n  {found.advice}" in str(diagnosis)

    def with_anchors(self, balancer, more):
        """The balancer with four more anchors in each class."""
        many = ReliabilityBalancer(16, CLASSES, num_anchors=6, attention="tokens")
        anchors = torch.cat([balancer.anchors.detach(), more], 1)
        many.load_state_dict(balancer.state_dict() | {"anchors": anchors})
        return many

    def test_anchors_that_are_far_from_all_samples_do_no_harm(self, balancer):
        far = -balancer.anchors.detach().mean(1, keepdim=True) + torch.randn(CLASSES, 4, 16)
        diagnosis = diagnose(self.with_anchors(balancer, far), batches(*blobs(seed=1)))
        assert "class: 8 of 24 (at most 2 of 6 in a class)\nno problem" in str(diagnosis)
        assert diagnosis.without_unused.changed == 0
        assert diagnosis.findings == ()

    def test_anchors_among_the_samples_of_another_class_mislead(self, balancer):
        own = balancer.anchors.detach()
        other = own.roll(1, 0).repeat(1, 2, 1) + 0.1 * torch.randn(CLASSES, 4, 16)
        many = self.with_anchors(balancer, other)
        diagnosis = diagnose(many, batches(*blobs(seed=1)))
        (what,) = [found.what for found in diagnosis.findings if "mislead" in found.what]
        points, labels = blobs(seed=1)
        full = many(points).anchor.argmax(-1)
        pruned = balancer(points).anchor.argmax(-1)
        gain = int((pruned == labels).sum()) - int((full == labels).sum())
        assert what == (
            "16 of 24 anchors mislead: never the nearest of their class, but without them the "
            f"anchor branch would be right for {gain} more of 600 samples"
        )

    def test_anchors_that_never_say_their_class_are_useless(self, balancer):
        with torch.no_grad():
            balancer.anchors[2] = -balancer.anchors[2]
        assert (
            "the anchors of classes 2 are useless: the anchor branch is right for less than 10 % "
            "of their samples, another branch for more than 50 %"
        ) in whats(balancer)

    def test_the_recommended_training_is_healthy(self):
        """RobustLoss on a network, as in the README: one anchor of a class serves."""
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(12, 16, generator=generator)
        truth = torch.randint(12, (2400,), generator=generator)
        points = means[truth] + 0.7 * torch.randn(2400, 16, generator=generator)
        labels = symmetric_noise(truth, 0.3, 12, seed=0)[:1600]
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 12))
        model = wrap(network, num_classes=12)
        criterion = RobustLoss(model, labels, epochs=8)
        chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(chosen, lr=4e-3)
        for _ in range(8):
            for index in torch.randperm(1600).split(64):
                loss = criterion(model(points[index]), labels[index], index)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        held_out = batches(points[1600:], truth[1600:])
        diagnosis = diagnose(model, held_out)
        assert diagnosis.accuracy > 0.85
        assert int((diagnosis.anchor_use > 0).sum()) < 48, "most anchors are never the nearest"
        assert diagnosis.without_unused.changed < 0.02 * 800, "and change next to nothing"
        messages = [found.what for found in diagnosis.findings]
        expected = ("underconfident", "too rarely")
        assert [what for what in messages if not any(each in what for each in expected)] == []

    def test_collapsed_anchors(self, balancer):
        with torch.no_grad():
            balancer.anchors[0] = balancer.anchors[0, 0] + 1e-4
        assert "2 of 8 anchors have collapsed onto another one" in whats(balancer)

    @pytest.mark.parametrize("branch", ["primary", "attentive"])
    def test_a_uniform_branch(self, balancer, branch):
        layer = balancer.head if branch == "primary" else balancer.attention.output
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        assert f"the {branch} branch is uniform: it has no effect" in whats(balancer)

    def test_a_uniform_anchor_branch(self, balancer):
        balancer.delta = 1e3
        assert "the anchor branch is uniform: it has no effect" in whats(balancer)

    @pytest.mark.parametrize("branch", ["primary", "attentive"])
    def test_a_constant_branch(self, balancer, branch):
        layer = balancer.head if branch == "primary" else balancer.attention.output
        nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([3.0, 0.0, 0.0, 0.0]))
        messages = f"the {branch} branch is constant: it predicts the same for every sample"
        assert messages in whats(balancer)

    def test_a_lagging_branch(self, balancer):
        nn.init.normal_(balancer.attention.output.weight)
        assert any(
            what.startswith("the attentive branch lags: accuracy") for what in whats(balancer)
        )

    def test_harm(self, balancer):
        with torch.no_grad():
            balancer.anchors.copy_(balancer.anchors.roll(1, 0))
            layer = balancer.attention.output
            layer.weight.copy_(layer.weight.roll(1, 0) * 5)
            layer.bias.copy_(layer.bias.roll(1, 0))
        assert any(what.startswith("the correction harms: it made") for what in whats(balancer))

    @pytest.mark.parametrize(("factor", "side"), [(0.1, "under"), (1.0, "over")])
    def test_untrue_confidence(self, factor, side):
        labels = torch.arange(400) % CLASSES
        wrong = torch.arange(400) < (0 if side == "under" else 100)
        points = 8.0 * factor * F.one_hot((labels + wrong) % CLASSES, CLASSES)
        messages = whats(copying(), batches(points, labels))
        assert any(
            what.startswith(f"the predictions are {side}confident: mean top-class probability")
            for what in messages
        )
        # Confident errors may also be wrong labels.
        assert any("labels contradict" in what for what in messages) == (side == "over")

    def test_the_calibration_that_it_recommends_is_that_of_the_documentation(self):
        advice = rules.miscalibration(0.9, 0.5).advice
        assert "`calibrate(model, held_out)`" in advice
        page = (Path(__file__).parents[2] / "docs/your_data.md").read_text(encoding="utf-8")
        section = page.split("## Calibration, prediction sets and abstention")[1].split("\n## ")[0]
        first = section.split("```python\n")[1].split("```")[0]
        assert "from reliability_balance import calibrate" in first
        assert "noise=criterion" in section

    def test_a_class_that_is_never_predicted(self):
        labels = torch.arange(400) % CLASSES
        points = 8.0 * F.one_hot(labels.where(labels != 2, 1), CLASSES)
        messages = [
            what for what in whats(copying(), batches(points, labels)) if "frequencies of" in what
        ]
        assert messages == [
            "class frequencies of predictions and labels differ: "
            "2 (0.0 % predicted, 25.0 % labelled)"
        ]

    def test_classes_are_named(self):
        labels = torch.arange(400) % CLASSES
        points = 8.0 * F.one_hot(labels.where(labels != 2, 1), CLASSES)
        data = batches(points, labels)
        named = diagnose(copying(), data, class_names=["a", "b", "fear", "d"])
        shares = "labels differ: fear (0.0 % predicted, 25.0 % labelled)"
        assert any(shares in found.what for found in named.findings)
        odd = diagnose(copying(), data, class_names=["a", "b", "fe\nar", "d"])
        assert str(odd) == str(named).replace("fear", "fe\\nar")
        with pytest.raises(ValueError, match="`class_names` must hold 4 names; got 3"):
            diagnose(copying(), data, class_names=["a", "b", "c"])

    def test_what_is_done_is_not_advised(self):
        """A model with a prior of uneven classes was trained with all weighted alike."""
        labels = torch.arange(400) % CLASSES
        data = batches(8.0 * F.one_hot(labels.where(labels != 2, 1), CLASSES), labels)
        for prior in (None, [0.4, 0.2, 0.2, 0.2]):
            model = copying()
            model.recipe = "paper"
            if prior is not None:
                model.class_prior.copy_(torch.tensor(prior))
            (found,) = [
                each for each in diagnose(model, data).findings if "frequencies of" in each.what
            ]
            assert ("DataRefinementSampler" in found.advice) == (prior is None)
            assert found.advice.startswith("if the training did not") == (prior is None)
            assert ("alike already" in found.advice) == (prior is not None)

    def test_advice_on_a_weight_holds_from_any_weight(self):
        found = rules.idle_branch("attentive", torch.full((8, CLASSES), 1 / CLASSES))
        assert "raise `branch_weight`" in found.advice
        assert "> 0" not in found.advice

    @pytest.mark.parametrize("even", [False, True])
    def test_answers_for_even_classes_are_judged_as_such(self, even):
        """On data of which one class is 1 %: those answers say it more often, as they should."""
        generator = torch.Generator().manual_seed(0)
        shares = torch.tensor([0.96, 0.03, 0.01])
        labels = torch.multinomial(shares, 7000, True, generator=generator)
        points = 1.8 * F.one_hot(labels, 8) + 0.8 * torch.randn(7000, 8, generator=generator)
        torch.manual_seed(0)
        changes = {"refurbishes_labels": False, "mixing": None, "logit_adjustment": even}
        recipe = replace(get_recipe("robust"), **changes)
        model = ReliabilityBalancer(8, 3, num_anchors=2, recipe=recipe)
        criterion = RobustLoss(model, labels[:4000], epochs=8)
        fit_head(
            model, points[:4000], labels[:4000], criterion=criterion, epochs=8, learning_rate=1e-2
        )
        predicted = model(points[4000:]).corrected.argmax(-1)
        assert (int((predicted == 2).sum()) > 5 * int((labels[4000:] == 2).sum())) == even
        # One threshold does not cover the rare classes.
        messages = whats(model, batches(points[4000:], labels[4000:]))
        assert all(what.endswith("too rarely") for what in messages)

    def test_a_rare_class_that_sets_cover_too_rarely(self):
        """One threshold for all: 80 of a class of 100 that looks like another one are missed."""
        labels = torch.tensor([0] * 2000 + [1] * 2000 + [2] * 100)
        points = 8.0 * F.one_hot(labels, CLASSES)
        points[-80:] = 8.0 * F.one_hot(torch.tensor(1), CLASSES)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        diagnosis = diagnose(copying(), batches(points[order], labels[order]))
        (found,) = [each for each in diagnosis.findings if "too rarely" in each.what]
        assert "cover classes 2 (20 % of 100) too rarely" in found.what
        assert "ClassPredictionSets" in found.advice
        assert diagnosis.counts.tolist() == [2000, 2000, 100, 0]
        assert "coverage of 90 % prediction sets, by class: 20 to 100 %" in str(diagnosis)

    def test_noisy_labels_are_told(self, balancer):
        points, labels = blobs(2000, seed=1)
        noisy = symmetric_noise(labels, 0.1, CLASSES, seed=0)
        diagnosis = diagnose(balancer, batches(points, noisy))
        assert float(diagnosis.noise.low) < 0.1 < float(diagnosis.noise.high)
        assert any("labels contradict" in found.what for found in diagnosis.findings)
        assert f"wrong labels: {diagnosis.noise}" in str(diagnosis)

    def test_a_model_at_chance_says_nothing_about_labels(self):
        """Its confident errors say that the model is wrong, not the labels."""
        generator = torch.Generator().manual_seed(0)
        labels, guessed = torch.randint(CLASSES, (2, 400), generator=generator)
        diagnosis = diagnose(copying(), batches(4.0 * F.one_hot(guessed, CLASSES), labels))
        assert any("overconfident" in found.what for found in diagnosis.findings)
        assert not any("labels contradict" in found.what for found in diagnosis.findings)
        assert diagnosis.noise is None
        assert "wrong labels" not in str(diagnosis)

    def test_the_noise_of_a_criterion_is_that_of_its_labels(self):
        points, labels = blobs(2000)
        noisy = symmetric_noise(labels, 0.3, CLASSES, seed=0)
        torch.manual_seed(0)
        balancer = ReliabilityBalancer(16, CLASSES, num_anchors=2)
        criterion = RobustLoss(balancer, noisy, epochs=8)
        fit_head(balancer, points, noisy, criterion=criterion, epochs=8, learning_rate=1e-2)
        diagnosis = diagnose(balancer, batches(*blobs(seed=1)), criterion=criterion)
        assert diagnosis.noise == criterion.noise_rate()
        assert float(diagnosis.noise.low) < 0.3 < float(diagnosis.noise.high)
        assert any("labels contradict" in found.what for found in diagnosis.findings)

    def test_inputs_of_another_kind_are_told(self, balancer):
        points, labels = blobs()
        familiarity = Familiarity(16, num_references=100)
        with torch.no_grad():
            familiarity.fit(balancer.eval()(points), held_out=balancer(blobs(seed=2)[0]))
        known = diagnose(balancer, batches(*blobs(seed=1)), familiarity=familiarity)
        assert known.unfamiliar < 60
        assert known.findings == ()
        shifted = diagnose(balancer, batches(points + 20.0, labels), familiarity=familiarity)
        assert shifted.unfamiliar == 600
        assert any("600 of 600 inputs are unfamiliar" in each.what for each in shifted.findings)

    def test_weights_that_are_no_numbers(self, balancer):
        with torch.no_grad():
            balancer.head.weight[0, 0] = torch.nan
        diagnosis = diagnose(balancer, batches(*blobs(seed=1)))
        assert str(diagnosis).startswith("- NaN or infinite weights: head.weight\n  go back")
        assert diagnosis.samples == 0

    def test_a_branch_that_overflows(self, balancer):
        balancer.head = nn.Sequential(balancer.head, nn.Softmax(-1), nn.Threshold(2.0, torch.inf))
        assert "the primary branch is NaN for 600 of 600 samples" in whats(balancer)


class TestCalling:
    def test_wrapped_models_of_any_inputs(self):
        class Sum(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

            def forward(self, left, right):
                return self.last(self.layer(left + right))

        model = wrap(Sum(), num_anchors=0)
        model.train()
        parts, labels = torch.randn(2, 20, 3), torch.arange(20) % 2
        one = diagnose(model, [((parts[0], parts[1]), labels)])
        other = diagnose(model, [({"left": parts[0], "right": parts[1]}, labels)])
        assert str(one) == str(other)
        assert model.training

    def test_what_else_a_batch_holds_is_left_unread(self, balancer):
        points, labels = blobs(seed=1)
        plain = str(diagnose(balancer, [(points, labels)]))
        index = torch.arange(len(labels))
        named = {"embedding": points, "labels": labels}
        more = [
            (points, labels, index),
            [points, labels, index, ["a.png"] * len(labels)],
            ({"embedding": points}, labels, index),
            named,
            {**named, "index": index},
        ]
        for batch in more:
            assert str(diagnose(balancer, [batch])) == plain

    @pytest.mark.parametrize(
        ("batch", "got"),
        [
            (torch.randn(2, 16), "Tensor"),
            ((torch.randn(2, 16),), "tuple of 1"),
            ({"embedding": 1, "target": 2}, "dict of 'embedding', 'target'"),
            ({}, "dict of nothing"),
            ("ab", "str"),
        ],
    )
    def test_batches_of_another_form(self, balancer, batch, got):
        message = rf"`loader` must give batches \(inputs, labels\), .*'labels'; got {got}$"
        with pytest.raises(TypeError, match=message):
            diagnose(balancer, [batch])

    def test_batches_whose_lengths_only_fit_together(self, balancer):
        points, labels = blobs(seed=1)
        shifted = [(points[:3], labels[:4]), (points[3:8], labels[4:8])]
        with pytest.raises(ValueError, match=r"`labels` of dtype int64 must have shape \(3,\)"):
            diagnose(balancer, shifted)

    def test_of_two_balancers_none_is_guessed(self, balancer):
        model = copy.deepcopy(balancer)
        model.other = ReliabilityBalancer(16, CLASSES)
        for call in (diagnose, calibrate):
            with pytest.raises(ValueError, match="must hold one ReliabilityBalancer; got 2 in a"):
                call(model, batches(*blobs(seed=1)))

    def test_errors(self, balancer):
        with pytest.raises(ValueError, match="`loader` must give at least 1 batch; got 0"):
            diagnose(balancer, [])
        with pytest.raises(TypeError, match="`model` must give a BalancerOutput; got Tensor"):
            diagnose(nn.Linear(16, 4), batches(*blobs()))
        with pytest.raises(TypeError, match="`labels` must be an int64 tensor"):
            diagnose(balancer, [(torch.randn(4, 16), torch.rand(4, CLASSES))])
        with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 4\)"):
            diagnose(balancer, [(torch.randn(4, 16), torch.full((4,), 4))])


class TestSymptoms:
    def test_anchor_use_by_a_loop(self):
        distances, labels = torch.rand(50, 3, 4), torch.randint(2, (50,))
        expected = torch.zeros(3, 4)
        for row, label in zip(distances, labels.tolist(), strict=True):
            expected[label, row[label].argmin()] += 1
        expected[:2] /= expected[:2].sum(1, keepdim=True)
        torch.testing.assert_close(anchor_use(distances, labels), expected)

    def test_anchor_spacing_by_a_loop(self):
        anchors = torch.randn(3, 2, 5)
        points = anchors.flatten(0, 1)
        spread = sum(float((p - points.mean(0)).square().sum()) for p in points) / 6
        for index, point in enumerate(points):
            nearest = min(float((point - p).norm()) for i, p in enumerate(points) if i != index)
            found = float(anchor_spacing(anchors).flatten()[index])
            assert found == pytest.approx(nearest / spread**0.5, rel=1e-5)

    def test_anchor_spacing_does_not_depend_on_the_unit(self):
        anchors = torch.randn(3, 2, 5)
        torch.testing.assert_close(anchor_spacing(anchors * 1e3), anchor_spacing(anchors))
        assert float(anchor_spacing(torch.ones(2, 2, 3)).max()) == 0.0

    @pytest.mark.parametrize("at_once", [1, 100, 250, 2**22])
    def test_anchor_spacing_in_blocks(self, monkeypatch, at_once):
        anchors = torch.randn(10, 4, 50)
        expected = anchor_spacing(anchors)
        monkeypatch.setattr(symptoms, "DISTANCES_AT_ONCE", at_once)
        with Largest() as largest:
            assert torch.equal(anchor_spacing(anchors), expected)
        assert largest.numel == 40 * 50, "no more numbers than the anchors have"

    def test_anchors_that_coincide_far_from_zero(self):
        anchors = 1e6 + torch.randn(20, 2, 5)
        anchors[3, 0] = anchors[17, 1]
        spacing = anchor_spacing(anchors)
        assert (spacing == 0).nonzero().tolist() == [[3, 0], [17, 1]]

    def test_changes_and_agreement_counted_by_hand(self):
        balancer = ReliabilityBalancer(4, 2, num_anchors=1, attention="off").eval()
        output = balancer(torch.randn(4, 4))
        first, second = torch.tensor([0.9, 0.1]), torch.tensor([0.1, 0.9])
        output = output._replace(
            logits=torch.stack([first, first, second, second]).log(),
            log_probs=torch.stack([first, second, first, second]).log(),
            anchor_log_probs=torch.stack([first, second, first, first]).log(),
        )
        assert count_changes(output, torch.tensor([0, 1, 1, 0])) == Changes(2, 1, 1, 0)
        assert branch_agreement(output) == {"primary and anchor": 0.25}

    def test_class_shares(self):
        assert class_shares(torch.tensor([0, 2, 2, 2]), 4).tolist() == [0.25, 0.0, 0.75, 0.0]

    def test_the_term_that_went_nan(self):
        balancer, criterion = ReliabilityBalancer(8, 3), ReliabilityLoss()
        output, labels = balancer(torch.randn(4, 8)), torch.arange(4) % 3
        assert non_finite_terms(criterion(output, labels)) == ()
        broken = output._replace(distances=output.distances * torch.inf)
        assert non_finite_terms(criterion(broken, labels)) == ("center",)
        broken = output._replace(logits=output.logits * torch.nan)
        assert non_finite_terms(criterion(broken, labels)) == ("branches",)
        one, inf = torch.tensor(1.0), torch.tensor(torch.inf)
        assert non_finite_terms(LossTerms(inf, one, one, one, one)) == ("total",)

    def test_infinite_buffers_may_be_meant(self):
        sets = PredictionSets()
        sets.threshold.fill_(torch.inf)
        assert non_finite_parameters(sets) == ()
