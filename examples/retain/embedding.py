"""The model: WordLlama, static token embeddings of 256 dimensions. Its weights (16 MB) come with its package."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "wordllama/l2_supercat_256"
DIMENSIONS = 256


def embed_texts(texts: list[str]) -> list[str]:
    """A unit vector for each text, as pgvector reads it: ``"[0.25,...]"``.

    Each text is embedded by itself. In company it would be padded to the longest, and rounding would then make its
    vector depend on what it travelled with.
    """
    if not texts:
        return []
    vectors = np.asarray(_load_model().embed(texts, norm=False, batch_size=1), dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.maximum(norms, 1e-12)
    return ["[" + ",".join(f"{value:.7g}" for value in row) + "]" for row in units.tolist()]


@cache
def _load_model() -> Any:
    import wordllama  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs] - half a second, which a search command or a test may not need

    # The package looks for the tokenizer that it ships in a folder of another name: so its own folder is named as a cache.
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, dim=DIMENSIONS, disable_download=True)
