"""Labels that people gave: both layouts of CIFAR-10N, FER+'s tasks, the methods, the report."""

import io
import json
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("cleanlab", reason="the benchmarks need cleanlab")
pytest.importorskip("crowdkit", reason="the benchmarks need crowd-kit")

import pandas as pd
from face_trees import FER_HEADER, write_image, write_text
from PIL import Image
from small_task import make_task as make_small_task
from typer.testing import CliRunner

from benchmarks import training
from benchmarks.__main__ import app
from benchmarks.data import image_embeddings
from benchmarks.data.cifar_human import LABEL_SETS, load_human_cifar, load_label_sets
from benchmarks.data.human_faces import CLASSES, FOLDERS, load_human_faces
from benchmarks.data.human_tasks import Folders, drawn_annotators, make_task, shares_of_votes
from benchmarks.measures import (
    human_label_measures,
    measures_by_frequency,
    wrong_label_measures,
)
from benchmarks.methods.base import predict
from benchmarks.methods.compared import ON_HUMAN_LABELS, TWO_VIEWS
from benchmarks.networks import perceptron_on_embeddings, residual
from benchmarks.questions import human_learning_rates
from benchmarks.questions.human_labels import Run, do_run
from benchmarks.reports.human_labels import report
from benchmarks.training import train

TRAINED, TESTED = 140, 12


@pytest.fixture(scope="module")
def fer_plus(tmp_path_factory):
    """Faces whose brightness is their class; the first test face is also a training face."""
    root = tmp_path_factory.mktemp("ferplus")
    rows, labels = [], []
    for usage, count in (("Training", TRAINED), ("PrivateTest", TESTED)):
        for number in range(count):
            name, kind = f"{usage}{number:04d}.png", number % 7
            votes = dict.fromkeys(FER_HEADER.split(",")[2:], 0) | {CLASSES[kind]: 8}
            votes[CLASSES[(kind + 1) % 7]] = 2
            if number == 3:  # nobody saw one of the seven classes
                votes = dict.fromkeys(votes, 0) | {"NF": 10}
            rows.append(f"{usage},{name},{','.join(map(str, votes.values()))}")
            labels.append((name, (kind + 1) % 7 if number % 5 == 0 else kind))
            is_leaked = usage != "Training" and number == 0
            value = 30 * kind if is_leaked else 30 * kind + 256 * (number + 1) + (count == TESTED)
            write_image(root / FOLDERS[usage] / name, value, "L", 48)
    # The leaked one looks like the first training face.
    write_image(root / FOLDERS["PrivateTest"] / "PrivateTest0000.png", 256, "L", 48)
    write_text(root / "fer2013new.csv", "\n".join([FER_HEADER, *rows]) + "\n")
    names, given = zip(*labels, strict=True)
    np.savez(root / "fer2013_labels.npz", names=np.array(names), fer_label=np.uint8(given))
    return root


def cifar_arrays():
    """Images whose brightness is their class, and three label sets."""
    truth = np.arange(TRAINED) % 10
    images = np.full((TRAINED, 32, 32, 3), 0, np.uint8) + np.uint8(25 * truth)[:, None, None, None]
    images[:, 0, 0, 0] = np.arange(TRAINED)
    noisy = {"clean": truth, "aggre": truth.copy(), "random1": truth.copy()}
    noisy["aggre"][::10] = 3
    noisy["random1"][::5] = 3
    return images, noisy


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("packed")
    images, labels = cifar_arrays()

    def pack(part):
        files = []
        for image in part:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "png")  # lossless, lest the layouts differ
            files.append(file.getvalue())
        return np.frombuffer(b"".join(files), np.uint8), np.cumsum([0, *map(len, files)])

    content = {f"train_{name}": np.uint8(values) for name, values in labels.items()}
    content["train_jpeg"], content["train_offsets"] = pack(images)
    content["test_jpeg"], content["test_offsets"] = pack(images[:20])
    np.savez(root / "cifar10n.npz", test_labels=np.uint8(labels["clean"][:20]), **content)
    return root


def write_batches(root, labels):
    """torchvision's layout, with the human labels beside it."""
    images, truth = cifar_arrays()
    flat = images.transpose(0, 3, 1, 2).reshape(TRAINED, -1)
    truth = truth["clean"].tolist()
    size = TRAINED // 5
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    parts = {f"data_batch_{k + 1}": slice(k * size, (k + 1) * size) for k in range(5)}
    for name, part in {**parts, "test_batch": slice(0, 20)}.items():
        content = {"data": flat[part], "labels": truth[part]}
        (folder / name).write_bytes(pickle.dumps(content))
    names = {"label_names": [str(each) for each in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    torch.save(
        {LABEL_SETS[name]: values for name, values in labels.items()}, root / "CIFAR-10_human.pt"
    )


@pytest.fixture
def any_checksum(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)


@pytest.mark.usefixtures("any_checksum")
def test_both_layouts_of_cifar_give_the_same(packed, tmp_path):
    write_batches(tmp_path, cifar_arrays()[1])
    one, other = load_human_cifar(packed), load_human_cifar(tmp_path)
    assert one.images.shape == (TRAINED, 3, 32, 32)
    for name in ("images", "test_images", "test_labels"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    for name in LABEL_SETS:
        assert torch.equal(one.labels[name], other.labels[name])
    assert int((one.labels["random1"] != one.labels["clean"]).sum()) > 0


@pytest.mark.usefixtures("any_checksum")
def test_labels_of_other_images_are_refused(tmp_path):
    labels = cifar_arrays()[1]
    write_batches(tmp_path, {**labels, "clean": labels["clean"][::-1].copy()})
    with pytest.raises(ValueError, match="clean_label"):
        load_human_cifar(tmp_path)


def test_label_sets_hold_no_code(tmp_path):
    path = tmp_path / "labels.pt"
    labels = {LABEL_SETS[name]: values for name, values in cifar_arrays()[1].items()}
    torch.save({**labels, "extra": CliRunner()}, path)
    with pytest.raises(ValueError, match="arrays of labels alone"):
        load_label_sets(path)
    torch.save({"clean_label": np.arange(3)}, path)
    with pytest.raises(ValueError, match="aggre_label, random_label1"):
        load_label_sets(path)


def test_a_folder_without_cifar_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar10n\.npz"):
        load_human_cifar(tmp_path)


def test_tasks_of_faces(fer_plus):
    folders = Folders(fer_plus=fer_plus)
    given, votes, majority, annotators = (
        make_task(name, "small-resnet", 0, 0, folders)
        for name in ("fer2013", "fer-votes", "fer-majority", "fer-annotators")
    )
    # A test face that is in the training set goes, and one without a majority.
    assert [len(each.test_labels) for each in (given, votes)] == [TESTED - 2] * 2
    torch.testing.assert_close(given.test_votes.amax(1), torch.full((TESTED - 2,), 0.8))
    assert int((given.labels != given.truth.argmax(1))[given.is_known].sum()) == 28
    assert int((~given.is_known).sum()) == 1
    torch.testing.assert_close(votes.labels, votes.truth)
    assert torch.equal(majority.labels, majority.truth.argmax(1))
    assert len(majority.labels) == len(annotators.labels) == TRAINED - 1
    few = make_task("fer2013", "small-resnet", 20, 1, folders)
    assert few.inputs.shape == (20, 1, 48, 48)


def test_annotators_give_votes_of_the_face(fer_plus):
    faces = load_human_faces(fer_plus)
    given = drawn_annotators(faces, seed=0)
    votes = faces.votes[given.chosen]
    assert ((given.annotators >= 0).sum(1) == 3).all()
    counts = torch.stack([(given.annotators == c).sum(1) for c in range(7)], 1)
    assert (counts <= votes).all()
    is_minority = counts.gather(1, votes.topk(2).indices[:, 1:])
    # Two of ten votes: .6 of three on average.
    assert is_minority.double().mean() == pytest.approx(0.6, abs=0.15)
    assert (counts.gather(1, given.labels.unsqueeze(1)).squeeze(1) == counts.amax(1)).all()
    other = drawn_annotators(faces, seed=1)
    assert not torch.equal(given.annotators, other.annotators)
    assert torch.equal(shares_of_votes(faces, 0).labels.argmax(1), votes.argmax(1))


def test_labels_of_cifar(packed):
    task = make_task("cifar-random1", "small-resnet", 0, 0, Folders(cifar=packed))
    wrong = task.labels != task.truth.argmax(1)
    assert int(wrong.sum()) == int((cifar_arrays()[1]["clean"][::5] != 3).sum())
    assert task.is_known is None  # all are
    assert task.test_votes is None
    assert [each.shape[-1] for each in task.network.views(task.inputs, 2)] == [32, 32]
    with pytest.raises(ValueError, match="`fer_plus` must be a folder for fer2013; got None"):
        make_task("fer2013", "small-resnet", 0, 0, Folders(cifar=packed))


def small_human_task(count=300):
    """Embeddings of three classes and of their mirrored images, 30 % of the labels wrong."""
    task = make_small_task(count)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.stack([task.inputs, task.inputs + 0.1 * torch.randn(count, 8)], 1)
    wrong = torch.rand(count, generator=generator) < 0.3
    labels = torch.where(wrong, (task.labels + 1) % 3, task.labels)
    return task._replace(
        inputs=inputs,
        labels=labels,
        test_inputs=inputs[:, :1],
        network=perceptron_on_embeddings(8),
    )


@pytest.mark.parametrize("name", ON_HUMAN_LABELS)
def test_each_method_learns_in_its_budget(name):
    torch.manual_seed(0)
    task = small_human_task(1300)
    method = ON_HUMAN_LABELS[name](task, 16)
    assert method.epochs == (8 if name in TWO_VIEWS else 16)
    train(method, task)
    log_probs = predict(method, task.test_inputs)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(1300))
    assert (log_probs.argmax(1) == task.test_labels).float().mean() > 0.75
    assert wrong_label_measures(method, task, method.trust())["wrong_label_auroc"] > 0.8
    measures = human_label_measures(method, task)
    assert ("primary_nll" in measures) == name.startswith("ours")


@pytest.mark.parametrize("name", ON_HUMAN_LABELS)
def test_each_method_takes_one_epoch_and_soft_labels(name):
    torch.manual_seed(0)
    task = small_human_task()
    task = task._replace(labels=(task.truth + 0.1) / 1.3)
    method = ON_HUMAN_LABELS[name](task, 1)
    train(method, task)
    assert predict(method, task.test_inputs).isfinite().all()


def test_labels_that_were_not_trained_on_are_not_judged():
    torch.manual_seed(0)
    task = small_human_task()  # two of its batches have 128 samples, and 44 are left out
    method = ON_HUMAN_LABELS["ours"](task, 1)
    train(method, task)
    assert int(method.trust().isnan().sum()) == 44
    found = wrong_label_measures(method, task, method.trust())
    assert 0 <= found["wrong_label_auroc"] <= 1


def test_the_noise_of_wrong_labels_is_learned():
    """A label that the network is sure is wrong gets u and v; a right one does not."""
    torch.manual_seed(0)
    method = ON_HUMAN_LABELS["SOP"](small_human_task(), 40)
    method.noise = [torch.full_like(each, 0.01) for each in method.noise]
    index = torch.tensor([0, 1])
    labels = method.shares[index]
    logits = (8 * torch.stack([labels[0], 1 - labels[1]])).requires_grad_()
    for _ in range(20):
        method.noisy_loss(index, logits).backward()
    u, v = method.noise
    right, wrong = (float(u[row][method.shares[row] > 0].abs()) for row in (0, 1))
    assert right < 0.05 < 0.5 < wrong
    assert v[1].abs().max() > 0.5
    assert v[0].abs().max() < 0.05
    assert (u[2:] == 0.01).all()


def test_a_mixture_of_losses_trusts_small_ones():
    method = ON_HUMAN_LABELS["DivideMix"](small_human_task(), 20)
    right = torch.arange(300) % 4 > 0
    likely = torch.where(right.unsqueeze(1), method.shares, 1 - method.shares)
    method.probs = (8 * likely + torch.rand(300, 3)).softmax(1)
    method.begin_epoch(method.warmup)
    assert torch.equal(method.trusted > 0.5, right)


def test_progressive_stopping_learns_the_last_layers_anew():
    method = ON_HUMAN_LABELS["PES"](small_human_task(), 20)
    weights = [each for each in method.network if isinstance(each, torch.nn.Linear)]

    def changed(epoch):
        before = [each.weight.detach().clone() for each in weights]
        method.begin_epoch(epoch)
        trained = [each.weight.requires_grad for each in weights]
        pairs = zip(before, weights, strict=True)
        return trained, [not torch.equal(one, other.weight) for one, other in pairs]

    assert method.fitted == 3
    assert changed(2) == ([True] * 3, [False] * 3)
    assert changed(3) == ([False, True, True], [False, True, True])
    assert changed(4) == ([False, False, True], [False, False, True])
    method.probs = method.shares.roll(1, 0)
    assert changed(5) == ([True] * 3, [False] * 3)
    agrees = method.shares.argmax(1) == method.shares.roll(1, 0).argmax(1)
    assert torch.equal(method.trusted, agrees.float())


def test_views_of_images_are_other_crops_and_predictions_see_the_middle():
    torch.manual_seed(0)
    network = residual(1, crop=6, margin=2)
    images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    first, second = network.views(images, 2)
    assert first.shape == second.shape == (4, 1, 6, 6)
    assert not torch.equal(first, second)
    torch.testing.assert_close(network.plain(images), (images[..., 1:7, 1:7] / 255 - 0.5) / 0.25)


def test_views_of_embeddings_are_the_image_and_its_mirrored_one():
    torch.manual_seed(0)
    network = perceptron_on_embeddings(2)
    embeddings = torch.randn(50, 2, 2).half()
    first, second = network.views(embeddings, 2)
    torch.testing.assert_close(first + second, embeddings.float().sum(1))
    is_plain = (first == embeddings[:, 0]).all(1)
    assert 0.2 < is_plain.float().mean() < 0.8
    assert torch.equal(network.plain(embeddings), embeddings[:, 0].float())


def test_embeddings_are_kept_and_those_of_other_images_refused(monkeypatch, tmp_path):
    calls = []

    def network(images):
        calls.append(images.shape)
        return images.float().mean((2, 3))

    monkeypatch.setattr(image_embeddings, "pretrained_network", lambda: network)
    images = torch.randint(256, (5, 1, 48, 48), dtype=torch.uint8)
    for _ in range(2):
        train, test = image_embeddings.load_embeddings(tmp_path, "fer", images, images[:2])
    assert len(calls) == 3
    assert train.shape == (5, 2, 3)
    torch.testing.assert_close(test[:, 0], train[:2, 0])
    with pytest.raises(ValueError, match=r"fer\.pt must be of these images"):
        image_embeddings.load_embeddings(tmp_path, "fer", images.flip(0), images[:2])


def test_predictions_are_judged_for_the_frequencies_that_they_are_for():
    torch.manual_seed(0)
    labels, counts = torch.arange(60) % 3, torch.tensor([40, 15, 5])
    even = torch.randn(60, 3).log_softmax(1)
    frequent = (even + counts.log()).log_softmax(1)
    votes = torch.rand(60, 3)
    votes /= votes.sum(1, keepdim=True)
    judged = [
        measures_by_frequency(each, labels, counts, for_even_classes=is_even, votes=votes)
        for each, is_even in ((even, True), (frequent, False))
    ]
    assert judged[0] == pytest.approx(judged[1], rel=1e-5)
    right = (frequent.argmax(1) == labels).double().mean()
    assert judged[0]["accuracy"] == pytest.approx(100 * float(right))
    tested = (even + torch.tensor([20.0]).log()).argmax(1)  # all three are as frequent
    right = 100 * (tested == labels).double().mean()
    assert judged[0]["accuracy_at_test_frequencies"] == pytest.approx(float(right))
    evenly = [(even.argmax(1) == labels)[labels == c].double().mean() for c in range(3)]
    assert judged[0]["mean_class_accuracy"] == pytest.approx(100 * float(sum(evenly) / 3))
    kl = (votes * (votes.log() - frequent)).sum(1).mean()
    assert judged[0]["kl_to_votes"] == pytest.approx(float(kl), rel=1e-5)


@pytest.mark.parametrize(("task", "number"), [("fer-annotators", 19), ("cifar-random1", 17)])
def test_runs_are_judged_and_rendered(fer_plus, packed, tmp_path, task, number):
    folders = Folders(fer_plus, packed)
    runs = [Run(task, "small-resnet", name, 0, 2, 0) for name in ("cross-entropy", "ours")]
    lines = [do_run(run, folders) for run in runs]
    assert len([name for name in lines[1] if name not in Run._fields]) == number
    write_text(tmp_path / "human_labels.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["human_labels", "--render-only", "--results", str(tmp_path)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    assert f"## {task}, small-resnet, all samples, 2 epochs" in shown.output
    assert shown.output.count("\n| cross-entropy | 1 |") == 1
    assert "| ours | cross-entropy |" in (tmp_path / "human_labels.md").read_text()


def test_learning_rates_are_judged_on_what_was_not_trained_on(
    fer_plus, packed, monkeypatch, tmp_path
):
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    monkeypatch.setattr(
        image_embeddings, "pretrained_network", lambda: lambda images: network(images.float())
    )
    monkeypatch.setattr(training, "BATCH_SIZE", 32)
    folders = Folders(fer_plus, packed, tmp_path)
    task = make_task("fer2013", "embeddings", 0, 0, folders)
    part = human_learning_rates.split(task)
    count = len(task.labels) * 4 // 5
    assert torch.equal(part.inputs, task.inputs[:count])
    known = task.is_known[count:]
    assert torch.equal(part.test_inputs, task.inputs[count:][known])
    assert torch.equal(part.test_labels, task.truth[count:][known].argmax(1))
    runs = [
        human_learning_rates.Run("fer2013", "cross-entropy", rate, 0)
        for rate in human_learning_rates.RATES
    ]
    lines = [human_learning_rates.do_run(run, folders) for run in runs]
    text = human_learning_rates.report(pd.DataFrame(lines))
    best = max(line["accuracy"] for line in lines)
    assert f"**{best:.1f}**" in text
    assert text.count("| GCE | nan | nan | nan |") == 2


def test_differences_are_paired_with_the_best_method_of_as_many_views():
    base = {"task": "fer2013", "network": "small-resnet", "samples": 0, "epochs": 20}
    accuracies = {"ELR": 75.0, "GCE": 70.0, "SOP+": 77.0, "ours": 76.0, "ours, two views": 76.5}
    lines = [
        base | {"method": method, "seed": seed, "accuracy": accuracy + seed, "ece": accuracy / 5}
        for method, accuracy in accuracies.items()
        for seed in range(3)
    ]
    for line in lines:
        if line["method"].startswith("ours"):
            line |= {"primary_accuracy": line["accuracy"] - line["seed"], "primary_ece": 16.0}
    text = report(pd.DataFrame(lines))
    assert "| ELR | 3 | 76.0 ± 2.5 | 15.0 ± 0.0 |" in text
    assert "| ours | ELR | **+1.0 ± 0.0** | *+0.2 ± 0.0* |" in text
    assert "| ours, two views | SOP+ | *-0.5 ± 0.0* | **-0.1 ± 0.0** |" in text
    assert "| ours | 3 | +1.0 ± 2.5 | **-0.8 ± 0.0** |" in text


def test_what_is_unknown_or_missing_is_refused(fer_plus):
    for arguments, message in (
        (["--fer-plus", str(fer_plus), "--task", "cifar-aggre"], "got cifar-aggre"),
        (["--fer-plus", str(fer_plus), "--network", "embeddings"], "--cache must name"),
        (["--fer-plus", str(fer_plus), "--method", "none"], "got none"),
    ):
        shown = CliRunner().invoke(app, ["human_labels", *arguments])
        assert shown.exit_code == 2
        assert message in shown.output
