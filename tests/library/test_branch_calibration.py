"""A temperature for each branch: unfitted it is the balancer, fitted it is never worse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from reliability_balance import ReliabilityBalancer, ReliabilityLoss, fit_head
from reliability_balance import functional as RF
from reliability_balance.calibration import BranchTemperatures, TemperatureScaling, branches
from reliability_balance.core import join_outputs, on_cpu, with_class_prior


def held_out(count=400, seed=0, **options):
    """Classes that lie apart, but overlap, and a balancer that was trained on others of them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (2 * count,), generator=generator)
    features = torch.randn(2 * count, 16, generator=generator) + 1.5 * F.one_hot(labels, 16)
    torch.manual_seed(seed)
    options = {"attention": "tokens", **options}
    balancer = ReliabilityBalancer(16, 4, num_anchors=2, **options)
    criterion = ReliabilityLoss()
    fit_head(
        balancer, features[:count], labels[:count], criterion=criterion, epochs=3, batch_size=64
    )
    with torch.no_grad():
        return balancer(features[count:]), labels[count:]


OUTPUT, LABELS = held_out()


@pytest.mark.parametrize(
    "options",
    [{"attention": "tokens"}, {"attention": "tokens", "num_anchors": 0}, {}, {"num_anchors": 0}],
)
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_unfitted_it_fuses_as_the_balancer_does(options, weight):
    balancer = ReliabilityBalancer(8, 3, correction_weight=weight, **options).eval()
    output = balancer(torch.randn(6, 8))
    calibrated = BranchTemperatures(correction_weight=weight)(output)
    torch.testing.assert_close(calibrated, output.log_probs, rtol=1e-6, atol=1e-6)


def test_by_the_equation_written_out():
    calibration = BranchTemperatures().fit(OUTPUT, LABELS)
    temperatures = calibration.temperatures.tolist()
    for index in range(5):
        parts = [
            (scores[index].double() / temperature).softmax(-1)
            for scores, temperature in zip(
                (OUTPUT.logits, OUTPUT.anchor_log_probs, OUTPUT.attentive_log_probs),
                temperatures[:3],
                strict=True,
            )
        ]
        fused = RF.fuse(parts[0], RF.fuse(parts[1], parts[2]))
        expected = fused ** (1 / temperatures[3])
        torch.testing.assert_close(
            calibration(OUTPUT)[index].exp().double(),
            expected / expected.sum(),
            rtol=1e-4,
            atol=1e-6,
        )


def test_the_likelihood_is_flat_where_it_ends():
    calibration = BranchTemperatures().fit(OUTPUT, LABELS)
    nll = float(F.nll_loss(calibration(OUTPUT), LABELS))
    found = calibration.temperatures.clone()
    for place in range(4):
        for factor in (0.9, 1.1):
            calibration.temperatures.copy_(found)
            calibration.temperatures[place] *= factor
            if not 0.01 < float(calibration.temperatures[place]) < 100:
                continue  # no fit goes there
            assert nll < float(F.nll_loss(calibration(OUTPUT), LABELS)) + 2e-5


def test_a_branch_that_is_switched_off_keeps_one():
    output, labels = held_out(100, attention="off")
    temperatures = BranchTemperatures().fit(output, labels).temperatures
    assert float(temperatures[2]) == 1.0


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 40),
    scales=st.tuples(*[st.sampled_from([0.05, 1.0, 20.0])] * 3),
)
def test_never_worse_than_one_temperature_nor_than_none(seed, count, scales):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(LABELS), generator=generator)[:count]
    first, second, third = scales
    output = OUTPUT._replace(
        logits=OUTPUT.logits[rows] * first,
        anchor_log_probs=(OUTPUT.anchor_log_probs[rows] * second).log_softmax(-1),
        attentive_log_probs=(OUTPUT.attentive_log_probs[rows] * third).log_softmax(-1),
    )
    labels = LABELS[rows].where(torch.rand(count, generator=generator) > 0.2, 0)
    output = output._replace(log_probs=BranchTemperatures()(output))
    fused = output.log_probs
    single = TemperatureScaling().fit(fused, labels)
    calibrated = BranchTemperatures().fit(output, labels)(output)
    nll = float(F.nll_loss(calibrated, labels))
    assert nll <= float(F.nll_loss(single(fused), labels)) + 1e-5
    assert nll <= float(F.nll_loss(fused, labels)) + 1e-5


@given(seed=st.integers(0, 2**31), count=st.integers(1, 40), weight=st.sampled_from([0.1, 1.0]))
def test_never_worse_than_the_answers_of_a_balancer(seed, count, weight):
    torch.manual_seed(seed)
    with torch.no_grad():
        balancer = ReliabilityBalancer(
            8, 3, num_anchors=2, attention="tokens", correction_weight=weight
        )
        output = balancer.eval()(5 * torch.randn(count, 8))
    labels = output.corrected.argmax(-1).where(torch.rand(count) > 0.4, 0)
    calibrated = BranchTemperatures(correction_weight=weight).fit(output, labels)(output)
    before = float(F.nll_loss(output.log_probs, labels))
    assert float(F.nll_loss(calibrated, labels)) <= before + 1e-5


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_outputs_of_another_correction_weight_are_refused(weight):
    output, labels = held_out(100, correction_weight=weight)
    BranchTemperatures(correction_weight=weight).fit(output, labels)
    calibration = BranchTemperatures()
    with pytest.raises(
        ValueError,
        match=r"`log_probs` that its branches give with correction_weight=1\.0; got prob.* apart",
    ):
        calibration.fit(output, labels)
    assert calibration.temperatures.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_outputs_for_other_class_frequencies_are_refused(dtype):
    uneven = stored_as(dtype, with_class_prior(OUTPUT, torch.tensor([4, 3, 2, 1])))
    with pytest.raises(ValueError, match="calibrate before `with_class_prior`"):
        BranchTemperatures().fit(uneven, LABELS)


def stored_as(dtype, output):
    return output._replace(
        **{
            name: getattr(output, name).to(dtype)
            for name in ("logits", "log_probs", "anchor_log_probs", "attentive_log_probs")
        }
    )


@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_outputs_stored_in_half_precision_are_taken(dtype, scale):
    louder = OUTPUT._replace(logits=OUTPUT.logits * scale)
    louder = louder._replace(log_probs=BranchTemperatures()(louder))
    half = BranchTemperatures().fit(stored_as(dtype, louder), LABELS)(louder)
    full = BranchTemperatures().fit(louder, LABELS)(louder)
    assert float((half.exp() - full.exp()).abs().mean()) < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_outputs_of_a_balancer_in_half_precision_are_taken(dtype):
    balancer = ReliabilityBalancer(8, 3, num_anchors=2, attention="tokens").eval().to(dtype)
    output = balancer(10 * torch.randn(50, 8, dtype=dtype))
    calibrated = BranchTemperatures().fit(output, torch.arange(50) % 3)(output)
    assert bool(torch.isfinite(calibrated).all())


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_answers_that_were_all_right_make_no_certainty(count):
    """By the rule of succession an answer that was right N times is wrong once in N + 2."""

    def agreeing(log_probs):
        return OUTPUT._replace(
            logits=log_probs,
            anchor_log_probs=log_probs,
            attentive_log_probs=log_probs,
            log_probs=log_probs,
        )

    log_probs = torch.tensor([[0.5, 0.3, 0.2], [0.40, 0.39, 0.21]]).log()
    classes = torch.arange(count) % 3
    held = torch.stack([log_probs[0].roll(int(shift)) for shift in classes])
    calibration = BranchTemperatures().fit(agreeing(held), classes)
    calibrated = calibration(agreeing(log_probs)).exp()
    expected = 1 / (count + 2)
    assert 0.05 * expected < float(1 - calibrated[0, 0]) < 5 * expected
    assert float(1 - calibrated[1, 0]) > 0.05 * expected


def test_a_set_with_errors_is_fitted_as_without_the_prior(monkeypatch):
    fitted = BranchTemperatures().fit(OUTPUT, LABELS)(OUTPUT)
    monkeypatch.setattr(branches, "prior_weight", lambda scores, targets: 0.0)
    free = BranchTemperatures().fit(OUTPUT, LABELS)(OUTPUT)
    assert float(F.nll_loss(fitted, LABELS)) == pytest.approx(
        float(F.nll_loss(free, LABELS)), abs=1e-5
    )
    assert float((fitted.exp() - free.exp()).abs().mean()) < 1e-3


def test_an_overconfident_branch_is_put_right():
    loud = OUTPUT._replace(
        anchor_log_probs=(OUTPUT.anchor_log_probs * 30).log_softmax(-1),
    )
    loud = loud._replace(log_probs=BranchTemperatures()(loud))
    single = TemperatureScaling().fit(loud.log_probs, LABELS)(loud.log_probs)
    fitted = BranchTemperatures().fit(loud, LABELS)(loud)
    assert float(F.nll_loss(fitted, LABELS)) < float(F.nll_loss(single, LABELS)) - 0.01


def test_a_second_fit_forgets_the_first():
    fitted = BranchTemperatures().fit(OUTPUT, LABELS.flip(0)).fit(OUTPUT, LABELS)
    fresh = BranchTemperatures().fit(OUTPUT, LABELS)
    assert torch.equal(fitted.temperatures, fresh.temperatures)


def test_soft_labels_count_as_index_labels_do():
    soft = BranchTemperatures().fit(OUTPUT, F.one_hot(LABELS, 4).double())
    torch.testing.assert_close(
        soft(OUTPUT), BranchTemperatures().fit(OUTPUT, LABELS)(OUTPUT), rtol=1e-5, atol=1e-6
    )


def test_joined_batches_are_one():
    parts = [
        OUTPUT._replace(
            **{
                name: value[part]
                for name, value in OUTPUT._asdict().items()
                if name != "anchors" and value is not None
            }
        )
        for part in (slice(0, 150), slice(150, None))
    ]
    for joined, whole in zip(join_outputs(parts), OUTPUT, strict=True):
        assert joined is whole is None or torch.equal(joined, whole)


def test_joined_outputs_have_no_tokens():
    """Of which batches may have different numbers."""
    balancer = ReliabilityBalancer(8, 3, attention="tokens").eval()
    parts = []
    for count in (4, 6):
        mask = torch.ones(2, count, dtype=torch.bool)
        parts.append(balancer(torch.randn(2, count, 8), token_mask=mask))
    joined = join_outputs(parts)
    assert joined.tokens is joined.token_mask is None
    assert torch.equal(joined.log_probs, torch.cat([part.log_probs for part in parts]))
    kept = on_cpu(parts[0])
    assert kept.tokens is kept.token_mask is None
    assert torch.equal(kept.log_probs, parts[0].log_probs)


def test_errors():
    with pytest.raises(TypeError, match=r"`output` must be a BalancerOutput, .*; got Tensor"):
        BranchTemperatures().fit(OUTPUT.logits, LABELS)
    with pytest.raises(
        ValueError, match=r"`logits` must be .* are probabilities: take their logarithm"
    ):
        BranchTemperatures().fit(OUTPUT._replace(logits=OUTPUT.primary), LABELS)
    with pytest.raises(ValueError, match="`correction_weight` must be at least 0; got -1"):
        BranchTemperatures(correction_weight=-1)
    with pytest.raises(ValueError, match=r"`log_probs` of the shape .* \(400, 4\); got \(1, 4\)"):
        BranchTemperatures().fit(OUTPUT._replace(log_probs=OUTPUT.log_probs[:1]), LABELS)
    with pytest.raises(ValueError, match="got probabilities nan apart"):
        BranchTemperatures().fit(OUTPUT._replace(log_probs=OUTPUT.log_probs * torch.nan), LABELS)
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 4\)"):
        BranchTemperatures().fit(OUTPUT, LABELS + 1)
    with pytest.raises(ValueError, match="`outputs` must hold at least 1 output; got 0"):
        join_outputs([])


@pytest.mark.parametrize("seed", [0, 3])
def test_flat_branches_are_not_lost_in_rounding(seed):
    """Three noisy views of the truth: best is the mean of their logits, where all are flat."""
    generator = torch.Generator().manual_seed(seed)
    truth = 2.5 * torch.randn(1000, 10, generator=generator)
    labels = torch.multinomial(truth.softmax(-1), 1, generator=generator).squeeze(1)
    views = [
        (truth + 1.5 * torch.randn(1000, 10, generator=generator)).log_softmax(-1) for _ in range(3)
    ]
    names = ("logits", "anchor_log_probs", "attentive_log_probs")
    output = ReliabilityBalancer(4, 10).eval()(torch.randn(1000, 4))
    output = output._replace(**dict(zip(names, views, strict=True)))
    output = output._replace(log_probs=BranchTemperatures()(output))
    calibration = BranchTemperatures().fit(output, labels)
    nll = float(F.nll_loss(calibration(output), labels))
    wide = output._replace(**{name: getattr(output, name).double() for name in names})
    assert nll == pytest.approx(float(F.nll_loss(calibration(wide), labels)), abs=1e-4)
    assert nll < float(F.nll_loss(output.log_probs, labels)) - 0.03
    assert nll < float(F.nll_loss(TemperatureScaling().fit(views[0], labels)(views[0]), labels))
