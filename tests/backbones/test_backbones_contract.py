"""What every backbone must do, under a balancer."""

import copy
import pickle
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from reliability_balance import ReliabilityBalancer, ReliabilityLoss
from reliability_balance.backbones import (
    MLP,
    Identity,
    TimmBackbone,
    TorchvisionBackbone,
    poster_v2_base,
    poster_v2_small,
    poster_v2_tiny,
)
from reliability_balance.backbones.poster_v2 import PosterV2, PosterV2Config

NUM_CLASSES = 3


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    num_tokens: int | None = None


def several_windows(tokens: bool = False) -> nn.Module:
    config = PosterV2Config(
        image_size=64,
        widths=(8, 16, 32),
        heads=(1, 2, 4),
        windows_per_side=2,
        image_units=(1, 1, 1),
        input_stride=2,
        landmark_width=8,
        landmark_units=(1, 1, 1),
        token_width=32,
        token_heads=2,
        layer_scale=0.1,
        reduction_dim=24,
    )
    return PosterV2(config, train_landmarks=True, tokens=tokens)


IMAGE, SMALL_IMAGE, TIMM_IMAGE = (3, 64, 64), (3, 32, 32), (3, 160, 160)
CASES = {
    "poster_v2_base": Case(lambda: poster_v2_base(image_size=32), SMALL_IMAGE),
    "poster_v2_small": Case(lambda: poster_v2_small(image_size=32), SMALL_IMAGE),
    "poster_v2_tiny": Case(poster_v2_tiny, IMAGE),
    "poster_v2_windows": Case(several_windows, (3, 80, 80)),
    "poster_v2_tokens": Case(lambda: several_windows(tokens=True), IMAGE, 1 + 3 * 16),
    "timm_vit": Case(lambda: TimmBackbone("test_vit"), TIMM_IMAGE),
    "timm_vit_tokens": Case(lambda: TimmBackbone("test_vit", tokens=True), TIMM_IMAGE, 101),
    "timm_resnet": Case(lambda: TimmBackbone("test_resnet"), IMAGE),
    "timm_resnet_tokens": Case(lambda: TimmBackbone("test_resnet", tokens=True), IMAGE, 4),
    "torchvision": Case(lambda: TorchvisionBackbone("resnet18"), IMAGE),
    "torchvision_tokens": Case(lambda: TorchvisionBackbone("resnet18", tokens=True), IMAGE, 4),
    "mlp": Case(lambda: MLP(10, embedding_dim=16), (10,)),
    "mlp_tokens": Case(lambda: MLP(10, embedding_dim=16), (5, 10), 5),
    "identity": Case(lambda: Identity(16), (16,)),
    "identity_tokens": Case(lambda: Identity(16), (5, 16), 5),
}
# Tracing depends on the code that runs: what has it twice, as (B, D) and as tokens, is traced once.
TRACED = (
    *("poster_v2_base", "poster_v2_small", "poster_v2_tiny", "poster_v2_tokens"),
    *("timm_resnet", "timm_vit_tokens", "torchvision", "torchvision_tokens"),
    *("mlp", "identity_tokens"),
)
ONNX = [name for name in TRACED if name != "torchvision_tokens"]


class Corrected(nn.Module):
    """A backbone and its balancer, with one tensor as output."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.balancer = ReliabilityBalancer(
            backbone.embedding_dim, NUM_CLASSES, num_anchors=2, head="linear"
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return self.balancer(self.backbone(inputs)).corrected


def make(name: str) -> tuple[Corrected, Tensor]:
    torch.manual_seed(0)
    case = CASES[name]
    model = Corrected(case.build())
    inputs = torch.randn(4, *case.input_shape)
    return model, inputs


@pytest.mark.parametrize("name", CASES)
def test_embedding_has_the_promised_width(name: str) -> None:
    model, inputs = make(name)
    embedding = model.backbone.eval()(inputs)
    tokens = CASES[name].num_tokens
    expected = (4, model.backbone.embedding_dim)
    assert embedding.shape == (expected if tokens is None else (4, tokens, expected[1]))


@pytest.mark.parametrize("name", CASES)
def test_training_step_reaches_every_trainable_weight(name: str) -> None:
    model, inputs = make(name)
    labels = torch.tensor([0, 1, 2, 0])
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
    loss = ReliabilityLoss()(model.train().balancer(model.backbone(inputs)), labels).total
    loss.backward()
    without = [
        parameter_name
        for parameter_name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []  # distributed training waits for each of them
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    optimizer.step()
    after = ReliabilityLoss()(model.balancer(model.backbone(inputs)), labels).total
    assert torch.isfinite(after)


@pytest.mark.parametrize("name", CASES)
def test_prediction_does_not_depend_on_the_batch(name: str) -> None:
    model, inputs = make(name)
    model.eval()
    with torch.no_grad():
        together = model(inputs)
        alone = torch.cat([model(sample) for sample in inputs.split(1)])
        assert torch.equal(model(inputs), together)
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    torch.testing.assert_close(together.sum(-1), torch.ones(4))


@pytest.mark.parametrize("name", TRACED)
def test_copies_agree(name: str) -> None:
    model, inputs = make(name)
    model.eval()
    with torch.no_grad():
        expected = model(inputs)
        assert torch.equal(copy.deepcopy(model)(inputs), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(inputs), expected)
        other, _ = make(name)
        for parameter in other.parameters():
            parameter.zero_()
        other.load_state_dict(model.state_dict())
        assert torch.equal(other.eval()(inputs), expected)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", TRACED)
def test_compiles_without_a_graph_break(name: str, training: bool) -> None:
    model, inputs = make(name)
    model.train(training)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.manual_seed(1)
    actual = compiled(inputs)
    torch.manual_seed(1)
    if not training:
        torch.testing.assert_close(actual, model(inputs))
    actual.sum().backward()


@pytest.mark.parametrize("name", TRACED)
def test_exports_with_any_batch(name: str) -> None:
    model, inputs = make(name)
    model.eval()
    program = torch.export.export(
        model, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    with torch.no_grad():
        for size in (1, 3):
            torch.testing.assert_close(program.module()(inputs[:size]), model(inputs[:size]))


@pytest.mark.parametrize("name", ONNX)
def test_onnx_agrees_for_any_batch(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, inputs = make(name)
    model.eval()
    program = torch.onnx.export(
        model,
        (inputs,),
        dynamo=True,
        input_names=["inputs"],
        output_names=["corrected"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    with torch.no_grad():
        for size in (1, 3):
            (actual,) = session.run(["corrected"], {"inputs": inputs[:size].numpy()})
            torch.testing.assert_close(
                torch.from_numpy(actual), model(inputs[:size]), rtol=0, atol=1e-5
            )
