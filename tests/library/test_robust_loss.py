"""The robust loss: the recipe put together by hand, its state, and when labels stand."""

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from reliability_balance import ReliabilityBalancer, ReliabilityLoss, RobustLoss, numerics, wrap
from reliability_balance.core import (
    LossTerms,
    Recipe,
    get_recipe,
    log_frequencies,
    with_class_prior,
)
from reliability_balance.data import symmetric_noise
from reliability_balance.labels import RefurbishedTargets, mix, robust_loss
from reliability_balance.labels.mixing import draw_partners, mix_with

NUM_SAMPLES, NUM_CLASSES, WIDTH, EPOCHS = 120, 3, 8, 9
ROBUST = get_recipe("robust")
SHORT = Recipe(warmup=3)  # which takes nine epochs for a long training
TRUE = (torch.arange(NUM_SAMPLES) % 6 - 3).clamp_min(0)  # one class as frequent as four of another
LABELS = symmetric_noise(TRUE, 0.2, NUM_CLASSES, seed=0)
INPUTS = torch.randn(NUM_SAMPLES, WIDTH, generator=torch.Generator().manual_seed(0))
INPUTS = INPUTS + 4.0 * nn.functional.one_hot(TRUE, WIDTH)


def make_model(**options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, NUM_CLASSES))
    return wrap(network, NUM_CLASSES, num_anchors=2, **options)


def make_optimizer(model):
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(chosen, lr=0.02)


def batches(epochs, size=30, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(NUM_SAMPLES, generator=generator).split(size)


def train(model, loss_of, rows, optimizer=None):
    """Losses of all steps; partners for mixing are drawn alike each time."""
    optimizer = make_optimizer(model) if optimizer is None else optimizer
    torch.manual_seed(7)
    losses = []
    for index in rows:
        loss = loss_of(model(INPUTS[index]), LABELS[index], index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def trained(epochs=EPOCHS, labels=LABELS, **options):
    model = make_model()
    criterion = RobustLoss(model, labels, epochs=EPOCHS, **{"recipe": SHORT, **options})
    train(model, criterion, batches(epochs))
    return model, criterion


def same(first, second):
    """Whether two states hold the same, to the bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def given_logits(num_classes=NUM_CLASSES):
    """A balancer that says what it is given."""
    return ReliabilityBalancer(2, num_classes, num_anchors=0, head=None)


def by_hand(model):
    """The recipe with nothing but its parts."""
    warmup = 3
    targets = RefurbishedTargets(NUM_SAMPLES, NUM_CLASSES, warmup=warmup, held_for=warmup)
    prior = LABELS.bincount(minlength=NUM_CLASSES) + 1.0
    prior = prior / prior.sum()
    criterion, seen = ReliabilityLoss(), 0

    def loss_of(output, labels, index):
        nonlocal seen
        log_probs = output.log_probs.detach() + log_frequencies(prior)
        soft = targets(index, labels, numerics.softmax(log_probs))
        seen += len(index)
        if seen >= 0.7 * warmup * NUM_SAMPLES:
            output, soft = mix(model.balancer, output, soft, concentration=0.3)
        return criterion(output, soft, class_prior=prior).total

    return loss_of, targets


class TestRecipe:
    def test_it_is_targets_mixing_prior_and_loss_to_the_bit(self, monkeypatch):
        monkeypatch.setattr(robust_loss, "ignorance", lambda *_, **__: "")
        model, other = make_model(), make_model()
        criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=SHORT)
        loss_of, targets = by_hand(other)
        losses = train(model, criterion, batches(EPOCHS))
        assert losses == train(other, loss_of, batches(EPOCHS))
        found, expected = criterion.targets.state_dict(), targets.state_dict()
        for name in ("given", "remembers"):  # known beforehand, and set by the schedule
            found.pop(name), expected.pop(name)
        assert same(found, expected)
        assert torch.equal(criterion.noise_matrix, targets.noise_matrix)
        state, other_state = model.state_dict(), other.state_dict()
        torch.testing.assert_close(
            state.pop("balancer.class_prior"), (LABELS.bincount() + 1.0) / (NUM_SAMPLES + 3)
        )
        other_state.pop("balancer.class_prior")
        assert same(state, other_state)

    def test_the_paper_is_its_loss_on_the_labels_as_they_are(self):
        model = make_model(recipe="paper", head="linear")
        criterion, plain = RobustLoss(model, LABELS, epochs=5), ReliabilityLoss(recipe="paper")
        for index in batches(2):
            output = model(INPUTS[index])
            expected = plain(output, LABELS[index]).total
            assert torch.equal(criterion(output, LABELS[index], index), expected)
            assert torch.equal(criterion(output, LABELS[index]), expected)
        assert criterion.class_prior.tolist() == pytest.approx([1 / 3] * 3)
        assert not bool(criterion.targets.updates.any())

    def test_a_recipe_of_ones_own_wins_over_the_models(self):
        model = make_model(recipe="paper", head="linear")
        assert RobustLoss(model, LABELS, epochs=5).recipe == get_recipe("paper")
        paper = get_recipe("paper")
        own = replace(paper, logit_adjustment=True, branch_weight=0.5, temperature=0.7)
        criterion = RobustLoss(model, LABELS, epochs=5, recipe=own)
        assert criterion.recipe is own
        assert criterion.targets.temperature == 0.7
        output = model(INPUTS[:8])
        expected = ReliabilityLoss(recipe="paper", branch_weight=0.5)(
            output, LABELS[:8], class_prior=criterion.class_prior
        )
        criterion.eval()
        assert torch.equal(criterion(output, LABELS[:8]), expected.total)

    def test_a_recipe_for_another_balancer_is_rejected(self):
        own = replace(ROBUST, delta=0.5, num_anchors=4)
        message = r"got num_anchors=4 for 2, delta=0\.5 for 0\.1: pass the recipe to `wrap`"
        with pytest.raises(ValueError, match=message):
            RobustLoss(make_model(), LABELS, epochs=5, recipe=own)
        with pytest.raises(ValueError, match=r"`recipe` must have .* head='mlp' for 'linear'"):
            RobustLoss(make_model(), LABELS, epochs=5, recipe="paper")

    def test_arguments_of_wrap_do_not_contradict_a_recipe(self):
        own = replace(ROBUST, delta=0.5, attention="single")
        for model in (
            make_model(recipe=own),
            make_model(recipe=own, delta=0.7),
            make_model(delta=0.5, attention="single", head="mlp"),
            make_model(delta=0.5, attention="single", keep_head=True),
        ):
            assert RobustLoss(model, LABELS, epochs=5, recipe=own).recipe is own

    @pytest.mark.parametrize(
        ("epochs", "held_for"), [(0.5, 0), (1, 0), (3, 2), (8, 4), (19, 10), (200, 10)]
    )
    def test_labels_are_given_back_after_half_of_the_epochs_or_ten(self, epochs, held_for):
        targets = RobustLoss(make_model(), LABELS, epochs=epochs).targets
        assert (targets.warmup, targets.held_for) == (10, held_for)

    def test_the_labels_stand_in_a_short_training_that_learns_nothing_by_heart(self):
        model, other = make_model(), make_model()
        criterion, plain = RobustLoss(model, LABELS, epochs=4), ReliabilityLoss()
        held = criterion.targets.memorization.control
        train(model, criterion, batches(2))  # half of the epochs
        other.load_state_dict(model.state_dict())
        assert bool(held.any())
        for index in batches(2):
            output = other(INPUTS[index])
            expected = plain(output, LABELS[index], class_prior=criterion.class_prior).total
            torch.testing.assert_close(criterion(output, LABELS[index], index), expected)
        assert not criterion.refurbishes

    def test_a_second_view_is_judged_alike_and_must_agree(self):
        model = make_model()
        recipe = Recipe(warmup=1, held_back=0.0, mixing=None, consistency=0.7)
        criterion = RobustLoss(model, LABELS, epochs=9, recipe=recipe)
        prior, plain = criterion.class_prior, ReliabilityLoss()
        index = torch.arange(20)
        views = [model(INPUTS[index] + shift) for shift in (0.0, 0.5)]
        loss = criterion(views[0], LABELS[index], index, second=views[1])
        probs = [(each.log_probs.detach() + log_frequencies(prior)).softmax(-1) for each in views]
        torch.testing.assert_close(criterion.targets.average[index], sum(probs) / 2)
        expected = sum(plain(each, LABELS[index], class_prior=prior).total for each in views) / 2
        first, second = (each.corrected for each in views)
        middle = (first + second) / 2
        apart = (first * (first / middle).log() + second * (second / middle).log()).sum(-1) / 2
        torch.testing.assert_close(loss, expected + 0.7 * apart.mean())
        with pytest.raises(TypeError, match=r"`second` must be a BalancerOutput, .*; got Tensor"):
            criterion(views[0], LABELS[index], index, second=INPUTS)

    def test_classes_alike_or_as_frequent_as_in_the_labels(self):
        model = make_model()
        criterion = RobustLoss(
            model, LABELS, epochs=5, recipe=replace(ROBUST, logit_adjustment=False)
        ).eval()
        assert model.balancer.class_prior.tolist() == pytest.approx([1 / 3] * 3)
        output = model(INPUTS)
        torch.testing.assert_close(
            criterion(output, LABELS), ReliabilityLoss()(output, LABELS).total
        )
        even = RobustLoss(model, LABELS, epochs=5).eval()
        weighed = with_class_prior(output, model.balancer.class_prior)
        torch.testing.assert_close(even(output, LABELS), ReliabilityLoss()(weighed, LABELS).total)

    def test_a_class_without_labels_keeps_a_frequency(self):
        model = make_model()
        criterion = RobustLoss(model, torch.zeros(7, dtype=torch.int64), epochs=2)
        torch.testing.assert_close(criterion.class_prior, torch.tensor([0.8, 0.1, 0.1]))
        assert bool(criterion(model(INPUTS[:4]), torch.zeros(4).long(), torch.arange(4)).isfinite())


class TestFindings:
    def test_wrong_labels_are_found(self):
        _, criterion = trained()
        wrong = set((LABELS != TRUE).nonzero().squeeze(1).tolist())
        assert len(wrong) == 24
        found = set(criterion.doubtful_labels().first(24).sample.tolist())
        assert len(found & wrong) >= 20
        rate = criterion.noise_rate()
        assert rate.low < 0.2 < rate.high
        assert criterion.noise_rate(level=0.5).high < rate.high
        assert float(criterion.noise_matrix.diagonal().mean()) == pytest.approx(0.8, abs=0.1)
        assert criterion.caution == ""
        assert "progress=9.00" in repr(criterion)

    def test_before_the_warm_up_ends_there_is_nothing_to_tell(self):
        _, criterion = trained(1)
        with pytest.raises(ValueError, match="seen samples more than 3 times; got at most 1"):
            criterion.noise_rate()
        with pytest.warns(UserWarning, match="seen at most 1 times"):
            criterion.doubtful_labels()


class TestProgress:
    def test_it_counts_samples_whatever_an_epoch_holds(self):
        criterion, model = RobustLoss(make_model(), LABELS, epochs=5), make_model()
        for step, index in enumerate(batches(1, size=24)):
            assert criterion.progress == pytest.approx(0.2 * step)
            criterion(model(INPUTS[index]), LABELS[index], index)
        assert criterion.progress == 1.0
        twice = torch.tensor([3, 3, 3])
        criterion(model(INPUTS[twice]), LABELS[twice], twice)
        assert criterion.progress == 1.0 + 3 / NUM_SAMPLES

    def test_mixing_begins_at_its_share_of_the_warm_up(self, monkeypatch):
        mixed, model = [], make_model()
        criterion = RobustLoss(model, LABELS, epochs=6, recipe=Recipe(warmup=2))

        def spy(*arguments):
            mixed.append(criterion.progress)
            return draw_partners(*arguments)

        monkeypatch.setattr(robust_loss, "draw_partners", spy)
        train(model, criterion, batches(2, size=12))
        assert mixed == pytest.approx([1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0])

    def test_judging_once_more_in_a_step_changes_nothing(self):
        model, criterion = trained(4)
        index = torch.arange(20)
        output = model(INPUTS[index])
        criterion(output, LABELS[index], index)
        before = copy.deepcopy(criterion.state_dict())
        for _ in range(3):
            loss = criterion(output.__class__(*output), LABELS[index], index, update=False)
            assert bool(loss.isfinite())
        assert same(criterion.state_dict(), before)
        calm = replace(SHORT, mixing=None)
        model, plain = trained(4, recipe=calm)
        output = model(INPUTS[index])
        loss = plain(output, LABELS[index], index, update=False)
        assert torch.equal(plain(output, LABELS[index], index, update=False), loss)

    def test_in_eval_mode_it_is_the_loss_of_the_labels_and_needs_no_index(self):
        model, criterion = trained(5)
        before = copy.deepcopy(criterion.state_dict())
        output = model.eval()(INPUTS)
        expected = ReliabilityLoss()(output, TRUE, class_prior=criterion.class_prior).total
        assert torch.equal(criterion.eval()(output, TRUE), expected)
        assert same(criterion.state_dict(), before)

    def test_gradients_may_be_accumulated(self):
        gradients, states = [], []
        for size in (40, 10):
            model = make_model()
            criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=SHORT)
            for index in torch.arange(40).split(size):
                loss = criterion(model(INPUTS[index]), LABELS[index], index)
                (loss * len(index) / 40).backward()
            gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
            states.append(criterion.state_dict()["_extra_state"])
        torch.testing.assert_close(gradients[1], gradients[0])
        assert states[0]["samples_taken"] == states[1]["samples_taken"] == 40
        for name in ("averages.values", "updates", "given"):
            torch.testing.assert_close(states[1]["targets"][name], states[0]["targets"][name])


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"index": None}, ValueError, r"`index` must be given in training: .*criterion\.eval"),
            ({"index": torch.arange(8)}, ValueError, "`labels` must be those .* other labels for"),
            ({"index": torch.arange(8) + 200}, ValueError, r"`index` must lie in \[0, 120\)"),
            ({"index": torch.rand(8)}, TypeError, "`index` must be an int64 tensor"),
            ({"index": LABELS[-8:].clone()}, ValueError, "`index` must be each sample's place"),
            ({"labels": (LABELS[-8:] + 1) % 3}, ValueError, "other labels for 8 of 8 samples"),
            ({"labels": LABELS[:7]}, ValueError, r"`labels` of dtype int64 must have shape \(8,\)"),
            ({"output": INPUTS[:8]}, TypeError, "`output` must be a BalancerOutput"),
        ],
    )
    def test_a_wrong_call_is_refused_at_once_and_leaves_all_as_it_was(self, change, error, message):
        model = make_model()
        criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=SHORT)
        before = copy.deepcopy(criterion.state_dict())
        index = torch.arange(NUM_SAMPLES)[-8:]
        call = {"output": model(INPUTS[index]), "labels": LABELS[index], "index": index, **change}
        with pytest.raises(error, match=message):
            criterion(**call)
        assert same(criterion.state_dict(), before)

    def test_classes_that_a_kept_head_rules_out_are_refused_in_training(self):
        """A refurbished target gives them a probability, so the loss would be huge or infinite."""
        balancer = ReliabilityBalancer(4, num_classes=3, head=None)
        labels = torch.arange(12) % 2
        criterion = RobustLoss(balancer, labels, epochs=EPOCHS)
        logits = torch.zeros(12, 3).index_fill(1, torch.tensor(2), -torch.inf)
        output = balancer(torch.randn(12, 4), logits)
        with pytest.raises(ValueError, match=r"`output\.logits` must be finite.*12 of 36.*-30"):
            criterion(output, labels, torch.arange(12))
        assert criterion.eval()(output, labels) < 100.0
        assert (
            criterion.train()(
                balancer(output.embedding, logits.clamp_min(-30)), labels, torch.arange(12)
            )
            < 100.0
        )

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"model": nn.Linear(2, 3)}, ValueError, "one ReliabilityBalancer.*got 0 in a Linear"),
            (
                {"model": nn.ModuleList([make_model(), make_model()])},
                ValueError,
                "one ReliabilityBalancer, .*got 2 in a ModuleList",
            ),
            ({"model": make_model}, TypeError, "`model` must be a torch.nn.Module; got function"),
            ({"epochs": 0}, ValueError, "`epochs` must be greater than 0; got 0"),
            ({"epochs": math.nan}, ValueError, "`epochs` must"),
            ({"recipe": "best"}, ValueError, "`recipe` must be one of"),
            ({"labels": LABELS + 1}, ValueError, r"`labels` must lie in \[0, 3\)"),
            ({"labels": LABELS.int()}, TypeError, "`labels` must be int64"),
            ({"labels": LABELS.tolist()}, TypeError, "`labels` must be .*; got list"),
            ({"labels": LABELS[:1]}, ValueError, "of all samples, at least 2; got 1"),
            ({"labels": torch.rand(5, 4)}, ValueError, "`labels`"),
            ({"labels": torch.rand(5, 3)}, ValueError, "`labels` must be non-negative and sum"),
            ({"labels": torch.tensor(1)}, ValueError, "`labels`"),
            ({"dtype": torch.int32}, TypeError, "`dtype` must be floating"),
        ],
    )
    def test_wrong_arguments_are_named_and_the_model_stays(self, arguments, error, message):
        model = arguments.get("model", make_model())
        with pytest.raises(error, match=message):
            RobustLoss(**{"model": model, "labels": LABELS, "epochs": 5, **arguments})
        if arguments.keys() != {"model"}:
            assert model.balancer.class_prior.tolist() == pytest.approx([1 / 3] * 3)


class TestState:
    def test_a_training_goes_on_to_the_bit(self, tmp_path):
        rows = list(batches(EPOCHS))
        for stop in (6, 22):  # in the warm-up and after it
            model = make_model()
            criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=SHORT)
            optimizer = make_optimizer(model)
            train(model, criterion, rows[:stop], optimizer)
            state = {
                "model": model.state_dict(),
                "criterion": criterion.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            torch.save(state, tmp_path / "state.pt")
            expected = train(model, criterion, rows[stop:], optimizer)

            state = torch.load(tmp_path / "state.pt", weights_only=True)
            other = make_model()
            again, other_optimizer = (
                RobustLoss(other, LABELS, epochs=EPOCHS, recipe=SHORT),
                make_optimizer(other),
            )
            other.load_state_dict(state["model"])
            again.load_state_dict(state["criterion"])
            other_optimizer.load_state_dict(state["optimizer"])
            assert again.progress == stop * 30 / NUM_SAMPLES
            assert train(other, again, rows[stop:], other_optimizer) == expected
            assert same(again.state_dict(), criterion.state_dict())
            assert same(other.state_dict(), model.state_dict())

    def test_it_is_one_entry_and_no_buffers(self):
        criterion = RobustLoss(make_model(), LABELS, epochs=EPOCHS, recipe=SHORT)
        assert list(criterion.state_dict()) == ["_extra_state"]
        assert [*criterion.parameters(), *criterion.buffers()] == []
        assert not any(isinstance(part, ReliabilityBalancer) for part in criterion.modules())

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (LABELS.flip(0), r"must be those that the checkpoint .*; got \d+ others of 120"),
            (LABELS[:60], "must be those that the checkpoint was trained on; got 60 for 120"),
        ],
    )
    def test_a_state_of_other_labels_is_refused_and_changes_nothing(self, labels, message):
        _, criterion = trained(4)
        other = RobustLoss(make_model(), labels, epochs=EPOCHS, recipe=SHORT)
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(criterion.state_dict())
        assert same(other.state_dict(), before)

    def test_in_a_module_it_is_saved_and_restored_with_it(self):
        class Training(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = make_model()
                self.criterion = RobustLoss(self.model, LABELS, epochs=EPOCHS, recipe=SHORT)

        first, second = Training(), Training()
        train(first.model, first.criterion, batches(4))
        second.load_state_dict(first.state_dict())
        assert second.criterion.progress == 4.0
        assert same(second.state_dict(), first.state_dict())
        twin = copy.deepcopy(first)
        assert twin.criterion.balancer is twin.model.balancer

    def test_half_the_memory_for_what_is_kept(self):
        _, criterion = trained(5, dtype=torch.float16)
        assert criterion.targets.average.dtype == torch.float16
        assert criterion.noise_rate().value < 0.5


class TestCaution:
    COUNT = 600

    def run(self, knowing):
        """Targets' cautions after epochs in which the model knows the labels, or nothing."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(NUM_CLASSES, (self.COUNT,), generator=generator)
        model = given_logits()
        recipe = replace(SHORT, mixing=None)
        criterion = RobustLoss(model, labels, epochs=9, recipe=recipe)
        cautions, kept = [], []
        for knows in knowing:
            for index in torch.randperm(self.COUNT, generator=generator).split(100):
                logits = 2.0 * torch.randn(len(index), NUM_CLASSES, generator=generator)
                if knows:
                    logits = 4.0 * nn.functional.one_hot(labels[index], NUM_CLASSES).float()
                output = model(torch.zeros(len(index), 2), logits)
                loss = criterion(output, labels[index], index)
            plain = ReliabilityLoss()(output, labels[index], class_prior=criterion.class_prior)
            kept.append(torch.equal(loss, plain.total))
            cautions.append(criterion.caution)
        return cautions, kept, criterion

    def test_labels_stand_where_the_model_tells_nothing_of_them(self):
        with pytest.warns(UserWarning, match="trained on as given: predictions") as caught:
            cautions, kept, criterion = self.run([False] * 7)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert [bool(each) for each in cautions] == [False] * 3 + [True] * 4
        assert "held-back labels" in cautions[-1]
        assert kept[3:] == [True] * 4
        assert "caution=" in repr(criterion)

    def test_doubts_begin_once_the_model_has_learned(self):
        with pytest.warns(UserWarning, match="labels are trained on as given") as caught:
            cautions, kept, _ = self.run([False] * 4 + [True] * 20)
        assert len(caught) == 1
        assert cautions[3] != ""
        assert cautions[-1] == ""
        assert not kept[-1]

    def test_a_model_that_knows_gets_no_caution(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cautions, _, _ = self.run([True] * 6)
        assert cautions == [""] * 6

    def test_it_is_kept_in_the_state(self):
        with pytest.warns(UserWarning, match="trained on as given"):
            cautions, _, criterion = self.run([False] * 4)
        labels = torch.zeros(self.COUNT, dtype=torch.int64)
        labels += criterion.targets.given // 1024
        calm = replace(SHORT, mixing=None)
        other = RobustLoss(given_logits(), labels, epochs=9, recipe=calm)
        other.load_state_dict(criterion.state_dict())
        assert other.caution == cautions[-1]


class TestInputs:
    def test_one_hot_labels_are_index_labels(self):
        soft = nn.functional.one_hot(LABELS, NUM_CLASSES).float()
        losses, matrices = [], []
        for labels in (LABELS, soft):
            model = make_model()
            criterion = RobustLoss(model, labels, epochs=EPOCHS, recipe=SHORT)

            def loss_of(output, _, index, criterion=criterion, labels=labels):
                return criterion(output, labels[index], index)

            losses.append(torch.tensor(train(model, loss_of, batches(EPOCHS))))
            matrices.append(criterion.noise_matrix)
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(matrices[1], matrices[0], rtol=0, atol=1e-2)

    def test_shares_of_votes(self):
        votes = 0.7 * nn.functional.one_hot(LABELS, NUM_CLASSES) + 0.1
        model = make_model()
        criterion = RobustLoss(model, votes, epochs=EPOCHS, recipe=SHORT)
        torch.testing.assert_close(
            criterion.class_prior, (votes.sum(0) + 1.0) / (NUM_SAMPLES + 3.0)
        )
        losses = train(model, lambda o, _, index: criterion(o, votes[index], index), batches(5))
        assert bool(torch.tensor(losses).isfinite().all())
        with pytest.raises(ValueError, match="`labels` must be those"):
            criterion(model(INPUTS[:4]), votes[:4].flip(1), torch.arange(4))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_autocast(self, dtype):
        recipe = replace(SHORT, mixing=None)  # whose partners are drawn in another dtype
        wide, narrow = make_model(), make_model()
        expected, criterion = (
            RobustLoss(each, LABELS, epochs=6, recipe=recipe) for each in (wide, narrow)
        )
        for index in batches(4):
            loss = expected(wide(INPUTS[index]), LABELS[index], index)
            with torch.autocast("cpu", dtype=dtype):
                made = criterion(narrow(INPUTS[index]), LABELS[index], index)
            assert made.dtype == torch.float32
            torch.testing.assert_close(made, loss, rtol=0.02, atol=0.02)
        made.backward()
        gradients = [each.grad for each in narrow.parameters() if each.requires_grad]
        assert all(bool(each.isfinite().all()) for each in gradients)

    def test_mixing_under_autocast(self):
        model = make_model()
        criterion = RobustLoss(model, LABELS, epochs=EPOCHS, recipe=SHORT)

        def loss_of(output, labels, index):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return criterion(model(INPUTS[index]), labels, index)

        losses = train(model, loss_of, batches(4))
        assert bool(torch.tensor(losses).isfinite().all())

    def test_a_compiled_model(self):
        torch.compiler.reset()
        model, other = make_model(), make_model()
        compiled = torch.compile(other, backend="aot_eager")
        expected = train(model, RobustLoss(model, LABELS, epochs=9, recipe=SHORT), batches(4))
        criterion = RobustLoss(compiled, LABELS, epochs=9, recipe=SHORT)
        found = train(compiled, criterion, batches(4))
        assert found == pytest.approx(expected, rel=1e-3)
        assert criterion.balancer is other.balancer

    def test_stored_embeddings_need_no_wrapper(self):
        torch.manual_seed(0)
        balancer = ReliabilityBalancer(WIDTH, NUM_CLASSES)
        criterion = RobustLoss(balancer, LABELS, epochs=EPOCHS, recipe=SHORT)
        train(balancer, criterion, batches(EPOCHS))
        accuracy = (balancer(INPUTS).corrected.argmax(-1) == TRUE).float().mean()
        assert float(accuracy) > 0.85


class Texts(nn.Module):
    """Tokens, a mean over them, and a head."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, NUM_CLASSES)

    def forward(self, tokens):
        return self.head(self.encoder(tokens)).mean(1)


class TestModels:
    def test_tokens_are_mixed_as_tokens(self, monkeypatch):
        torch.manual_seed(0)
        tokens = INPUTS.unsqueeze(1) + 0.1 * torch.randn(NUM_SAMPLES, 5, WIDTH)
        model = wrap(Texts(), NUM_CLASSES, embedding="encoder", example_input=tokens[:2])
        assert model.balancer.attention.mode == "tokens"
        seen = []

        def spy(partners, balancer, output, targets):
            seen.append((output, mix_with(partners, balancer, output, targets)))
            return seen[-1][1]

        monkeypatch.setattr(robust_loss, "mix_with", spy)
        recipe = Recipe(mix_from=0.0)
        criterion = RobustLoss(model, LABELS, epochs=20, recipe=recipe)
        for index in torch.arange(NUM_SAMPLES).split(40):
            output = model(tokens[index])
            loss = criterion(output, LABELS[index], index)
        given, mixed = seen[-1]
        assert given is output
        assert mixed.output.tokens.shape == given.tokens.shape == (40, 5, WIDTH)
        assert not torch.equal(mixed.output.tokens, given.tokens)
        torch.testing.assert_close(mixed.output.embedding, mixed.output.tokens.mean(1))
        loss.backward()
        assert bool((model.model.encoder.weight.grad != 0).any())

    @pytest.mark.parametrize("mixing", [None, 0.3])
    def test_a_kept_heads_logits_get_the_prior_once(self, mixing, monkeypatch):
        """In loops: a head alone has its likelihood twice in the loss, as answer and as branch."""
        model = make_model(keep_head=True, correction_weight=0.0)
        model.balancer.anchors = None
        seen = []

        def spy(partners, balancer, output, targets):
            seen.append((output.logits, mix_with(partners, balancer, output, targets)))
            return seen[-1][1]

        monkeypatch.setattr(robust_loss, "mix_with", spy)
        recipe = Recipe(held_back=0.0, mixing=mixing, mix_from=0.0)
        criterion = RobustLoss(model, LABELS, epochs=20, recipe=recipe)
        index = torch.arange(20)
        plain = model.model(INPUTS[index])
        loss = criterion(model(INPUTS[index]), LABELS[index], index)
        logits, soft = plain, nn.functional.one_hot(LABELS[index], NUM_CLASSES).float()
        if mixing:
            torch.testing.assert_close(seen[0][0], plain)
            logits, soft = seen[0][1].output.logits, seen[0][1].targets
        counts = [int((c == LABELS).sum()) + 1 for c in range(NUM_CLASSES)]
        total = 0.0
        for row, wanted in zip(logits.tolist(), soft.tolist(), strict=True):
            weights = [math.exp(row[c]) * counts[c] for c in range(NUM_CLASSES)]
            for c in range(NUM_CLASSES):
                total -= 2 * wanted[c] * math.log(weights[c] / sum(weights)) / len(index)
        assert loss.item() == pytest.approx(total, rel=1e-5)
        beliefs = criterion.targets.average[index]
        weighed = plain.softmax(-1) * torch.tensor(counts)
        torch.testing.assert_close(beliefs, weighed / weighed.sum(-1, keepdim=True))

    def test_within_other_modules(self):
        model = make_model()
        for shell in (nn.Sequential(model), nn.DataParallel(model)):
            assert RobustLoss(shell, LABELS, epochs=2).balancer is model.balancer


class TestRecipeValues:
    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("temperature", 0.0, "`temperature` must be greater than 0; got 0.0"),
            ("memory", float("nan"), "`memory` must be greater than 0; got nan"),
            ("delta", float("inf"), "`delta` must be finite; got inf"),
            ("center_weight", -0.1, "`center_weight` must be at least 0; got -0.1"),
            ("mix_from", float("nan"), "`mix_from` must be at least 0; got nan"),
            ("held_back", 1.0, r"`held_back` must lie in \[0, 1\); got 1.0"),
            ("held_for", 1.5, "`held_for` must be a share of the epochs, up to 1; got 1.5"),
            ("warmup", -1, "`warmup` must be at least 0; got -1"),
            ("mixing", 0.0, "`mixing` must be greater than 0; got 0.0"),
            ("momentum", 1.0, r"`momentum` must lie in \[0, 1\); got 1.0"),
            ("head", "tall", "`head` must be one of 'mlp', 'linear'; got 'tall'"),
            ("metric", "far", "`metric` must be one of"),
            ("attention", "full", "`attention` must be one of"),
        ],
    )
    def test_values_out_of_range_are_refused_by_name(self, field, value, message):
        with pytest.raises(ValueError, match=message):
            replace(Recipe(), **{field: value})


class TestMixedUp:
    """What belongs together, and what does not."""

    def test_an_output_of_another_model_is_refused(self):
        model, criterion = trained(1)
        network = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, NUM_CLASSES))
        other = wrap(network, num_anchors=2)
        with pytest.raises(ValueError, match="`output` must be of the model that the criterion"):
            criterion(other(INPUTS[:9]), LABELS[:9], torch.arange(9))
        alone = copy.deepcopy(criterion)  # of a copy of the model
        train(model, lambda output, *_: output.log_probs.square().mean(), batches(1))
        with pytest.raises(ValueError, match="copy a model together with its criterion"):
            alone(model(INPUTS[:9]), LABELS[:9], torch.arange(9))

    @pytest.mark.parametrize("recipe", ["robust", "paper"])
    def test_an_output_of_other_classes_is_refused(self, recipe):
        criterion = RobustLoss(make_model(recipe=recipe), LABELS, epochs=9)
        other = ReliabilityBalancer(16, NUM_CLASSES + 2)(torch.randn(4, 16))
        with pytest.raises(ValueError, match="which has 3 classes and an embedding of 16; got 5"):
            criterion(other, LABELS[:4], torch.arange(4))

    @pytest.mark.parametrize("recipe", ["paper", replace(Recipe(), refurbishes_labels=False)])
    def test_an_index_is_held_against_the_labels_where_these_are_not_doubted(self, recipe):
        model = make_model(recipe=recipe)
        criterion = RobustLoss(model, LABELS, epochs=9)
        output = model(INPUTS[:9])
        index = torch.arange(9)
        for labels, places in ((LABELS[:9], index + 10**6), (2 - LABELS[:9], index)):
            with pytest.raises(ValueError, match=r"`(index|labels)` must"):
                criterion(output, labels, places)
        assert criterion.progress == 0.0
        with pytest.raises(ValueError, match="`recipe` must have refurbishes_labels=True"):
            criterion.doubtful_labels()

    def test_other_weights_leave_the_record_of_class_frequencies(self):
        model = make_model()
        before = copy.deepcopy(model.state_dict())
        criterion = RobustLoss(model, LABELS, epochs=9)
        model.load_state_dict(before)  # says that classes are even
        train(model, criterion, batches(1))
        assert torch.equal(model.balancer.class_prior, criterion.class_prior)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"recipe": replace(SHORT, temperature=0.5)},
                "`recipe` must be as .*temperature = 0.5",
            ),
            ({"recipe": replace(SHORT, held_back=0.3)}, "`recipe` must be as .*held_back = 0.3"),
            ({"dtype": torch.float16}, "`dtype` must be as in the checkpoint"),
        ],
    )
    def test_a_state_of_another_plan_is_refused_and_changes_nothing(self, options, message):
        _, criterion = trained(4)
        other = RobustLoss(make_model(), LABELS, **{"epochs": EPOCHS, "recipe": SHORT, **options})
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(criterion.state_dict())
        assert same(other.state_dict(), before)

    def test_a_longer_training_goes_on_by_the_schedule_it_began_with(self):
        _, criterion = trained(4)
        longer = RobustLoss(make_model(), LABELS, epochs=100, recipe=SHORT)
        short = RobustLoss(make_model(), LABELS, epochs=2, recipe=SHORT)
        for other in (longer, short):
            other.load_state_dict(criterion.state_dict())
            assert other.targets.held_for == criterion.targets.held_for == 3
            assert other._mix_from == criterion._mix_from

    def test_soft_labels_between_two_classes_are_not_the_class_between(self):
        soft = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]).repeat(20, 1)
        model = make_model()
        criterion = RobustLoss(model, soft, epochs=9)
        with pytest.raises(ValueError, match="`labels` must be those that the samples"):
            criterion(model(INPUTS[:4]), soft[:4], torch.arange(4) + 1)

    def test_missing_labels_are_refused_with_advice(self):
        labels = LABELS.clone()
        labels[3] = -100
        with pytest.raises(ValueError, match="got 1 below 0 of 120: leave out samples without a"):
            RobustLoss(make_model(), labels, epochs=9)

    def test_random_numbers_of_a_small_seed_do_not_meet_the_control_group(self):
        control = RobustLoss(make_model(), LABELS, epochs=9).targets.memorization.control
        for seed in range(20):
            draw = torch.rand(NUM_SAMPLES, generator=torch.Generator().manual_seed(seed))
            assert not torch.equal(control, draw < 0.1)

    def test_what_is_not_known_yet_is_refused(self):
        _, criterion = trained(1)
        with pytest.raises(ValueError, match="must have seen samples more than 3 times"):
            _ = criterion.noise_matrix

    def test_an_untrained_criterion_says_so_by_its_own_name(self):
        criterion = RobustLoss(make_model(), LABELS, epochs=EPOCHS)
        for ask in (criterion.noise_rate, lambda: criterion.noise_matrix):
            with pytest.raises(ValueError, match=r"`criterion` must have seen .* 0: train first"):
                ask()
        with pytest.raises(ValueError, match="`criterion` must have seen samples; got none"):
            criterion.doubtful_labels()

    def test_rarely_drawn_samples_get_their_labels_back_with_the_others(self, monkeypatch):
        model = make_model()
        criterion = RobustLoss(model, LABELS, epochs=4)  # labels are held back for two
        held = criterion.targets.memorization.control.nonzero().squeeze(1)[:2]
        everyone = torch.arange(NUM_SAMPLES)
        others = everyone[~torch.isin(everyone, held)]
        for _ in range(3):
            criterion(model(INPUTS[others]), LABELS[others], others)
        wanted = []
        terms = LossTerms(*[torch.zeros(())] * 5)
        monkeypatch.setattr(
            ReliabilityLoss,
            "compute",
            lambda _, output, labels, log_prior: wanted.append(labels) or terms,
        )
        criterion(model(INPUTS[held]), LABELS[held], held)
        assert torch.equal(wanted[0], nn.functional.one_hot(LABELS[held], NUM_CLASSES).float())
