"""What only a GPU can show: no waiting, half precision, compiled kernels, and NCCL."""

import contextlib
import copy

import pytest
import torch
from cases import CASES, Case, floating, tensors
from torch import distributed, nn

from reliability_balance import ReliabilityBalancer, ReliabilityLoss, RobustLoss
from reliability_balance import functional as RF
from reliability_balance.backbones import poster_v2_tiny
from reliability_balance.core import Recipe
from reliability_balance.labels import RefurbishedTargets, fit_head, mix

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "_"))
def case(request) -> Case:
    return CASES[request.param]


@contextlib.contextmanager
def no_waiting():
    """Raise where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class RobustStep:
    """A training step of the robust recipe's parts on a linear encoder."""

    def __init__(self, validate_args=False, class_prior=None, **options):
        self.encoder = nn.Linear(6, 8).cuda()
        self.balancer = ReliabilityBalancer(
            8, 3, num_anchors=2, head="linear", validate_args=validate_args, **options
        ).cuda()
        self.class_prior = None if class_prior is None else class_prior.cuda()
        self.criterion = ReliabilityLoss(
            recipe=self.balancer.recipe, validate_args=validate_args
        ).cuda()
        self.targets = RefurbishedTargets(
            40,
            3,
            momentum=None,
            warmup=2,
            held_back=0.1,
            noise_temperature=0.25,
            validate_args=validate_args,
        ).cuda()
        self.parameters = [*self.encoder.parameters(), *self.balancer.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.05, fused=True)

    def loss(self, index, inputs, labels):
        output = self.balancer(self.encoder(inputs))
        soft = self.targets(index, labels, output.corrected)
        mixed = mix(self.balancer, output, soft, concentration=1.0)
        return self.criterion(*mixed, class_prior=self.class_prior).total

    def __call__(self, index, inputs, labels):
        loss = self.loss(index, inputs, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def batch():
    labels = torch.arange(16, device="cuda") % 3
    inputs = torch.randn(16, 6, device="cuda")
    inputs[:, :3] += 3 * nn.functional.one_hot(labels, 3)
    return torch.arange(16, device="cuda"), inputs, labels


@pytest.mark.parametrize(
    "options",
    [{}, {"recipe": "paper"}, {"attention": "tokens"}, {"class_prior": torch.tensor([5, 3, 1])}],
    ids=["robust", "paper", "attention", "prior"],
)
def test_a_step_never_waits_where_values_are_not_checked(options):
    step, given = RobustStep(**options), batch()
    step(*given)  # the first one sets up cuBLAS and the optimizer
    with no_waiting():
        for _ in range(4):
            step(*given)


def test_the_robust_loss_waits_once_an_epoch_where_values_are_not_checked():
    """Where it judges what the model knows."""
    index, inputs, labels = batch()
    balancer = ReliabilityBalancer(6, 3, num_anchors=2, validate_args=False).cuda()
    criterion = RobustLoss(
        balancer, labels, epochs=30, recipe=Recipe(mix_from=0.0), validate_args=False
    )
    criterion(balancer(inputs), labels, index).backward()  # the first one moves the targets
    with no_waiting():
        for _ in range(8):
            criterion(balancer(inputs), labels, index).backward()
    assert criterion.targets.average.is_cuda
    assert criterion.progress == 9.0
    criterion(balancer(inputs), labels, index)
    state = criterion.state_dict()
    other = RobustLoss(balancer, labels, epochs=30)
    other.load_state_dict(state)
    assert torch.equal(other.noise_matrix.cpu(), criterion.noise_matrix.cpu())
    assert bool(other(balancer(inputs), labels, index).isfinite())


def test_the_losses_of_index_labels_never_wait():
    balancer = ReliabilityBalancer(6, 3, num_anchors=2, validate_args=False).cuda()
    criterion = ReliabilityLoss(
        class_weights=torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1, validate_args=False
    ).cuda()
    _, inputs, labels = batch()
    criterion(balancer(inputs), labels).total.backward()
    with no_waiting():
        criterion(balancer(inputs), labels).total.backward()


def test_checks_of_values_do_wait():
    """Otherwise the tests above would show nothing."""
    step, given = RobustStep(validate_args=True), batch()
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting():
        step(*given)


def test_a_step_is_captured_in_a_graph():
    step, given = RobustStep(), batch()
    step.optimizer = torch.optim.AdamW(step.parameters, lr=0.05, capturable=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(*given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    step.optimizer.zero_grad()
    with torch.cuda.graph(graph):
        loss = step(*given)
    before = int(step.targets.updates[0])
    losses = []
    for _ in range(20):
        graph.replay()
        losses.append(float(loss))
    assert int(step.targets.updates[0]) == before + 20
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_gives_finite_values_and_gradients(case, dtype):
    module = case.make().cuda()
    with torch.autocast("cuda", dtype=dtype):
        output = module(*(each.cuda() for each in case.inputs()))
    values = floating(output)
    assert all(bool(torch.isfinite(value).all()) for value in values)
    total = sum(value.float().sum() for value in values if value.requires_grad)
    if isinstance(total, torch.Tensor):
        total.backward()
    for parameter in module.parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize("name", ["robust", "tokens", "robust loss", "paper loss"])
def test_compiled_kernels_give_the_same(name):
    torch.compiler.reset()
    module, inputs = CASES[name].make().eval().cuda(), [x.cuda() for x in CASES[name].inputs()]
    compiled = torch.compile(module, fullgraph=True)
    for actual, expected in zip(tensors(compiled(*inputs)), tensors(module(*inputs)), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_compiled_targets_learn_the_same():
    torch.compiler.reset()
    plain = RefurbishedTargets(40, 3, warmup=2, held_back=0.2, validate_args=False).cuda()
    traced = copy.deepcopy(plain)
    compiled = torch.compile(traced, fullgraph=True)
    index, _, labels = batch()
    for _ in range(5):
        probs = torch.randn(16, 3, device="cuda").softmax(-1)
        torch.testing.assert_close(compiled(index, labels, probs), plain(index, labels, probs))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(traced.state_dict()[name], value)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_step_learns(mode):
    torch.compiler.reset()
    step, given = RobustStep(), batch()
    loss_of = torch.compile(step.loss, mode=mode, fullgraph=True)
    losses = []
    for _ in range(40):
        loss = loss_of(*given)
        step.optimizer.zero_grad()
        loss.backward()
        step.optimizer.step()
        losses.append(loss.item())
    assert step.targets.updates[:16].tolist() == [40] * 16
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scaled_half_precision_learns(dtype):
    step, given = RobustStep(), batch()
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    losses = []
    for _ in range(60):
        with torch.autocast("cuda", dtype=dtype):
            loss = step.loss(*given)
        step.optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(step.optimizer)
        scaler.update()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_the_distances_to_many_anchors_take_no_more_than_their_matrix():
    """(B, C, K, D) would take 4 GiB."""
    embedding = torch.randn(256, 128, device="cuda", requires_grad=True)
    anchors = torch.randn(4000, 8, 128, device="cuda", requires_grad=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    distances = RF.anchor_distances(embedding, anchors, validate_args=False)
    RF.anchor_log_correction(distances).square().sum().backward()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < 8 * distances.numel() * 4 + 4 * anchors.numel() * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_encoder_trains_with_images_channels_last(dtype):
    encoder = poster_v2_tiny().cuda().to(memory_format=torch.channels_last)
    balancer = ReliabilityBalancer(encoder.embedding_dim, 7).cuda()
    images = torch.randn(8, 3, 64, 64, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.arange(8, device="cuda") % 7
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        loss = ReliabilityLoss()(balancer(encoder(images)), labels).total
    loss.backward()
    for module in (encoder, balancer):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_head_is_fitted_on_features_from_anywhere(where):
    _, features, labels = batch()
    balancer = ReliabilityBalancer(6, 3, num_anchors=2).cuda()
    criterion = RobustLoss(balancer, labels, epochs=8)
    history = fit_head(
        balancer, features.to(where), labels.to(where), epochs=8, criterion=criterion
    )
    assert len(history) == 8
    assert criterion.targets.average.is_cuda


def test_a_default_device_is_no_hindrance(case):
    with torch.device("cuda"):
        module = case.make().cuda()
        module(*(each.cuda() for each in case.inputs()))


def test_ranks_are_gathered_by_nccl():
    if distributed.is_initialized():
        pytest.skip("another process group is there")
    alone, given = RobustStep(), batch()
    expected = [alone.targets(given[0], given[2], torch.eye(3).cuda()[given[2]]) for _ in range(4)]
    store = distributed.HashStore()
    distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        ranked = RobustStep()
        for each in expected:
            made = ranked.targets(given[0], given[2], torch.eye(3).cuda()[given[2]])
            torch.testing.assert_close(made, each)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_lightning_trains_in_any_precision(precision):
    lightning = pytest.importorskip("lightning")
    from torch.utils.data import DataLoader, TensorDataset

    class Training(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.balancer = ReliabilityBalancer(6, 3, num_anchors=2)
            self.criterion = RobustLoss(self.balancer, labels, epochs=10)
            self.losses = []

        def training_step(self, rows, _):
            loss = self.criterion(self.balancer(rows[0]), *rows[1:])
            self.losses.append(float(loss))
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.05)

    index, inputs, labels = (each.cpu() for each in batch())
    module = Training()
    trainer = lightning.Trainer(
        accelerator="gpu",
        devices=1,
        precision=precision,
        max_epochs=10,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(inputs, labels, index), 8))
    assert module.criterion.targets.average.is_cuda
    assert int(module.criterion.targets.updates.min()) == 10
    assert module.losses[-1] < module.losses[0]


def test_targets_are_made_on_the_default_device():
    with torch.device("cuda"):
        targets = RefurbishedTargets(40, 3)
        assert all(each.is_cuda for each in targets.state_dict().values())
        index, _, labels = batch()
        assert targets(index, labels, torch.eye(3)[labels]).is_cuda
