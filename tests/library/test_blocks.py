"""What is learned of labels is computed in blocks: the same for any size, with its progress."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reliability_balance import ReliabilityBalancer, diagnose, inspect_embeddings
from reliability_balance.data import SampleIds
from reliability_balance.labels import (
    RefurbishedTargets,
    estimate_noise,
    find_issues,
    noise_estimate,
    posterior,
    pred_probs,
    rank_labels,
    rows,
)

COUNT = 120
pytestmark = pytest.mark.filterwarnings("ignore:no verdicts|the noise estimate|labels are trained")


def trained(kind, classes):
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(COUNT) % classes
    scores = torch.randn(COUNT, classes, generator=generator)
    scores[torch.arange(COUNT), truth] += 3
    probs = scores.softmax(-1)
    size = (COUNT, 2) if kind == "annotators" else (COUNT,)
    labels = torch.randint(classes, size, generator=generator)
    keep = torch.rand(size, generator=generator) < 0.7
    labels = torch.where(keep, truth[:, None] if labels.ndim == 2 else truth, labels)
    if kind == "annotators":
        labels[::5, 1] = -1
    if kind == "soft":
        labels = 0.8 * torch.nn.functional.one_hot(labels, classes) + 0.2 * probs.roll(1, 0)
    targets = RefurbishedTargets(
        COUNT, classes, warmup=2, num_annotators=2 if kind == "annotators" else 0
    )
    for _ in range(4):
        targets(torch.arange(COUNT), labels, probs)
    return targets, labels


@pytest.mark.parametrize("kind", ["index", "soft", "annotators"])
@pytest.mark.parametrize("classes", [4, 40])
def test_estimates_do_not_depend_on_the_size_of_blocks(kind, classes, monkeypatch):
    targets, labels = trained(kind, classes)
    ids, made = SampleIds(map(str, range(COUNT))), []
    monkeypatch.setattr(noise_estimate, "MAX_STEPS", 5)
    for block, held in ((rows.BLOCK, noise_estimate.HELD), (7 * classes, 2**24), (9 * classes, 0)):
        monkeypatch.setattr(rows, "BLOCK", block)
        monkeypatch.setattr(noise_estimate, "HELD", held)
        steps, resamples = [], []
        ranking = rank_labels(targets, labels, sample_names=ids, progress=steps.append)
        noise = estimate_noise(targets, labels, num_resamples=2, progress=resamples.append)
        assert sum(steps) == COUNT
        assert len(steps) > 1 or block == rows.BLOCK
        assert sum(resamples) == 2
        frequencies = posterior.class_frequencies(labels, classes, added=1.0)
        made.append((ranking._columns(), *noise, frequencies, pred_probs(targets)))
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=0, atol=2e-5)


def test_class_frequencies_are_those_of_a_loop():
    for kind in ("index", "soft", "annotators"):
        _, labels = trained(kind, 4)
        counts = [1.0] * 4
        for row in labels.tolist():
            votes = row if kind == "soft" else [0.0] * 4
            if kind != "soft":
                given = [each for each in (row if isinstance(row, list) else [row]) if each >= 0]
                for each in given:
                    votes[each] += 1 / len(given)
            counts = [a + b for a, b in zip(counts, votes, strict=True)]
        expected = torch.tensor(counts, dtype=torch.float64) / (COUNT + 4)
        found = posterior.class_frequencies(labels, 4, added=1.0)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_probabilities_can_be_written_to_a_memory_map(tmp_path):
    targets, _ = trained("index", 40)
    out = np.lib.format.open_memmap(tmp_path / "p.npy", "w+", np.float32, (COUNT, 40))
    assert pred_probs(targets, out) is out
    out.flush()
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), pred_probs(targets), atol=1e-6)
    with pytest.raises(ValueError, match=r"`out` must have shape \(N, C\) = \(120, 40\)"):
        pred_probs(targets, np.empty((120, 4)))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="`out` must be writable"):
        pred_probs(targets, out)
    with pytest.raises(TypeError, match="`out` must be a floating array; got int64"):
        pred_probs(targets, np.empty((120, 40), np.int64))


@pytest.mark.parametrize("call", [rank_labels, estimate_noise])
def test_a_progress_that_cannot_be_called_is_refused(call):
    targets, labels = trained("index", 5)
    with pytest.raises(TypeError, match="`progress` must be callable or None; got int"):
        call(targets, labels, progress=5)
    with pytest.raises(TypeError, match="`progress` must be callable or None; got int"):
        inspect_embeddings(torch.randn(len(labels), 4), labels, 5, progress=5)


def test_tables_show_the_names_of_samples_and_classes():
    names = SampleIds(f"face {each}.png" for each in range(60))
    labels = torch.arange(60) % 2
    points = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) + 6 * labels[:, None]
    labels[8] = 1
    points[11] = points[13]
    targets = inspect_embeddings(points, labels, 2)
    classes = np.array(["cat", "dog"])
    called = {"class_names": classes, "sample_names": names}
    issues = find_issues(targets, labels, points, metric="euclidean", **called)
    assert "samples face 11.png, face 13.png: label dog" in str(issues)
    assert issues.to_pandas().index[8] == "face 8.png"
    ranking = rank_labels(targets, labels, **called)
    assert str(ranking).splitlines()[1].split()[:4] == ["face", "8.png", "dog", "cat"]
    for call in (
        lambda few: rank_labels(targets, labels, sample_names=few),
        lambda few: find_issues(targets, labels, points, sample_names=few),
    ):
        with pytest.raises(ValueError, match="`sample_names` must hold 60 names; got 59"):
            call(names[:59])
    with pytest.raises(ValueError, match="`class_names` must hold 2 names; got 3"):
        rank_labels(targets, labels, class_names=["cat", "dog", "horse"])


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["a", "a"], ValueError, "`class_names` must differ from each other; got 'a' twice"),
        (["", ""], ValueError, "`class_names` must differ from each other; got '' twice"),
        ([1, "1"], ValueError, "`class_names` must differ from each other; got '1' twice"),
        ([float("nan"), "b"], TypeError, "`class_names` must hold text or numbers; got nan"),
        (["a", None], TypeError, "`class_names` must hold text or numbers; got None"),
        (torch.tensor([1, 2]), TypeError, "`class_names` must hold text or numbers; got tensor"),
    ],
    ids=str,
)
def test_names_that_do_not_tell_classes_apart_are_refused(names, error, message):
    labels, points = torch.arange(60) % 2, torch.randn(60, 4)
    targets = inspect_embeddings(points, labels, 2)
    for call in (
        lambda: rank_labels(targets, labels, class_names=names),
        lambda: replace(rank_labels(targets, labels), class_names=names),
        lambda: find_issues(targets, labels, points, class_names=names),
        lambda: diagnose(ReliabilityBalancer(4, 2), [(points, labels)], class_names=names),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_table_has_a_line_for_each_sample_whatever_its_name():
    odd = ["a\nb", "\x1b[31m", "\ud800", "\u202e", "plain", "日本"]
    labels = torch.arange(6) % 2
    targets = RefurbishedTargets(6, 2, warmup=0)
    targets(torch.arange(6), labels, torch.full((6, 2), 0.5))
    text = str(rank_labels(targets, labels, sample_names=SampleIds(odd)))
    lines = text.encode().decode().splitlines()[1:7]
    assert sorted(line.split()[0] for line in lines) == sorted(
        [r"a\nb", r"\x1b[31m", r"\ud800", r"\u202e", "plain", "日本"]
    )
