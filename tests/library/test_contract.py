"""What every public module must do: one list of promises, run over all of them."""

import copy
import pickle

import pytest
import torch
from cases import CASES, BalancerAndLoss, Case, floating, tensors
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from reliability_balance import CenterLoss
from reliability_balance.wrapping import WrappedClassifier

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "_"))
def case(request) -> Case:
    return CASES[request.param]


def cast(inputs, dtype):
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def assert_same(actual, expected, **tolerance):
    for left, right in zip(tensors(actual), tensors(expected), strict=True):
        torch.testing.assert_close(left, right, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_dtype_gives_finite_values(case, dtype):
    module = case.make().to(dtype).eval()
    for value in floating(module(*cast(case.inputs(), dtype))):
        assert bool(torch.isfinite(value).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_gives_finite_values_and_gradients(case, dtype):
    module = case.make()
    with torch.autocast("cpu", dtype=dtype):
        output = module(*case.inputs())
    total = sum(value.float().sum() for value in floating(output) if value.requires_grad)
    if isinstance(total, torch.Tensor):
        total.backward()
    for parameter in module.parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all())


def test_every_trained_parameter_gets_a_gradient(case):
    """Otherwise DDP waits for those without, or needs find_unused_parameters."""
    module = case.make().double()
    output = module(*cast(case.inputs(), torch.float64))
    values = [value for value in floating(output) if value.requires_grad]
    if not values:
        pytest.skip("a loss of tensors that need no gradient")
    sum(value.square().sum() for value in values).backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name


def test_gradcheck(case):
    module = case.make().double().eval()
    inputs = tuple(
        x.requires_grad_() if x.is_floating_point() else x
        for x in cast(case.inputs(), torch.float64)
    )

    def differentiable(*args):
        return tuple(value for value in floating(module(*args)) if value.requires_grad)

    if not differentiable(*inputs):
        pytest.skip("it answers yes or no")
    assert torch.autograd.gradcheck(differentiable, inputs, fast_mode=True)
    # torch's fused attention has no second derivative; its plain form has.
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(differentiable, inputs, fast_mode=True)


def test_deterministic_algorithms_suffice(case):
    module, inputs = case.make(), case.inputs()
    torch.use_deterministic_algorithms(True)
    try:
        values = [value for value in floating(module(*inputs)) if value.requires_grad]
        if values:
            sum(value.square().sum() for value in values).backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_of_none_or_one(case, size):
    module, inputs = case.make().eval(), case.inputs()
    if len(inputs[0]) != 4 or isinstance(module, (BalancerAndLoss, CenterLoss)):
        pytest.skip("it has no batch, or labels of its own: see test_edges.py")
    output = module(*(x[:size] for x in inputs))
    for value, whole in zip(tensors(output), tensors(module(*inputs)), strict=True):
        if len(whole) == 4:  # not the anchors
            assert value.shape == (size, *whole.shape[1:])


def test_eval_is_deterministic(case):
    module, inputs = case.make().eval(), case.inputs()
    assert_same(module(*inputs), module(*inputs), rtol=0, atol=0)


def test_the_inputs_stay_as_they_are(case):
    module, inputs = case.make(), case.inputs()
    before = copy.deepcopy(inputs)
    module(*inputs)
    assert_same(inputs, before, rtol=0, atol=0)


def test_inputs_need_not_be_contiguous(case):
    module, inputs = case.make().eval(), case.inputs()
    strided = tuple(x.repeat_interleave(2, dim=-1)[..., ::2] for x in inputs)
    assert not strided[0].is_contiguous()
    assert_same(module(*strided), module(*inputs))


def test_a_state_dict_restores_the_module(case):
    first, second, inputs = case.make().eval(), case.make().eval(), case.inputs()
    second.load_state_dict(first.state_dict())
    assert_same(second(*inputs), first(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_answer_alike(case, duplicate):
    module, inputs = case.make().eval(), case.inputs()
    module(*inputs)
    assert_same(duplicate(module)(*inputs), module(*inputs), rtol=0, atol=0)


def test_to_moves_everything(case):
    module = case.make().to("meta")
    state = [*module.parameters(), *module.buffers()]
    assert all(tensor.is_meta for tensor in state)
    assert case.make().double().float().state_dict().keys() == module.state_dict().keys()


def test_compiles_without_a_graph_break(case):
    torch.compiler.reset()
    module, inputs = case.make().eval(), case.inputs()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert_same(compiled(*inputs), module(*inputs))


def test_compiles_in_training_and_gives_the_same_gradients(case):
    torch.compiler.reset()
    module, inputs = case.make(), case.inputs()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    twin = copy.deepcopy(module)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for run in (compiled, twin):
        values = [value for value in floating(run(*inputs)) if value.requires_grad]
        if values:
            sum(value.square().sum() for value in values).backward()
    for left, right in zip(module.parameters(), twin.parameters(), strict=True):
        assert (left.grad is None) == (right.grad is None)
        if left.grad is not None:
            torch.testing.assert_close(left.grad, right.grad)


@pytest.fixture(params=[name for name, each in CASES.items() if each.exports])
def exported_case(request) -> Case:
    return CASES[request.param]


def dynamic_batch(inputs):
    batch = torch.export.Dim("batch", min=2, max=512)
    return tuple({0: batch} for _ in inputs)


def test_torch_export_with_any_batch_size(exported_case):
    module, inputs = exported_case.make().eval(), exported_case.inputs()
    shapes = dynamic_batch(inputs)
    if isinstance(module, WrappedClassifier):
        shapes = (shapes,)  # the wrapped model takes *args
    program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    larger = tuple(torch.cat([x, x, x[:1]]) for x in inputs)
    assert_same(program.module()(*larger), module(*larger))


@pytest.mark.parametrize(
    "name", ["robust", "paper", "tokens", "wrapped", "vector scaling", "prediction sets"]
)
def test_onnx_with_any_batch_size(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, inputs = CASES[name].make().eval(), CASES[name].inputs()
    path = tmp_path / "model.onnx"
    shapes = dynamic_batch(inputs)
    torch.onnx.export(
        module,
        inputs,
        path,
        dynamo=True,
        dynamic_shapes=(shapes,) if name == "wrapped" else shapes,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    larger = tuple(torch.cat([x, x, x[:1]]) for x in inputs)
    names = [entry.name for entry in session.get_inputs()]
    feed = {key: x.numpy() for key, x in zip(names, larger, strict=True)}
    found = session.run(None, feed)
    expected = tensors(module(*larger))
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(left), right.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["robust", "paper loss"])
def test_inductor_gives_the_same(name):
    torch.compiler.reset()
    module, inputs = CASES[name].make().eval(), CASES[name].inputs()
    assert_same(torch.compile(module, fullgraph=True)(*inputs), module(*inputs))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_second_device_gives_the_same(case):
    module, inputs = case.make().eval(), case.inputs()
    # A copy: what the balancer passes on of itself would move with it.
    expected = copy.deepcopy(module)(*inputs)
    moved = module.to("cuda")(*(x.to("cuda") for x in inputs))
    assert_same([value.cpu() for value in tensors(moved)], expected, rtol=1e-4, atol=1e-5)
