"""Train a recipe on a table of faces, and store the run in a folder."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from examples.arbex.configuration import RunConfig, without_files
from examples.arbex.encoders import load_published
from examples.arbex.face_model import build_model
from examples.arbex.faces.augmentation import eval_transform, train_transform
from examples.arbex.faces.face_dataset import FaceDataset
from examples.arbex.faces.face_table import TRAIN, VALIDATION, FaceTable
from examples.arbex.faces.image_sources import CorruptImageError
from examples.arbex.memory import advising_out_of_memory
from examples.arbex.model_bundle import save_bundle
from examples.arbex.training.balanced_training import BalancedTraining
from examples.arbex.training.epoch_batches import EpochBatches, EpochSampler
from examples.arbex.training.run_folder import RunFolder, begin_run
from examples.arbex.training.run_identity import run_identity
from examples.arbex.training.run_keeping import MONITORED, AtomicCheckpointIO, Progress, RunKeeper
from reliability_balance import RobustLoss
from reliability_balance.data import DataRefinementSampler


def fit(
    config: RunConfig,
    table: FaceTable,
    folder: RunFolder,
    *,
    accelerator: str = "auto",
    show_progress: bool = True,
) -> RobustLoss:
    """Train from the start, or from the folder's resume point.

    With ``torchrun``, each batch is split among the processes. The run's files are written when
    everything is ready: a run that cannot be trained leaves none.

    Args:
        config: the configuration.
        table: faces with a training and a validation split.
        folder: folder of the run.
        accelerator: "auto", "cpu", "gpu" or "mps".
        show_progress: whether to show a progress bar.

    Returns:
        The loss, which knows the doubtful labels.

    Raises:
        ValueError: if a split is empty, the batch size is not a multiple of the processes, the
            recipe contradicts itself or the data, the resume point is damaged, or the loss is not
            finite.
        MemoryError: if a batch runs out of memory.
        OSError: if the disk is full; files that were saved before stay intact.
        TrainingInterrupted: after Ctrl-C or SIGTERM.
    """
    settings = config.optimization
    world_size, rank = (
        int(os.environ.get(name, d)) for name, d in (("WORLD_SIZE", 1), ("RANK", 0))
    )
    if settings.batch_size % world_size:
        raise ValueError(
            f"`batch_size` must be a multiple of the {world_size} processes; "
            f"got {settings.batch_size}"
        )
    train, validation = table.subset(TRAIN), table.subset(VALIDATION)
    for name, part in (("training", train), ("validation", validation)):
        if len(part) == 0:
            raise ValueError(f"`table` must have a {name} split; got none in {table.name}")

    torch.manual_seed(config.seed)
    module = build_training(config, train)
    transform = train_transform(config.data.image_size, config.data.augmentation)
    dataset = FaceDataset(train, transform)
    sampler = epoch_sampler(config, train, rank=rank, world_size=world_size)
    seen, targets = module.criterion.epochs, module.criterion.targets
    earliest = targets.held_for or targets.warmup
    if config.recipe.refurbishes_labels and seen <= earliest:
        warnings.warn(
            f"no label will be doubted: a face is seen {seen:.1f} times, and labels are "
            f"refurbished after {earliest} at the earliest; train longer, or set `data.per_class` "
            "to null",
            stacklevel=2,
        )
    module.identity = run_identity(config, table)
    batches = EpochBatches(
        dataset,
        sampler,
        settings.batch_size // world_size,
        seed=config.seed,
        position=module.position,
        workers=config.data.workers,
    )
    shown = FaceDataset(validation, eval_transform(config.data.image_size))
    validation_loader = DataLoader(
        shown,
        settings.batch_size,
        sampler=range(rank, len(shown), world_size),
        num_workers=config.data.workers,
    )
    keeper = RunKeeper(
        folder.checkpoint,
        folder.history,
        lambda: save_bundle(folder.model, module.model, config, table.class_names),
        every=settings.checkpoint_steps,
    )
    callbacks: list[Callback] = [keeper]
    if settings.patience is not None:
        callbacks.append(EarlyStopping(MONITORED, mode="max", patience=settings.patience))
    if show_progress:
        callbacks.append(Progress())
    if rank == 0 and not folder.has_trained:
        begin_run(config, table.corrections, folder)
    for file in (folder.checkpoint, folder.model, folder.history):
        for leftover in folder.root.glob(f".*-{file.name}"):
            leftover.unlink(missing_ok=True)  # of a killed process
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own, about torch
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        num_nodes=world_size // int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        strategy="auto" if world_size == 1 else DDPStrategy(),
        precision=settings.precision,
        max_epochs=settings.epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=TensorBoardLogger(folder.root, name="", version="tensorboard"),
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    resume_from = folder.checkpoint if folder.checkpoint.exists() else None
    advice = (
        f"lower optimization.batch_size, which is {settings.batch_size}, and raise "
        f"optimization.accumulate to compensate; {folder.root} keeps what was saved so far"
    )
    with keeper.stopping_at_interrupt(), advising_out_of_memory(advice), _advising_damage(folder):
        trainer.fit(module, batches, validation_loader, ckpt_path=resume_from)
    return module.criterion


def trained_criterion(config: RunConfig, table: FaceTable, folder: RunFolder) -> RobustLoss:
    """Return the loss of a run at its last resume point.

    Raises:
        FileNotFoundError: if the run has no resume point.
        ValueError: if data or recipe have changed, or the resume point is damaged.
    """
    if not folder.checkpoint.is_file():
        raise FileNotFoundError(
            f"`run` must be the folder of a run that trained; got {folder.root}"
        )
    state = AtomicCheckpointIO().load_checkpoint(folder.checkpoint)
    module = build_training(without_files(config), table.subset(TRAIN))
    module.identity = run_identity(config, table)
    module.on_load_checkpoint(state)
    module.load_state_dict(state["state_dict"])
    return module.criterion


@contextmanager
def _advising_damage(folder: RunFolder) -> Iterator[None]:
    """Give advice on an image that was not checked before, or was damaged since."""
    try:
        yield
    except CorruptImageError as error:
        raise CorruptImageError(
            f"{error}; fix it and continue with --resume, or start again with data.corrupt=skip; "
            f"{folder.root} keeps what was saved so far"
        ) from error


def build_training(config: RunConfig, train: FaceTable) -> BalancedTraining:
    """Build model and loss of a recipe.

    Raises:
        ValueError: if the recipe contradicts itself, or needs data that the faces do not have.
    """
    if config.recipe.logit_adjustment and config.data.per_class is not None:
        raise ValueError(
            "`recipe.logit_adjustment` must be false where `data.per_class` balances the epochs, "
            f"whose classes are even already; got true with {config.data.per_class}. Set one of "
            "them to false or null"
        )
    labels = train.labels
    if config.data.soft_labels:
        if train.distributions is None or train.distributions_are_true:
            raise ValueError(f"`data.soft_labels` needs faces with votes; {train.name} has none")
        labels = train.distributions
    model = build_model(config, len(train.class_names))
    load_published(model.encoder, config.encoder.ir50, config.encoder.mobilefacenet)
    criterion = RobustLoss(model, labels, epochs=times_seen(config, train), recipe=config.recipe)
    return BalancedTraining(
        model,
        criterion,
        config.optimization,
        seed=config.seed,
        soft_labels=config.data.soft_labels,
    )


def times_seen(config: RunConfig, train: FaceTable) -> float:
    """Return how often an average face is seen in training, over all processes."""
    epoch = len(epoch_sampler(config, train, rank=0, world_size=1))
    return config.optimization.epochs * epoch / len(train)


def epoch_sampler(
    config: RunConfig, train: FaceTable, *, rank: int, world_size: int
) -> EpochSampler:
    """Return a sampler that refines each epoch (4.2.2), or shuffles the training set."""
    if config.data.per_class is None:
        rows = TensorDataset(train.labels)
        return DistributedSampler(rows, world_size, rank, seed=config.seed, drop_last=True)
    return DataRefinementSampler(
        train.labels,
        train.groups,
        per_group=config.data.per_group,
        per_class=config.data.per_class,
        num_replicas=world_size,
        rank=rank,
        seed=config.seed,
    )
