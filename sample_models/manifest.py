"""What ships beside this file: how each network was trained, its accuracy, and its files' sizes and SHA-256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sample_models import HERE, NETWORKS, Network
from sample_models.files import read
from sample_models.jobs import labels_of
from sample_models.training import accuracy

if TYPE_CHECKING:
    from bnfold.data import DataSet

FILE: Final = HERE / "manifest.json"


def manifest(test: DataSet) -> str:
    """The manifest of the files as they are, as JSON."""
    rows = {network.name: _row(network, test) for network in NETWORKS if network.shipped}
    return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"


def _row(network: Network, test: DataSet) -> dict[str, Any]:
    module = read(network, network.weights())
    return {
        "trained": f"python -m sample_models train {network.name}: {network.file().RECIPE}; seed 0",
        "test_accuracy": accuracy(module, test.x, labels_of(test)),
        "files": {path.name: _file(path) for path in (network.onnx(), network.weights())},
    }


def _file(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
