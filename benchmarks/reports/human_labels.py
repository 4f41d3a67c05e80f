"""Tables of the benchmark on human labels."""

from collections.abc import Iterator

import pandas as pd

from benchmarks.data.human_tasks import NETWORKS, TASKS
from benchmarks.methods.compared import ON_HUMAN_LABELS, TWO_VIEWS, WITHOUT
from benchmarks.tables import (
    TORCH,
    Measure,
    Measures,
    by_accuracy,
    known,
    markdown,
    means,
    page,
    paired,
)

TIME = {"cpu_seconds": Measure("CPU seconds", ".0f", is_gain=False)}
MEASURES = {
    "accuracy": Measure("accuracy %"),
    "mean_class_accuracy": Measure("mean class accuracy %"),
    "accuracy_at_test_frequencies": Measure("accuracy at test frequencies %"),
    "nll": Measure("NLL", ".3f", is_gain=False),
    "ece": Measure("ECE %", is_gain=False),
    "aurc": Measure("AURC %", ".2f", is_gain=False),
    "kl_to_votes": Measure("KL to votes", ".3f", is_gain=False),
    "wrong_label_auroc": Measure("AUROC wrong labels", ".3f"),
    "wrong_label_ap": Measure("AP wrong labels", ".3f"),
}
INTRODUCTION = f"""\
By `python -m benchmarks human_labels`, from `human_labels.jsonl`. Means of the last epoch, ± 95 %
intervals by Student's t over seeds; differences are paired by seed, **bold** where significantly
better and *italic* where significantly worse. All methods have the same network, augmentation,
optimizer and number of forward passes; those with two views train for half the epochs. Accuracy,
NLL, ECE, AURC and KL are at the class frequencies of the training labels, mean class accuracy at
even ones, and accuracy at test frequencies at those of the test set. FER tasks are evaluated on the
majority of FER+'s votes, without test faces that are in the training set; wrong labels are counted
where more than five of ten votes agree. {TORCH}."""
Methods = dict[str, pd.DataFrame]
Row = list[object]


def report(runs: pd.DataFrame) -> str:
    """Format a table of each setting, with paired differences."""
    places = {"task": TASKS, "network": NETWORKS}
    ordered = runs.astype({name: pd.CategoricalDtype(all_) for name, all_ in places.items()})
    settings = ordered.groupby(["task", "network", "samples", "epochs"], observed=True)
    parts = [INTRODUCTION]
    for (task, network, samples, epochs), setting in settings:
        size = f"{samples:,} samples" if samples else "all samples"
        parts += [f"## {task}, {network}, {size}, {epochs} epochs", *tables(setting)]
    return page("Human labels", *parts)


def tables(setting: pd.DataFrame) -> Iterator[str]:
    """All methods, and three tables of differences where there are any."""
    methods, measures = by_accuracy(setting), known(setting, MEASURES)
    timed = TIME if "cpu_seconds" in setting and setting["cpu_seconds"].notna().any() else {}
    columns = {**measures, **timed}
    rows = [[name, len(runs), *means(runs, columns)] for name, runs in methods.items()]
    yield markdown(["method", "seeds", *(each.title for each in columns.values())], rows)
    for title, second, found in (
        (
            "Ours less the most accurate other method with as many views or fewer",
            "other",
            ahead(methods, measures),
        ),
        ("What each part brings: ours less ours without it", "seeds", parts(methods, measures)),
        ("Corrected less primary", "seeds", corrected(methods, measures)),
    ):
        if differences := list(found):
            yield f"{title}:"
            heads = ["method", second, *(each.title for each in measures.values())]
            yield markdown(heads, differences)


def ahead(methods: Methods, measures: Measures) -> Iterator[Row]:
    """Ours less the most accurate other method; `methods` are in the order of their accuracy."""
    for ours in ON_HUMAN_LABELS:
        others = (
            other
            for other in methods
            if not other.startswith("ours") and (ours in TWO_VIEWS or other not in TWO_VIEWS)
        )
        if ours in methods and ours.startswith("ours") and (best := next(others, None)):
            yield [ours, best, *differences(methods[ours], methods[best], measures)]


def parts(methods: Methods, measures: Measures) -> Iterator[Row]:
    """Ours less ours without one part."""
    for method in WITHOUT:
        if {method, "ours"} <= methods.keys():
            without = methods[method]
            yield [method, len(without), *differences(methods["ours"], without, measures)]


def corrected(methods: Methods, measures: Measures) -> Iterator[Row]:
    """The predictions of ours less those of its primary branch."""
    for method in ON_HUMAN_LABELS:
        if method in methods and method.startswith("ours"):
            runs = methods[method]
            yield [method, len(runs), *differences(runs, runs, measures, "primary_")]


def differences(
    ours: pd.DataFrame, theirs: pd.DataFrame, measures: Measures, prefix: str = ""
) -> list[str]:
    """Return paired differences, marked if significant; "-" where there are none."""
    return [
        paired(ours, theirs, name, prefix + name).marked(
            each.spec.replace(".", "+."), is_gain=each.is_gain
        )
        if prefix + name in theirs
        else "-"
        for name, each in measures.items()
    ]
