"""Tables of the benchmark of doubtful labels."""

import pandas as pd

from benchmarks.tables import TORCH, interval, markdown, page, paired, unfolded
from reliability_balance.labels import KNOWN_VERDICTS

OURS = "ours"
INTRODUCTION = f"""\
By `python -m benchmarks doubtful_labels`, from the runs in `doubtful_labels.jsonl`. Means ± 95 %
intervals by Student's t over seeds from 100; settings were chosen on lower seeds. {TORCH}. Ours has
targets for short trainings: the library's defaults with `momentum=0.7, warmup=2`."""
FINDERS = """\
{seeds} seeds. Ours is one training; cleanlab needs five, for 5-fold cross-validation of the same
network. cleanlab is evaluated with both of its scores, after as many epochs as in our other
benchmarks and after as few as ours."""
HEADS = (
    *("finder", "epochs", "AUROC", "AP", "CPU s", "wall s", "CPU time of ours / finder"),
    *("AUROC of ours less finder", "AP of ours less finder"),
)


def report(runs: pd.DataFrame) -> str:
    """Format the finders, the estimated noise, and the kinds of faces."""
    parts = [INTRODUCTION]
    for data, its in runs[runs["found"].notna()].groupby("data", sort=False):
        parts += [
            f"## fashion-10k, {data}",
            FINDERS.format(seeds=len(its)),
            finders(unfolded(its, "found")),
        ]
    estimated = runs[runs["noise"].notna()]
    if not estimated.empty:
        parts += ["## Estimated share of wrong labels", *noise(estimated)]
    faces = runs[runs["ambiguous_auroc"].notna()]
    if not faces.empty:
        parts += ["## Rendered faces: mislabelled or ambiguous", *kinds(faces)]
    return page("Finding wrong labels", *parts)


def finders(found: dict[str, pd.DataFrame]) -> str:
    """Compare all finders with ours."""
    rows = []
    for finder, runs in found.items():
        epochs = str(runs["epochs"].iloc[0])
        row = [finder.removesuffix(f" {epochs}").replace("_", " "), epochs]
        row += [f"{interval(runs[name]):.3f}" for name in ("auroc", "ap")]
        row += [f"{interval(runs[name]):.1f}" for name in ("cpu", "wall")]
        if finder == OURS:
            row += ["", "", ""]
        else:
            row.append(f"{interval(found[OURS]['cpu'] / runs['cpu']):.3f}")
            row += [f"{paired(found[OURS], runs, name):.3f}" for name in ("auroc", "ap")]
        rows.append(row)
    return markdown(HEADS, rows)


def noise(runs: pd.DataFrame) -> list[str]:
    """Compare the estimated rate with the true one."""
    rows = []
    for data, its in runs.groupby("data", sort=False):
        rates = 100 * pd.DataFrame(its["noise"].tolist())
        covered = ((rates["low"] <= rates["true"]) & (rates["true"] <= rates["high"])).sum()
        means = rates.mean()
        rows.append(
            [
                *(data, f"{means['true']:.1f}", f"{interval(rates['value']):.1f}"),
                f"{means['low']:.1f} to {means['high']:.1f}",
                f"{covered} of {len(its)}",
            ]
        )
    heads = ("data", "true %", "estimate %", "mean 95 % interval", "seeds covered")
    return [
        "The interval covers sampling error only. Where it misses the true rate, the model's own "
        "errors look like wrong labels, or wrong labels like its own errors.",
        markdown(heads, rows),
    ]


def kinds(runs: pd.DataFrame) -> list[str]:
    """Separate mislabelled from ambiguous faces."""
    first = runs.iloc[0]
    rows = []
    for kind in first["verdicts"]:
        counts = pd.DataFrame([verdicts[kind] for verdicts in runs["verdicts"]])
        shares = 100 * counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
        rows.append([kind, *(f"{interval(shares[verdict]):.1f}" for verdict in KNOWN_VERDICTS)])
    aurocs = {
        "AUROC, ambiguous against mislabelled": "ambiguous_auroc",
        f"harder, {first['minority']:.0f} faces with less than 75 % for every class, and an "
        "original label that is not the most probable, against mislabelled": "minority_auroc",
        "AUROC of doubt, replaced labels against all others": "wrong_label_auroc",
    }
    return [
        f"{len(runs)} seeds, about {first['mislabelled']:.0f} mislabelled and "
        f"{first['ambiguous']:.0f} ambiguous faces each. Mislabelled: noise replaced the label by "
        "one with a probability below 5 %. Ambiguous: the label was not replaced, and no class has "
        "60 % or more.",
        "\n".join(f"- {text}: {interval(runs[name]):.3f}" for text, name in aurocs.items()),
        markdown(["truly", *(f"judged {each.name.lower()} %" for each in KNOWN_VERDICTS)], rows),
    ]
