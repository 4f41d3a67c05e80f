"""Training of a really tiny model, for tests that kill, interrupt or multiply the process."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from synthetic_faces import synthetic_table  # noqa: E402

from examples.arbex.configuration import RunConfig, parse_config  # noqa: E402
from examples.arbex.training.fitting import fit  # noqa: E402
from examples.arbex.training.run_folder import RunFolder  # noqa: E402


def tiny_recipe(epochs: int = 10, **sections: dict[str, object]) -> RunConfig:
    return parse_config(
        {
            "data": {"image_size": 16, "per_class": 20, "per_group": 12},
            "encoder": {"name": "small_cnn", "options": {"width": 4}},
            "recipe": {"num_anchors": 2, "head": "mlp", "logit_adjustment": False},
            "optimization": {
                "epochs": epochs,
                "batch_size": 8,
                "checkpoint_steps": 3,
                "accumulate": 2,
                "learning_rate": 0.003,
                "patience": 6,
            },
            **sections,
        },
        where="tiny recipe",
    )


def train_tiny(folder: Path, recipe: RunConfig | None = None) -> RunFolder:
    torch.set_num_threads(1)
    run = RunFolder(folder)
    fit(recipe or tiny_recipe(), synthetic_table(), run, accelerator="cpu", show_progress=False)
    return run
