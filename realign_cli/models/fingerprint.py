"""What a model's answers depend on beside its input, as one hash."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn


def fingerprint(model: nn.Module, *settings: str) -> str:
    """SHA-256 over every weight and buffer as loaded (name, type, shape, bytes), the class, and `settings`.

    It is taken of the weights in memory, so that it cannot be fooled by a checkpoint that changed behind its name.
    """
    digest = hashlib.sha256(json.dumps([type(model).__name__, *settings]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
