"""Train a scikit-learn classifier on tabular data with label noise, and find the wrong labels.

    python -m examples.tabular --table wine --rate 0.3

This also works for stored embeddings of text, images or sound. The tables come with scikit-learn.
"""

from typing import Annotated, Literal

import torch
import typer
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reliability_balance.data import symmetric_noise
from reliability_balance.integrations.sklearn import RobustClassifier

TABLES = {"breast-cancer": load_breast_cancer, "wine": load_wine}


def main(
    table: Annotated[Literal["breast-cancer", "wine"], typer.Option()] = "breast-cancer",
    rate: Annotated[float, typer.Option(min=0, max=1, help="Share of wrong labels.")] = 0.3,
    seed: int = 0,
) -> None:
    """Add label noise to a table, train on it, and rank the labels by doubt."""
    rows, classes = TABLES[table](return_X_y=True)
    train, test, true_labels, test_labels = train_test_split(
        rows, classes, test_size=0.3, stratify=classes, random_state=seed
    )
    num_classes = int(true_labels.max()) + 1
    labels = symmetric_noise(torch.from_numpy(true_labels), rate, num_classes, seed=seed).numpy()

    robust = RobustClassifier(random_state=seed).fit(train, labels)
    usual = make_pipeline(StandardScaler(), LogisticRegression()).fit(train, labels)
    ranking = robust.doubtful_labels()
    wrong = (labels != true_labels)[ranking.sample.numpy()]
    print(
        f"{table}: {len(labels)} rows, {int(wrong.sum())} labels wrong\n"
        f"wrong labels found, AUROC {roc_auc_score(wrong, ranking.doubt.numpy()):.3f}\n"
        f"test accuracy {robust.score(test, test_labels):.3f}, "
        f"logistic regression {usual.score(test, test_labels):.3f}"
    )


if __name__ == "__main__":
    typer.run(main)
