"""Imports go down the floors of the house only, and each heavy package has one home. The code is read, never run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = Path(__file__).parent.parent / "bnfold"

# From the roof to the ground. Rooms on one floor are neighbours, which never import one another.
FLOORS = (
    ("__init__", "__main__"),
    ("cli",),
    ("api", "render"),
    ("acceptance",),
    ("comparison", "conversion", "calibration", "route"),
    ("estimation",),
    ("calibrated", "reporting", "sessions"),
    ("planner", "check", "unsaved", "idle", "arguments"),
    ("rules", "formats", "runtime", "data"),
    ("core", "files"),
    ("errors", "records"),
)
LEVELS = {room: level for level, rooms in enumerate(reversed(FLOORS)) for room in rooms}

# The type of an error's report: the one word that the ground floor's rooms say to each other.
ALLOWED_BETWEEN_NEIGHBOURS = {("errors", "records")}

TORCH = ("formats/torch/*.py", "runtime/torch_eager.py")
ONNX = ("formats/onnx/*.py", "runtime/onnx_reference.py")
WITHOUT_NUMPY = ("__init__", "__main__", "errors", "records", "files", "cli", "render")
HOMES = {
    "torch": TORCH,
    "safetensors": TORCH,
    "onnx": ONNX,
    "google": ONNX,
    "ml_dtypes": ("runtime/session.py",),
    "onnxruntime": ("runtime/ort.py",),
    "pooch": ("data/*.py",),
    "rich": ("render/*.py",),
    "click": ("cli/*.py",),
}


@dataclass(frozen=True)
class Import:
    """A module that a file imports, as far as the text tells; ``only_types`` costs nothing at run time."""

    module: str
    line: int
    only_types: bool


def imports_of(source: str, package: str) -> Iterator[Import]:
    """Every import in ``source``, also inside functions; relative ones are resolved in ``package``."""
    tree = ast.parse(source)
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for module in _modules_of(node, package):
            yield Import(module, getattr(node, "lineno", 0), node in guarded)


def _modules_of(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
        base = ".".join([*parents, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
        return [str(word.value) for word in node.args[:1] if isinstance(word, ast.Constant)]
    return []


def complaints(path: PurePosixPath, source: str) -> list[str]:
    """What a file of the package, at ``path`` below it, imports against the rules."""
    if _room(path) not in LEVELS:
        return [f"{path} stands on no floor: give {_room(path)} one"]
    package = ".".join(["bnfold", *path.parent.parts])
    found = (_complaint(path, item) for item in imports_of(source, package))
    return [complaint for complaint in found if complaint]


def _complaint(path: PurePosixPath, item: Import) -> str:
    top = item.module.partition(".")[0]
    if top == "bnfold":
        return _floor_complaint(path, item)
    if item.only_types or top in sys.stdlib_module_names:
        return ""
    if top == "numpy":
        homeless = _room(path) in WITHOUT_NUMPY
    else:
        homeless = not any(path.match(home) for home in HOMES.get(top, ()))
    return f"{path}:{item.line} imports {item.module}, which has its home elsewhere" if homeless else ""


def _floor_complaint(path: PurePosixPath, item: Import) -> str:
    room, target = _room(path), [*item.module.split("."), ""][1]
    if target in {room, "__version__"} or (room, target) in ALLOWED_BETWEEN_NEIGHBOURS:
        return ""
    # bnfold itself, or one of its public names, may lead anywhere: only the roof may ask for that.
    if LEVELS[room] > LEVELS.get(target, LEVELS["__init__"]):
        return ""
    return f"{path}:{item.line} in {room} imports {item.module}, which is not below it"


def _room(path: PurePosixPath) -> str:
    return path.parts[0].removesuffix(".py")


def files() -> list[PurePosixPath]:
    return [PurePosixPath(path.relative_to(PACKAGE).as_posix()) for path in sorted(PACKAGE.rglob("*.py"))]


@pytest.mark.parametrize("path", files(), ids=str)
def test_a_file_imports_downward_and_heavy_packages_only_at_home(path: PurePosixPath) -> None:
    assert complaints(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


BAD = {
    "upward": ("core/x.py", "from bnfold.rules import RULES"),
    "upward from the package": ("core/x.py", "from bnfold import api"),
    "upward by a public name": ("check/x.py", "from bnfold import verify"),
    "upward by the package itself": ("core/x.py", "import bnfold"),
    "upward, relative": ("core/x.py", "from ..planner import plan"),
    "upward, relative to the package": ("core/x.py", "from .. import planner"),
    "upward inside a function": ("files/x.py", "def f():\n    from bnfold.render.text import to_text"),
    "upward for types": ("core/x.py", "if TYPE_CHECKING:\n    from bnfold.rules import RULES"),
    "to a neighbour": ("formats/x.py", "from bnfold.runtime.ort import OrtSession"),
    "to a neighbour, as a module": ("render/x.py", "import bnfold.api as story"),
    "torch in the kernel": ("core/kernel.py", "import torch"),
    "torch in the ONNX front end": ("formats/onnx/model.py", "def f():\n    from torch import nn"),
    "torch by name": ("check/x.py", "import_module('torch')"),
    "onnx in a neighbour's file": ("runtime/ort.py", "import onnx"),
    "rich on the command line": ("cli/x.py", "from rich.table import Table"),
    "NumPy on the command line": ("cli/x.py", "import numpy as np"),
    "a package without a home": ("core/x.py", "import pandas"),
    "a room without a floor": ("attic.py", "import json"),
    "the sample models": ("cli/demo.py", "from sample_models import NETWORKS"),
}
GOOD = {
    "downward": ("rules/x.py", "from bnfold.core import carry"),
    "downward over floors": ("cli/x.py", "from bnfold.errors import BnfoldError"),
    "downward, relative": ("formats/onnx/x.py", "from ...core.graph import Node"),
    "within the room": ("formats/onnx/x.py", "from ..opening import open_model"),
    "within the room, relative": ("formats/onnx/x.py", "from .tensors import make_tensor"),
    "the version": ("render/x.py", "from bnfold import __version__"),
    "a heavy package at home": ("formats/torch/module.py", "def f():\n    import torch.nn"),
    "a heavy package for types": ("api.py", "if TYPE_CHECKING:\n    from torch import nn"),
    "the standard library": ("errors.py", "import json.decoder"),
}


@pytest.mark.parametrize(("path", "source"), BAD.values(), ids=BAD)
def test_an_import_against_the_rules_is_caught(path: str, source: str) -> None:
    assert len(complaints(PurePosixPath(path), source)) == 1


@pytest.mark.parametrize(("path", "source"), GOOD.values(), ids=GOOD)
def test_an_import_within_the_rules_passes(path: str, source: str) -> None:
    assert complaints(PurePosixPath(path), source) == []
