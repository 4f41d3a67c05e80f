import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from seeded_weights import seed_weights, uniform
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as global_hooks
from torch.nn.utils import prune

from reliability_balance.backbones import poster_v2_base, poster_v2_small, poster_v2_tiny
from reliability_balance.backbones.poster_v2 import MobileFaceNet, PosterV2, PosterV2Config
from reliability_balance.backbones.poster_v2.layers import is_plain_linear
from reliability_balance.backbones.poster_v2.published import PUBLISHED_REST
from reliability_balance.backbones.poster_v2.sizes import TINY
from reliability_balance.backbones.poster_v2.vision_transformer import SelfAttention

FIXTURES = Path(__file__).parents[1] / "fixtures"


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text())


@pytest.fixture(scope="module")
def base() -> PosterV2:
    return seed_weights(poster_v2_base(), fixture("poster_v2_base_outputs.json")["seed"]).eval()


@pytest.fixture
def tiny() -> PosterV2:
    torch.manual_seed(0)
    return poster_v2_tiny(image_size=32)


class TestPublished:
    def test_names_and_shapes(self, base: PosterV2) -> None:
        published = fixture("poster_v2_base_state.json")
        own = {name: list(tensor.shape) for name, tensor in base.state_dict().items()}
        assert own == published["state"]
        assert sum(p.numel() for p in base.parameters()) == published["parameters"]

    def test_eight_classes(self) -> None:
        published = fixture("poster_v2_base_state.json")
        own = poster_v2_base(num_classes=8).state_dict()
        expected = {**published["state"], **published["eight_classes"]}
        assert {name: list(tensor.shape) for name, tensor in own.items()} == expected

    def test_reduction_adds_two_names(self, base: PosterV2) -> None:
        reduced = poster_v2_base(reduction_dim=128)
        added = reduced.state_dict().keys() - base.state_dict().keys()
        assert added == {"reduction.weight", "reduction.bias"}
        assert reduced.embedding_dim == 128

    def test_what_runs_is_what_the_paper_counts(self, base: PosterV2) -> None:
        """43.7 M, where the file has 58.3 M: the rest never runs."""
        published = fixture("poster_v2_base_state.json")
        rest = tuple(part for part in PUBLISHED_REST if part != "VIT.head.")
        running = sum(
            parameter.numel()
            for name, parameter in base.named_parameters()
            if not name.startswith(rest)
        )
        assert running == published["parameters_that_run"]
        frozen = {name for name, p in base.named_parameters() if not p.requires_grad}
        trained = {name for name, p in base.named_parameters() if p.requires_grad}
        assert all(name.startswith(("face_landback.", "VIT.head.", *rest)) for name in frozen)
        assert not any(name.startswith(rest) for name in trained)

    def test_outputs(self, base: PosterV2) -> None:
        expected = fixture("poster_v2_base_outputs.json")
        images = uniform(expected["seed"], "images", tuple(expected["image_shape"]))
        with torch.no_grad():
            embedding = base(images)
            logits = base.VIT.head(embedding)

        def check(actual: Tensor, name: str, atol: float) -> None:
            torch.testing.assert_close(actual, torch.tensor(expected[name]), rtol=0, atol=atol)

        check(logits, "logits", 1e-5)
        check(embedding[:, :12], "embedding_head", 1e-5)
        check(embedding.norm(dim=1), "embedding_norm", 1e-4)
        check(embedding.sum(1), "embedding_sum", 1e-3)


class TestSizes:
    @pytest.mark.parametrize("build", [poster_v2_small, poster_v2_tiny])
    @pytest.mark.parametrize("image_size", [32, 48])
    def test_any_size_that_fits(self, build: Any, image_size: int) -> None:
        assert build(image_size=image_size)(torch.randn(2, 3, 50, 50)).shape[0] == 2

    @pytest.mark.parametrize("build", [poster_v2_base, poster_v2_small, poster_v2_tiny])
    def test_a_size_that_does_not_fit(self, build: Any) -> None:
        with pytest.raises(ValueError, match=r"`image_size` must be a multiple of 16.*got 100"):
            build(image_size=100)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"windows_per_side": 3}, "`image_size` must be a multiple of 48"),
            ({"widths": (10, 20, 30)}, "`heads` must divide"),
            ({"token_heads": 7}, "`heads` must divide"),
            ({"input_stride": 3}, "`input_stride` must be 1 or 2; got 3"),
            ({"heads": (1, 2)}, "`heads` must have 3 entries"),
            ({"depth": 0}, "`depth` must be at least 1; got 0"),
            ({"drop_path": 1.0}, "`drop_path` must lie in"),
            ({"reduction_dim": 0}, "`reduction_dim` must be at least 1"),
        ],
    )
    def test_sizes_that_do_not_go_together(self, changes: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            replace(TINY, **changes)

    @pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 32, 40), (3, 32, 32)])
    def test_images_of_a_wrong_shape(self, tiny: PosterV2, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"`images` must have shape \(B, 3, H, H\)"):
            tiny(torch.randn(*shape))

    def test_images_of_bytes(self, tiny: PosterV2) -> None:
        with pytest.raises(
            TypeError, match=r"`images` must have a floating dtype; got torch\.uint8"
        ):
            tiny(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))

    def test_the_embedding_is_the_first_token(self) -> None:
        model = poster_v2_tiny(image_size=32, reduction_dim=24, tokens=True).eval()
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            tokens = model(images)
            model.tokens = False
            torch.testing.assert_close(model(images), tokens[:, 0])


class TestLandmarks:
    def test_frozen_with_its_statistics(self) -> None:
        model = poster_v2_tiny(image_size=32, train_landmarks=False).train()
        before = {name: value.clone() for name, value in model.face_landback.state_dict().items()}
        assert not any(module.training for module in model.face_landback.modules())
        assert model.ir_back.training
        model(torch.randn(4, 3, 32, 32)).sum().backward()
        assert all(p.grad is None for p in model.face_landback.parameters())
        after = model.face_landback.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())

    def test_trained_on_request(self) -> None:
        model = poster_v2_tiny(image_size=32, train_landmarks=True).train()
        mean = model.face_landback.conv1.bn.running_mean.clone()
        model(torch.randn(4, 3, 32, 32)).sum().backward()
        assert all(p.grad is not None for p in model.face_landback.parameters())
        assert not torch.equal(model.face_landback.conv1.bn.running_mean, mean)

    def test_any_module_with_three_maps(self) -> None:
        class Pyramid(nn.Module):
            widths = (16, 32, 5)

            def forward(self, images: Tensor) -> tuple[Tensor, ...]:
                return tuple(
                    nn.functional.adaptive_avg_pool2d(images[:, :1], size).expand(-1, width, -1, -1)
                    for size, width in zip((32, 16, 2), self.widths, strict=True)
                )

        model = poster_v2_tiny(image_size=32, landmark_branch=Pyramid())
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 128)

    @pytest.mark.parametrize("branch", [nn.Identity(), MobileFaceNet(width=8, units=(1, 1, 1))])
    def test_a_branch_that_does_not_fit(self, branch: nn.Module) -> None:
        with pytest.raises(ValueError, match=r"`widths`.*16, 32 and any third; got"):
            poster_v2_tiny(landmark_branch=branch)

    def test_no_module(self) -> None:
        with pytest.raises(TypeError, match=r"`landmark_branch` must be a torch\.nn\.Module"):
            poster_v2_tiny(landmark_branch=lambda images: images)

    def test_landmarks_matter(self, tiny: PosterV2) -> None:
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            before = tiny.eval()(images)
            tiny.face_landback.conv_3.model[0].project.bn.weight.zero_()
            assert not torch.allclose(tiny(images), before, atol=1e-6)


class TestOptions:
    def test_checkpointing_changes_memory_alone(self) -> None:
        # Drop path too: the second pass must draw what the first drew.
        config = replace(TINY, image_size=32, drop_path=0.5)
        images = torch.randn(4, 3, 32, 32)
        results, kept = [], []
        for gradient_checkpointing in (False, True):
            torch.manual_seed(0)
            model = PosterV2(
                config, train_landmarks=True, gradient_checkpointing=gradient_checkpointing
            )
            sizes: list[int] = []

            def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
                sizes.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                output = model(images)
            kept.append(sum(sizes))
            output.square().sum().backward()
            results.append(
                {
                    "output": output.detach(),
                    **{name: p.grad for name, p in model.named_parameters()},
                    **dict(model.named_buffers()),
                }
            )
        assert kept[1] < kept[0] * 0.6
        torch.testing.assert_close(results[1], results[0])

    def test_weights_are_stored_contiguously(self, tiny: PosterV2) -> None:
        """As safetensors and the checkpoints of Hugging Face require."""
        assert all(tensor.is_contiguous() for tensor in tiny.state_dict().values())
        last = copy.deepcopy(tiny).to(memory_format=torch.channels_last)
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(last.eval()(images), tiny.eval()(images))

    def test_maps_are_channels_last_whatever_the_images_are(self, tiny: PosterV2) -> None:
        maps: list[Tensor] = []
        tiny.ir_back.body1[-1].register_forward_hook(lambda *call: maps.append(call[-1]))
        with torch.no_grad():
            tiny.eval()(torch.randn(2, 3, 32, 32))
        assert all(each.is_contiguous(memory_format=torch.channels_last) for each in maps)
        assert maps

    def test_gradients_of_maps_are_channels_last(self, tiny: PosterV2) -> None:
        gradients: list[Tensor] = []
        for branch in (tiny.ir_back, tiny.face_landback):
            for module in branch.modules():
                if isinstance(module, nn.BatchNorm2d | nn.PReLU):
                    module.register_forward_hook(
                        lambda *call: call[-1].register_hook(gradients.append) and None
                    )
        tiny(torch.randn(2, 3, 32, 32)).square().sum().backward()
        assert gradients
        assert all(each.is_contiguous(memory_format=torch.channels_last) for each in gradients)

    @pytest.mark.filterwarnings("ignore:There is a performance drop")
    def test_gradients_of_transforms(self, tiny: PosterV2) -> None:
        tiny.double().eval()
        images = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)

        def loss(images: Tensor) -> Tensor:
            return tiny(images).square().sum()

        expected = torch.autograd.grad(loss(images), images)[0]
        images = images.detach()
        for frozen in (False, True):
            tiny.requires_grad_(not frozen)
            for transform in (torch.func.grad, torch.func.jacrev):
                torch.testing.assert_close(transform(loss)(images), expected)
        direction = torch.randn_like(images)
        with sdpa_kernel(SDPBackend.MATH):  # torch's fused kernel has no forward derivative
            along = torch.func.jvp(loss, (images,), (direction,))[1]
        torch.testing.assert_close(along, (expected * direction).sum())

    @pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch, under vmap
    def test_gradients_of_each_sample(self, tiny: PosterV2) -> None:
        tiny.double().eval()
        weights = {name: p.detach() for name, p in tiny.named_parameters() if p.requires_grad}
        images = torch.randn(3, 3, 32, 32, dtype=torch.float64)

        def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
            return torch.func.functional_call(tiny, weights, (image[None],)).square().sum()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, images)
        tiny(images).square().sum().backward()
        for name, parameter in tiny.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(each[name].sum(0), parameter.grad)

    def test_outputs_that_hooks_keep_are_not_changed(self, tiny: PosterV2) -> None:
        kept: list[tuple[Tensor, Tensor]] = []
        for unit in tiny.ir_back.body1:
            unit.res_layer.register_forward_hook(
                lambda _, __, output: kept.append((output, output.clone()))
            )
        tiny(torch.randn(2, 3, 32, 32))
        assert kept
        assert all(torch.equal(*each) for each in kept)

    def test_autocast(self, tiny: PosterV2) -> None:
        images = torch.randn(4, 3, 32, 32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embedding = tiny(images)
        assert torch.isfinite(embedding).all()
        embedding.float().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in tiny.parameters())

    def test_learns(self) -> None:
        torch.manual_seed(0)
        model = poster_v2_tiny(image_size=32, image_channels=1)
        head = nn.Linear(model.embedding_dim, 2)
        optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=2e-3)
        images = torch.randn(32, 1, 32, 32)
        labels = torch.arange(32) % 2
        images[labels == 1, :, 8:16] += 1.0
        for _ in range(12):
            loss = nn.functional.cross_entropy(head(model(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss < 0.2


def test_config_is_the_published_one_by_default() -> None:
    config = PosterV2Config()
    assert config.window_sizes == (28, 14, 7)
    assert config.num_tokens == 147
    assert config.drop_paths == (0.0, 0.125, 0.25)


@pytest.mark.parametrize("grad", [True, False], ids=["train", "predict"])
def test_attention_of_the_first_token_alone(grad: bool) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(12, num_heads=3).double()
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(attention(tokens, 1), attention(tokens)[:, :1])


class Doubled(nn.Linear):
    """As LoRA does: such a layer's `weight` is not all that it applies."""

    def forward(self, features: Tensor) -> Tensor:
        return 2 * super().forward(features)


class Quantized(Tensor):
    """As torchao does: the layer's class stays, and its weight is of a class of its own."""


def replace_layer(attention: SelfAttention) -> None:
    attention.qkv = Doubled(12, 36)


def replace_forward(attention: SelfAttention) -> None:
    forward = attention.qkv.forward
    attention.qkv.forward = lambda features: 3 * forward(features)


def remove_bias(attention: SelfAttention) -> None:
    attention.qkv.bias = None


def normalise_weight(attention: SelfAttention) -> None:
    nn.utils.weight_norm(attention.qkv)
    with torch.no_grad():
        attention.qkv.weight_g.mul_(5)


def prune_weight(attention: SelfAttention) -> None:
    prune.random_unstructured(attention.qkv, "weight", 0.5)
    with torch.no_grad():
        attention.qkv.weight_orig.mul_(2)


def parametrize_weight(attention: SelfAttention) -> None:
    nn.utils.parametrizations.weight_norm(attention.qkv)


def quantize_weight(attention: SelfAttention) -> None:
    weight = attention.qkv.weight.detach().as_subclass(Quantized)
    attention.qkv.weight = nn.Parameter(weight)


def hook_output(attention: SelfAttention) -> None:
    attention.qkv.register_forward_hook(lambda layer, inputs, output: output * 3)


def hook_input(attention: SelfAttention) -> None:
    attention.qkv.register_forward_pre_hook(lambda layer, inputs: inputs[0] * 3)


def hook_gradient(attention: SelfAttention) -> None:
    attention.qkv.register_full_backward_hook(lambda layer, of_inputs, of_output: (of_inputs[0],))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        replace_layer,
        replace_forward,
        remove_bias,
        normalise_weight,
        prune_weight,
        parametrize_weight,
        quantize_weight,
        hook_output,
        hook_input,
        hook_gradient,
    ],
)
def test_attention_of_the_first_token_calls_a_layer_that_was_changed(change: Any) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(12, num_heads=3)
    change(attention)
    attention.double()
    assert not is_plain_linear(attention.qkv)
    tokens = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    weights = [tokens, *attention.parameters()]

    def run(num_results: int | None) -> tuple[Tensor, ...]:
        output = attention(tokens, num_results)[:, :1]
        return output, *torch.autograd.grad(output.square().sum(), weights)

    torch.testing.assert_close(run(1), run(None))


@pytest.mark.parametrize(
    "register",
    [
        global_hooks.register_module_forward_hook,
        global_hooks.register_module_forward_pre_hook,
        global_hooks.register_module_full_backward_hook,
        global_hooks.register_module_full_backward_pre_hook,
    ],
)
def test_hooks_on_all_modules_see_each_layer(tiny: PosterV2, register: Any) -> None:
    """Profilers, offloading and activation statistics rely on it."""
    seen: set[nn.Module] = set()
    handle = register(lambda module, *rest: seen.add(module))
    try:
        tiny(torch.randn(2, 3, 32, 32)).sum().backward()
    finally:
        handle.remove()
    linear = {name for name, part in tiny.VIT.named_modules() if isinstance(part, nn.Linear)}
    assert linear - {name for name, part in tiny.VIT.named_modules() if part in seen} == set()
