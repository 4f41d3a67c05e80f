"""Train a balancer on a table alone, find its wrong labels, and see what they cost.

    python examples/tabular.py --table wine --rate 0.3

There is no network: the columns are the embedding. The same works for stored embeddings of text or
sound. The tables are those that scikit-learn ships.
"""

from typing import Annotated, Literal

import torch
import typer
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from reliability_balance import ReliabilityBalancer
from reliability_balance.inspection import LabelRanking, inspect_embeddings, rank_labels
from reliability_balance.label_noise import symmetric_noise

TABLES = {"breast-cancer": load_breast_cancer, "wine": load_wine}


def accuracy(features: Tensor, labels: Tensor, test: tuple[Tensor, Tensor]) -> float:
    """Train a balancer on features and labels, and return its accuracy on the test part."""
    torch.manual_seed(0)
    balancer = ReliabilityBalancer(features.shape[1], int(labels.max()) + 1, head="linear")
    balancer.fit_head(features, labels, epochs=20)
    balancer.eval()
    with torch.inference_mode():
        return float((balancer(test[0]).corrected.argmax(-1) == test[1]).float().mean())


def without_doubted(ranking: LabelRanking) -> Tensor:
    """Samples whose label is more likely right than wrong."""
    return ranking.sample[ranking.doubt < 0.5]


def main(
    table: Annotated[Literal["breast-cancer", "wine"], typer.Option()] = "breast-cancer",
    rate: Annotated[float, typer.Option(min=0, max=1, help="Share of wrong labels.")] = 0.3,
    seed: int = 0,
) -> None:
    """Make labels of a table wrong, rank them by doubt, and train with and without the doubted."""
    rows, classes = TABLES[table](return_X_y=True)
    train_rows, test_rows, train_classes, test_classes = train_test_split(
        rows, classes, test_size=0.3, stratify=classes, random_state=seed
    )
    scaler = StandardScaler().fit(train_rows)
    features, test_features = (
        torch.from_numpy(scaler.transform(each)).float() for each in (train_rows, test_rows)
    )
    true_labels, test = torch.from_numpy(train_classes), torch.from_numpy(test_classes)
    num_classes = int(true_labels.max()) + 1
    labels = symmetric_noise(true_labels, rate, num_classes, seed=seed)

    targets = inspect_embeddings(features, labels, num_classes, seed=seed)
    ranking = rank_labels(targets, labels)
    kept = without_doubted(ranking)
    judged = (test_features, test)
    wrong = (labels != true_labels)[ranking.sample]
    print(
        f"{table}: {len(labels)} rows, {int(wrong.sum())} labels wrong\n"
        f"wrong labels found, AUROC {roc_auc_score(wrong, ranking.doubt):.3f}\n"
        f"test accuracy, trained on all labels {accuracy(features, labels, judged):.3f}, "
        f"without {len(labels) - len(kept)} doubted ones "
        f"{accuracy(features[kept], labels[kept], judged):.3f}"
    )


if __name__ == "__main__":
    typer.run(main)
