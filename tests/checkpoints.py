"""Small checkpoints for tests, made with transformers and filed as huggingface_hub would find them."""

from __future__ import annotations

import shutil
from pathlib import Path

from ttbert.convert.wanted import BUNDLED_FOLDER


def make_checkpoint(
    folder: Path,
    *,
    hidden: int,
    heads: int,
    layers: int = 2,
    intermediate: int | None = None,
    head: bool = True,
    vocabulary: int = 9032,
    deviation: float = 0.08,
) -> Path:
    """A BERT with seeded random weights and the bundled model's tokenizer, which has 9032 words.

    The weights deviate more than at the start of a training (0.02), so that attention is not flat and mistakes in it show.
    """
    import torch
    from transformers import BertConfig, BertForQuestionAnswering, BertModel

    torch.manual_seed(hidden + heads)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate or 4 * hidden,
        initializer_range=deviation,
    )
    model = BertForQuestionAnswering(config) if head else BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter) * (0.2 if name.endswith("bias") else 1.0)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED_FOLDER / name, folder / name)
    return folder
