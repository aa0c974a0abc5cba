"""The kinds of files that models come in: what the reports call them, and which of them ``--to`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from bnfold.files.recognise import Kind, require_model

FORMATS: Final = {
    Kind.ONNX: "onnx",
    Kind.SAFETENSORS: "safetensors",
    Kind.SAFETENSORS_INDEX: "safetensors-shards",
    Kind.PT2: "pt2",
}
"""What the reports call the formats that a file's first bytes tell."""
KEYED: Final = frozenset({Kind.TORCH_ZIP, Kind.TORCH_PICKLE})
"""The kinds of files that hold state_dicts under keys."""
Target = Literal["onnx", "pt", "pt2", "safetensors"]
"""The kinds of files that ``--to`` writes."""
TARGETS: Final[Mapping[Target, Kind]] = {
    "onnx": Kind.ONNX,
    "pt": Kind.TORCH_ZIP,
    "pt2": Kind.PT2,
    "safetensors": Kind.SAFETENSORS,
}
OWN_TARGETS: Final[Mapping[str, Target]] = {
    "onnx": "onnx",
    "torch-state-dict": "pt",
    "safetensors": "safetensors",
    "pt2": "pt2",
}
"""By format, the target that is no other kind."""


def format_of(path: Path, *, trust_code: bool) -> str:
    """What the reports call the format of the model at ``path``; the zip of a checkpoint is a module only on trust."""
    kind = require_model(path)
    if kind in KEYED:
        return "torch-module" if trust_code else "torch-state-dict"
    return FORMATS[kind]
