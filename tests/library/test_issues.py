"""Issues of a training set: planted ones are found, and cleanlab finds the same duplicates."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reliability_balance.labels import (
    CHECKS,
    Check,
    CheckInput,
    CheckResult,
    NearDuplicates,
    Outliers,
    RefurbishedTargets,
    WeakGroups,
    embedding_beliefs,
    find_issues,
    inspect_embeddings,
    issue_checks,
    rank_labels,
)
from reliability_balance.labels.issue_checks import _deviation, _linked, nearest_samples

NUM_CLASSES, COUNT, WIDTH = 3, 600, 16


def draw(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def planted():
    """Three classes with two outliers, two sets of duplicates, wrong labels, and a weak class."""
    classes = torch.arange(COUNT) % NUM_CLASSES
    embeddings = draw(COUNT, WIDTH) + 6 * torch.nn.functional.one_hot(classes, WIDTH)
    embeddings[10], embeddings[20] = 12 * draw(WIDTH, seed=1), -12 * draw(WIDTH, seed=2)
    embeddings[31] = embeddings[30]
    embeddings[42] = embeddings[40] + 1e-3
    embeddings[44] = embeddings[40] - 1e-3
    labels = classes.clone()
    labels[[6, 9, 100]] = (classes[[6, 9, 100]] + 1) % NUM_CLASSES
    ambiguous = (classes == 2).nonzero().squeeze(1)[5:50]
    labels[ambiguous] = 0  # labelled 0, and predicted 2
    targets = inspect_embeddings(embeddings, labels, NUM_CLASSES)
    return targets, labels, embeddings


@pytest.fixture(scope="module")
def issues(planted):
    return find_issues(*planted, metric="euclidean")


def neighbours_by_loops(points, is_cosine):
    """Distances to the nearest ten others, one pair at a time."""
    rows = []
    for i, one in enumerate(points.double()):
        distances = []
        for j, other in enumerate(points.double()):
            if i != j:
                square = float(((one - other) ** 2).sum())
                distances.append(square / 2 if is_cosine else math.sqrt(square))
        rows.append(sorted(distances)[:10])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("is_cosine", [False, True])
@pytest.mark.parametrize("count", [2, 7, 40])
def test_nearest_samples_against_loops(count, is_cosine):
    points = torch.nn.functional.normalize(draw(count, 4) + 3, dim=-1)
    found, distances = nearest_samples(points, is_cosine)
    torch.testing.assert_close(
        distances.double(), neighbours_by_loops(points, is_cosine), rtol=1e-4, atol=1e-7
    )
    between = (points.unsqueeze(1) - points[found]).square().sum(-1)
    torch.testing.assert_close(between / 2 if is_cosine else between.sqrt(), distances)
    assert not (found == torch.arange(count).unsqueeze(1)).any()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_duplicates_far_from_the_mean_and_beside_a_huge_row(metric):
    """In float32, |x|^2 of such points is coarser than their distances."""
    labels = torch.arange(COUNT) % 2
    embeddings = draw(COUNT, 8) + 3000.0 * (2 * labels[:, None] - 1)
    pairs = [(0, 100), (1, 101), (2, 202)]
    for first, second in pairs:
        embeddings[second] = embeddings[first]
    targets = inspect_embeddings(embeddings, labels, 2)
    for value in (0.0, 1e8, 1e20):
        points = embeddings.clone()
        if value:
            points[7] = torch.tensor([value, -value] * 4)
        issues = find_issues(targets, labels, points, metric=metric)
        sets = [group.samples for group in issues.found["near_duplicate"].groups]
        assert all(any(set(pair) <= set(each) for each in sets) for pair in pairs)
        assert metric == "cosine" or sets == pairs
        assert not value or issues.found["outlier"].is_issue[7]


def test_blocks_do_not_change_the_neighbours(monkeypatch):
    points = draw(50, 4)
    whole = nearest_samples(points, is_cosine=False)
    monkeypatch.setattr(embedding_beliefs, "PRODUCT_BLOCK", 120)
    monkeypatch.setattr(issue_checks.blocks.__module__ + ".BLOCK", 90)
    for part, other in zip(nearest_samples(points, is_cosine=False), whole, strict=True):
        torch.testing.assert_close(part, other)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_linked_against_a_search(pairs):
    """Sets are what a breadth-first search reaches."""
    neighbours = {sample: {sample} for sample in range(12)}
    for first, second in pairs:
        neighbours[first].add(second)
        neighbours[second].add(first)
    expected = []
    for sample in range(12):
        reached = {sample}
        while (wider := set().union(*(neighbours[each] for each in reached))) != reached:
            reached = wider
        expected.append(min(reached))
    first, second = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    assert _linked(first, second, 12).tolist() == expected


def test_planted_issues_are_found(issues):
    assert set(issues.worst("outlier")[:2].tolist()) == {10, 20}
    sets = [group.samples for group in issues.found["near_duplicate"].groups]
    assert sets == [(30, 31), (40, 42, 44)]
    assert issues.found["near_duplicate"].details["near_duplicate_set"][
        [30, 31, 44, 0]
    ].tolist() == [
        30,
        30,
        40,
        -1,
    ]
    assert {6, 9, 100} <= set(issues.worst("label").tolist())
    weak = issues.found["underperforming_group"].groups
    classes = [group for group in weak if group.kind == "class"]
    assert [group.index for group in classes] == [0]
    assert classes[0].low <= classes[0].agreement <= classes[0].high < classes[0].others
    assert (
        issues.found["underperforming_group"].is_issue[issues.columns()["given_label"] == 0].all()
    )


def test_few_ordinary_samples_are_called_outliers():
    """The share is about the one that is asked for."""
    embeddings, labels = draw(3000, 32), torch.arange(3000) % 2
    embeddings[:, 0] += 5 * labels
    targets = inspect_embeddings(embeddings, labels, 2)
    for rate in (0.01, 0.1):
        found = find_issues(targets, labels, embeddings, checks=[Outliers(rate)]).found["outlier"]
        assert 0.3 * rate < found.is_issue.double().mean() < 2 * rate


@pytest.mark.parametrize("width", [2, 3, 8, 64])
def test_no_more_outliers_than_asked_for_in_any_dimension(width):
    points, labels = draw(3000, width), torch.zeros(3000, dtype=int)
    ranking = SimpleNamespace(suggested=labels)
    near = nearest_samples(points, False)
    samples = CheckInput(points, False, *near, ranking, labels, seed=0)
    assert Outliers(0.01)(samples).is_issue.double().mean() < 0.015


def test_deviation_against_scipy():
    """The score of a shifted log-normal distribution with these three quantiles."""
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for logs in (generator.exponential(size=101), -generator.exponential(size=101)):
        found = _deviation(torch.from_numpy(np.exp(logs)))
        low, middle, high = np.quantile(logs, [0.16, 0.5, 0.84], method="inverted_cdf")
        sigma = np.log((high - middle) / (middle - low))
        if sigma > 0:
            scale = (high - middle) / np.expm1(sigma)
            fitted = stats.lognorm(sigma, loc=middle - scale, scale=scale)
        else:
            fitted = stats.norm(middle, high - middle)
        np.testing.assert_allclose(
            torch.special.ndtr(-found), fitted.sf(logs), rtol=1e-3, atol=1e-5
        )
    assert _deviation(torch.zeros(5)).tolist() == [0.0] * 5


def test_no_group_is_weak_by_chance():
    """Predictions of even quality: at most one false alarm in twenty data sets."""
    alarms = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randint(4, (1000,), generator=generator)
        agrees = torch.rand(1000, generator=generator) < 0.7
        predicted = torch.where(agrees, truth, (truth + 1) % 4)
        points, ranking = (
            draw(1000, 3, seed=seed),
            SimpleNamespace(given=truth, caution="", class_name=str),
        )
        samples = CheckInput(points, False, truth[:, None], truth[:, None], ranking, predicted, 0)
        alarms += bool(WeakGroups(margin=0.0)(samples).is_issue.any())
    assert alarms <= 1


def test_the_limits_are_wilsons():
    inside = torch.tensor([1.0] * 7 + [0.0] * 3)
    group = issue_checks._group("class", 0, "cat", inside, torch.ones(5), 1.96)
    # Wilson's 95 % interval of 7 in 10.
    assert group.low == pytest.approx(0.3968, abs=1e-4)
    assert group.high == pytest.approx(0.8922, abs=1e-4)
    assert group.others == 1.0
    # Newcombe's: 1 - 0.7 - hypot(1 - 5 / (5 + 1.96 ** 2), 0.8922 - 0.7)
    assert group.gap == pytest.approx(0.3 - math.hypot(0.4345, 0.1922), abs=1e-4)


def test_one_sample_against_another_is_no_weak_group():
    given = torch.tensor([0, 1])
    ranking = SimpleNamespace(given=given, caution="", class_name=str)
    predicted = torch.tensor([0, 0])
    points = draw(2, 3)
    samples = CheckInput(points, False, given[:, None], given[:, None], ranking, predicted, seed=0)
    assert not WeakGroups()(samples).is_issue.any()


def test_noise_has_no_weak_groups_and_no_wrong_labels():
    """Classes of 30 % and 70 %: the rarer one is predicted less often, by chance alone."""
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        labels = (torch.rand(1000, generator=generator) < 0.3).long()
        embeddings = draw(1000, 8, seed=seed)
        targets = inspect_embeddings(embeddings, labels, 2)
        with pytest.warns(UserWarning, match="no verdicts"):
            issues = find_issues(targets, labels, embeddings)
        assert not issues.found["label"].is_issue.any()
        assert not issues.found["underperforming_group"].groups


def test_duplicates_and_outliers_as_in_cleanlab():
    """Cleanlab's near-duplicates have the same score and threshold."""
    outlier = pytest.importorskip("cleanlab.outlier")
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import NearestNeighbors

    embeddings, labels = draw(400, 8), torch.arange(400) % 2
    embeddings[:, 0] += 4 * labels
    embeddings[50:60] = embeddings[:10] + 1e-3 * draw(10, 8, seed=1)
    embeddings[-20:] *= 3
    targets = inspect_embeddings(embeddings, labels, 2)
    issues = find_issues(targets, labels, embeddings, metric="euclidean")
    search = NearestNeighbors(n_neighbors=10).fit(embeddings.numpy())
    distances, _ = search.kneighbors()
    scale = np.median(distances[:, 0])
    found = issues.found["near_duplicate"]
    np.testing.assert_allclose(found.score, 1 - np.exp(-distances[:, 0] / scale), atol=1e-4)
    flagged = distances[:, 0] < NearDuplicates().threshold * scale
    assert flagged.sum() == 20
    np.testing.assert_array_equal(found.is_issue, flagged)

    theirs = outlier.OutOfDistribution(params={"knn": search}).fit_score(
        features=embeddings.numpy()
    )
    is_planted = np.arange(400) >= 380
    ours = roc_auc_score(is_planted, -issues.found["outlier"].score.numpy())
    assert ours > 0.97
    assert ours > roc_auc_score(is_planted, -theirs) - 0.02


def test_many_equal_samples_are_one_set():
    embeddings, labels = draw(200, 4), torch.arange(200) % 2
    embeddings[100:160] = embeddings[100]
    targets = inspect_embeddings(embeddings, labels, 2)
    with pytest.warns(UserWarning, match="no verdicts"):
        issues = find_issues(targets, labels, embeddings, metric="euclidean")
    (group,) = issues.found["near_duplicate"].groups
    assert group.samples == tuple(range(100, 160))
    assert str(group).endswith(", ".join("01" * 30))
    assert not issues.found["label"].is_issue.any()
    assert "no verdicts on labels" in str(issues)


def test_the_table_and_its_report(issues, planted):
    pandas = pytest.importorskip("pandas")
    table = issues.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert len(table) == len(issues) == COUNT
    assert list(table) == list(issues.columns())
    for name in ("label", "outlier", "near_duplicate", "underperforming_group"):
        assert table[f"is_{name}_issue"].dtype == bool
        assert table[f"{name}_score"].between(0, 1).all()
        flagged = table[table[f"is_{name}_issue"]]
        assert flagged[f"{name}_score"].loc[issues.worst(name).numpy()].is_monotonic_increasing
    ranking = rank_labels(*planted[:2])
    assert table["label_score"].idxmin() == int(ranking.sample[0])
    report = str(issues)
    assert "near_duplicate 5 30, 31, 40" in " ".join(report.split())
    assert "class 0: " in report


def test_the_report_has_a_line_for_each_group_whatever_its_names(issues, planted):
    names = {"class_names": ["c\nat", "d\x1b[31m", "\u202e"]}
    names["sample_names"] = [f"{each}\n" for each in range(COUNT)]
    odd = find_issues(*planted, metric="euclidean", **names)
    report = str(odd).splitlines()
    assert len(report) == len(str(issues).splitlines())
    assert all(line.isprintable() for line in report)
    assert r"  samples 30\n, 31\n: labels c\nat, d\x1b[31m" in report
    assert any(line.startswith(r"  class c\nat: ") for line in report)


def test_a_check_of_ones_own(planted):
    class Bright(Check):
        name = "bright"

        def __call__(self, samples):
            return CheckResult(samples.points[:, 0] > 10, samples.points[:, 0].sigmoid().double())

    issues = find_issues(*planted, checks=[*CHECKS, Bright()])
    assert list(issues.found)[-1] == "bright"
    assert "is_bright_issue" in issues.columns()
    with pytest.raises(ValueError, match=r"`checks` must have different names; got bright, bright"):
        find_issues(*planted, checks=[Bright(), Bright()])
    with pytest.raises(ValueError, match="`name` must be one of"):
        issues.worst("dark")


def test_tokens_soft_labels_and_metric(planted):
    targets, labels, embeddings = planted
    tokens = torch.stack([embeddings - 1, embeddings + 1], 1)
    plain, pooled = find_issues(*planted), find_issues(targets, labels, tokens)
    torch.testing.assert_close(
        plain.found["outlier"].score, pooled.found["outlier"].score, rtol=1e-3, atol=1e-4
    )
    scaled = find_issues(targets, labels, 7 * embeddings)  # cosine: lengths do not count
    torch.testing.assert_close(
        plain.found["outlier"].score, scaled.found["outlier"].score, rtol=1e-3, atol=1e-4
    )
    soft = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    given = find_issues(inspect_embeddings(embeddings, soft, NUM_CLASSES), soft, embeddings)
    assert torch.equal(given.columns()["given_label"], labels)


def test_nothing_global_is_drawn(planted):
    before = torch.random.get_rng_state()
    first, second = find_issues(*planted), find_issues(*planted)
    assert torch.equal(before, torch.random.get_rng_state())
    for name, column in first.columns().items():
        assert torch.equal(column, second.columns()[name]), name


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"embeddings": draw(3, 4)}, ValueError, "`embeddings` must be of the 600 samples"),
        (
            {"embeddings": torch.zeros(600, 4, dtype=int)},
            TypeError,
            "`embeddings` must have a floating",
        ),
        ({"embeddings": draw(600)}, ValueError, r"`embeddings` must have shape \(N, D\)"),
        (
            {"embeddings": torch.full((600, 4), torch.nan)},
            ValueError,
            "`embeddings` must be finite",
        ),
        ({"metric": "manhattan"}, ValueError, "`metric` must be one of"),
        (
            {"targets": RefurbishedTargets(600, 3)},
            ValueError,
            "`targets` must have seen all samples",
        ),
        ({"labels": torch.zeros(5, dtype=int)}, ValueError, "`labels` of dtype int64 must"),
    ],
)
def test_errors_name_the_argument(planted, change, error, message):
    arguments = dict(zip(("targets", "labels", "embeddings"), planted, strict=True))
    with pytest.raises(error, match=message):
        find_issues(**(arguments | change))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Outliers(0.0), "`false_alarm_rate` must lie in"),
        (lambda: NearDuplicates(-1.0), "`threshold` must be at least 0"),
        (lambda: WeakGroups(margin=1.0), "`margin` must lie in"),
        (lambda: WeakGroups(level=1.0), "`level` must lie in"),
    ],
)
def test_settings_of_checks(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Lab:
    """Stand-in for a Datalab that keeps what it is given."""

    def __init__(self, labels):
        pandas = pytest.importorskip("pandas")
        self.labels, self.has_labels, self.given = labels.numpy(), True, {}
        self.data_issues = SimpleNamespace(
            issues=pandas.DataFrame({"is_label_issue": [False]}),
            issue_summary=pandas.DataFrame({"issue_type": ["label"], "score": [1.0]}),
            info={"label": {}},
            collect_issues_from_issue_manager=self.collect,
            set_health_score=lambda: None,
        )

    def get_info(self, name):
        return {"num_examples": len(self.labels)}

    def collect(self, manager):
        assert f"is_{manager.issue_name}_issue" not in self.data_issues.issues
        assert manager.issue_name not in self.data_issues.info
        self.given[manager.issue_name] = manager


def test_hand_over_to_a_datalab(issues, planted):
    from reliability_balance.integrations.cleanlab import fill_datalab

    lab = Lab(planted[1])
    fill_datalab(lab, issues)
    assert list(lab.given) == list(issues.found)
    assert list(lab.given["label"].issues) == ["is_label_issue", "label_score"]
    assert lab.given["label"].info["given_label"] == planted[1].tolist()
    sets = lab.given["near_duplicate"].info["near_duplicate_sets"]
    assert [sets[each] for each in (0, 30, 42)] == [[], [31], [40, 44]]
    wrong = Lab((planted[1] + (torch.arange(COUNT) == 0)) % NUM_CLASSES)
    with pytest.raises(ValueError, match=r"`lab` must have the labels of `issues`; got 1 others"):
        fill_datalab(wrong, issues)
    with pytest.raises(ValueError, match="`lab` must hold the 600 samples"):
        fill_datalab(Lab(planted[1][:5]), issues)


def test_the_report_of_cleanlabs_datalab(issues, planted, capsys):
    pytest.importorskip("datasets", reason="cleanlab[datalab] is not installed")
    from cleanlab import Datalab

    from reliability_balance.integrations.cleanlab import fill_datalab

    data = {"label": [f"class {label}" for label in planted[1].tolist()]}
    lab = Datalab(data, label_name="label", verbosity=0)
    lab.find_issues(features=planted[2].numpy(), issue_types={"near_duplicate": {}})
    fill_datalab(lab, issues)
    lab.report()
    report = capsys.readouterr().out
    for name, found in issues.found.items():
        assert f"{name} issues" in report
        summary = lab.get_issue_summary(name)
        assert int(summary["num_issues"].iloc[0]) == int(found.is_issue.sum())
    assert lab.get_issues("label")["given_label"][6] == data["label"][6]


@pytest.mark.parametrize("checks", [["outlier"], "outlier", [CHECKS[0], CHECKS]])
def test_checks_are_objects(planted, checks):
    with pytest.raises(TypeError, match="`checks` must be Check objects, such as Outliers"):
        find_issues(*planted, checks=checks)
