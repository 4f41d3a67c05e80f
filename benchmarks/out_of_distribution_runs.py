"""One run: train on the classes there are, and score inputs that are of none of them."""

import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from detectors import Trained, scores
from human_methods import Ours
from human_networks import perceptron
from human_tasks import Folders, HumanTask, make_task
from image_embeddings import load_embeddings
from methods import Robust
from noisy_data import CORRUPTIONS, Task
from paired import alternate
from PIL import Image, ImageDraw, ImageFont
from robustness_runs import train
from sklearn.metrics import roc_auc_score
from tasks import _standardise, digits, fashion
from torch import Tensor, nn
from torch.nn import functional as F

from reliability_balance import BalancerOutput
from reliability_balance.calibration import Familiarity
from reliability_balance.core import join_outputs

SAMPLES, EPOCHS, HUMAN_EPOCHS = 10_000, 30, 20
TESTED, STRANGE = 4000, 2000  # inputs of the test set and of an out-of-distribution set, at most
COST = "cost"


class Run(NamedTuple):
    """What names a run: a data set, its labels, a seed."""

    data: str
    labels: str
    seed: int


class Network(NamedTuple):
    """A trained network's outputs for training and test data and each strange set."""

    trained: Trained
    test: BalancerOutput
    strange: Mapping[str, BalancerOutput]


def do_run(run: Run, folders: Folders) -> dict[str, Any]:
    """Train and judge every method; of the cost alone measure time."""
    torch.set_num_threads(1)
    if run.data == COST:
        return {**run._asdict(), **cost(run.seed)}
    return {**run._asdict(), **judge(DATA[run.data](run, folders))}


def judge(network: Network) -> dict[str, Any]:
    """AUROC and FPR at 95 % of each method on each strange set; false alarms of ours, in %."""
    found: dict[str, dict[str, list[float]]] = {}
    for method, score in scores(network.trained):
        known = score(network.test)
        found[method] = {
            name: [auroc(known, strange), fpr_at_95(known, strange)]
            for name, output in network.strange.items()
            for strange in [score(output)]
        }
    return {"found": found, "false_alarms": false_alarms(network)}


def auroc(known: Tensor, strange: Tensor) -> float:
    """Area under the ROC curve, in %, of scores that are higher for strange inputs."""
    is_strange = torch.cat([torch.zeros(len(known)), torch.ones(len(strange))])
    return 100 * float(roc_auc_score(is_strange.numpy(), torch.cat([known, strange]).numpy()))


def fpr_at_95(known: Tensor, strange: Tensor) -> float:
    """Share of strange inputs, in %, accepted by the threshold that accepts 95 % of the known."""
    threshold = known.double().quantile(0.95)
    return 100 * float((strange.double() <= threshold).double().mean())


def false_alarms(network: Network) -> list[float]:
    """Share of test data, in %, rejected at a rate of 5 %: fitted on training, on held-out data."""
    output, test = network.trained.output, network.test
    order = torch.randperm(len(test.embedding), generator=torch.Generator().manual_seed(0))
    held_out, others = (_rows(test, part) for part in order.chunk(2))
    plain = Familiarity(output.embedding.shape[1]).fit(output)
    calibrated = Familiarity(output.embedding.shape[1]).fit(output, held_out=held_out)
    return [
        100 * float((~each.is_familiar(others)).double().mean()) for each in (plain, calibrated)
    ]


def cost(seed: int) -> dict[str, float]:
    """CPU time of the score, in % of that of a ResNet-18's forward pass, a batch of 16."""
    from torchvision.models import resnet18

    torch.manual_seed(seed)
    encoder = resnet18().eval()
    images, embedding = torch.randn(16, 3, 224, 224), torch.rand(16, 512)
    stored = BalancerOutput(torch.zeros(2000, 2), torch.zeros(2000, 2), torch.rand(2000, 512))
    familiarity = Familiarity(512).fit(stored)
    output = BalancerOutput(torch.zeros(16, 2), torch.zeros(16, 2), embedding)
    with torch.inference_mode():
        seconds = alternate(
            {"encoder": lambda: encoder(images), "score": lambda: familiarity.distance(output)}, 10
        )
    median = {name: float(np.median(each)) for name, each in seconds.items()}
    return {"share": 100 * median["score"] / median["encoder"]}


def letters(count: int, seed: int) -> Tensor:
    """Letters (count, 784) in [0, 1], in Pillow's font: of 18 to 26 pixels, turned and bold."""
    generator = np.random.default_rng(seed)
    drawn = []
    for index in range(count):
        image = Image.new("L", (28, 28))
        font = ImageFont.load_default(size=int(generator.integers(18, 27)))
        letter = string.ascii_letters[index % len(string.ascii_letters)]
        grey, stroke = int(generator.integers(160, 256)), int(generator.integers(0, 2))
        ImageDraw.Draw(image).text(
            (14, 14), letter, fill=grey, font=font, anchor="mm", stroke_width=stroke
        )
        angle = float(generator.uniform(-25, 25))
        drawn.append(np.asarray(image.rotate(angle, resample=Image.Resampling.BILINEAR)))
    return torch.from_numpy(np.stack(drawn)).float().flatten(1) / 255


def without(task: Task, held_out: int) -> tuple[Task, Tensor]:
    """The task without a class, and the test inputs of that class."""
    kept, tested = task.labels != held_out, task.test_labels != held_out
    labels, test_labels = (
        each - (each > held_out).long() for each in (task.labels[kept], task.test_labels[tested])
    )
    num_classes = task.num_classes - 1
    smaller = Task(
        task.inputs[kept],
        labels,
        F.one_hot(labels, num_classes).float(),
        task.test_inputs[tested],
        test_labels,
        num_classes,
    )
    return smaller, task.test_inputs[~tested]


def _fashion(run: Run, folders: Folders) -> Network:
    task = CORRUPTIONS[run.labels](fashion(SAMPLES, run.seed), run.seed)
    generator = torch.Generator().manual_seed(run.seed)
    some = task.test_inputs[:STRANGE]
    strange = {
        "digits": digits(10, run.seed).test_inputs,
        "letters": _standardise(letters(1000, run.seed)),
        "inverted": -some + 2 * _standardise(torch.tensor(0.5)),
        "shuffled pixels": some[:, torch.randperm(some.shape[1], generator=generator)],
    }
    return _trained_on_pixels(task, run.seed, strange)


def _fashion_held_out(run: Run, folders: Folders) -> Network:
    task, strange = without(fashion(SAMPLES, run.seed), run.seed % 10)
    task = CORRUPTIONS[run.labels](task, run.seed)
    return _trained_on_pixels(task, run.seed, {"held-out class": strange})


def _cifar(run: Run, folders: Folders) -> Network:
    whole = make_task("cifar-clean", "embeddings", SAMPLES, run.seed, folders)
    task, strange = without(whole.data, run.seed % 10)
    task = CORRUPTIONS[run.labels](task, run.seed)
    network = perceptron(task.inputs.shape[-1], task.num_classes)
    smaller = whole._replace(data=task, network=network)
    return _trained_on_embeddings(smaller, run.seed, {"held-out class": strange})


def _faces(run: Run, folders: Folders) -> Network:
    task = make_task(FACE_LABELS[run.labels], "embeddings", SAMPLES, run.seed, folders)
    objects = make_task("cifar-clean", "embeddings", 1, run.seed, folders).data.test_inputs
    assert folders.cache is not None  # make_task has asked for it
    images = _rendered()
    _, rendered = load_embeddings(folders.cache, "rendered", images[:1], images)
    strange = {"rendered faces": rendered, "objects": objects[:STRANGE]}
    return _trained_on_embeddings(task, run.seed, strange)


@cache
def _rendered() -> Tensor:
    """A thousand faces (1000, 1, 48, 48) uint8, grey as FER+'s."""
    from examples.arbex.rendering.rendered_faces import PRESETS, rendered_faces

    settings = replace(PRESETS["easy"], num_faces=1000, image_size=48, num_identities=100)
    images = rendered_faces(settings).images
    pixels = torch.stack([torch.as_tensor(images[row]) for row in range(len(images))])
    return pixels.float().mean(1, keepdim=True).round().byte()


def _trained_on_pixels(task: Task, seed: int, strange: Mapping[str, Tensor]) -> Network:
    torch.manual_seed(seed)
    method = Robust(task)
    train(method, task, EPOCHS)
    return _outputs(method, method.balancer.head, task, strange)


def _trained_on_embeddings(task: HumanTask, seed: int, strange: Mapping[str, Tensor]) -> Network:
    torch.manual_seed(seed)
    method = Ours(task, HUMAN_EPOCHS)
    train(method, task.data, HUMAN_EPOCHS)
    return _outputs(method, method.model.balancer.head, task.data, strange)


@torch.no_grad()
def _outputs(
    method: Robust | Ours, head: nn.Module | None, task: Task, strange: Mapping[str, Tensor]
) -> Network:
    assert isinstance(head, nn.Linear)  # the recipe's
    method.eval()

    def outputs(inputs: Tensor) -> BalancerOutput:
        return join_outputs([method.predict(part) for part in inputs.split(1000)])

    return Network(
        Trained(outputs(task.inputs), task.labels, head.requires_grad_(False)),
        outputs(task.test_inputs[:TESTED]),
        {name: outputs(inputs) for name, inputs in strange.items()},
    )


def _rows(output: BalancerOutput, rows: Tensor) -> BalancerOutput:
    """Some of the samples, as far as the score needs them."""
    return BalancerOutput(output.log_probs[rows], output.logits[rows], output.embedding[rows])


FACE_LABELS = {"FER+ majority": "fer-majority", "FER2013": "fer2013"}
DATA: dict[str, Callable[[Run, Folders], Network]] = {
    "Fashion-MNIST": _fashion,
    "Fashion-MNIST without a class": _fashion_held_out,
    "CIFAR-10 without a class": _cifar,
    "FER+": _faces,
}
