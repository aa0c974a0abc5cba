from __future__ import annotations

from pathlib import Path

import pytest

from bnfold.errors import UsageError
from bnfold.files.recognise import MODELS, Kind
from bnfold.files.suffixes import require_fitting_name

FOREIGN = [
    ("net.pt", Kind.SAFETENSORS, "net.safetensors", "net.safetensors"),
    ("net.PTH", Kind.ONNX, "x.onnx", "net.onnx"),
    ("net.onnx", Kind.TORCH_ZIP, "net.pt", "net.pt"),
    ("net.onnx", Kind.TORCH_PICKLE, "net.pth", "net.pt"),
    ("net.pt2", Kind.TORCH_ZIP, "net.pt", "net.pt"),
    ("net.safetensors", Kind.ONNX, "net", "net.onnx"),
]
FITTING = [
    ("out.onnx", Kind.ONNX, "net.onnx"),
    ("out.pth", Kind.TORCH_ZIP, "net.pt"),
    ("out.pt", Kind.TORCH_PICKLE, "net.pth"),
    ("out.safetensors", Kind.SAFETENSORS, "net.safetensors"),
    ("out.bin", Kind.SAFETENSORS, "net.safetensors"),
    ("out", Kind.ONNX, "net.onnx"),
    ("net.folded.pt", Kind.ONNX, "net.pt"),
]


@pytest.mark.parametrize(("target", "kind", "source", "better"), FOREIGN)
def test_a_name_that_promises_another_kind_is_refused(target: str, kind: Kind, source: str, better: str) -> None:
    with pytest.raises(UsageError, match="would not be what its name says") as refusal:
        require_fitting_name(Path(target), kind, Path(source))
    first, _, other = refusal.value.remedy.partition(", ")
    assert first == f"name it {better}"
    kinds = {".pth": "pt", ".pt": "pt", ".pt2": "pt2", ".onnx": "onnx", ".safetensors": "safetensors"}
    assert other == ("" if kind is Kind.ONNX else f"or give --to {kinds[Path(target).suffix.lower()]}")


@pytest.mark.parametrize(("target", "kind", "source"), FITTING)
def test_a_name_that_promises_nothing_else_is_taken(target: str, kind: Kind, source: str) -> None:
    require_fitting_name(Path(target), kind, Path(source))


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind in MODELS])
def test_every_kind_that_is_read_has_an_ending(kind: Kind) -> None:
    target = Path("net.pt" if kind is Kind.ONNX else "net.onnx")
    with pytest.raises(UsageError):
        require_fitting_name(target, kind, Path("net"))
