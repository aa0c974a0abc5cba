"""What several reports hold: files, data, environments, and how a report becomes JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

SCHEMA = "bnfold.report/1"


@dataclass(frozen=True)
class InputSpec:
    """An example input as the user describes it: ``[NAME=]1x3x224x224[:f32]``."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str | None = None


@dataclass(frozen=True)
class SampleShapes:
    """What samples of data may look like to a model that does not say what it takes; the likeliest comes first."""

    specs: tuple[InputSpec, ...]


@dataclass(frozen=True)
class FileRecord:
    """A model file. ``sha256`` is of this file alone; ``external`` lists the data files beside it with their sizes."""

    path: str
    format: str
    sha256: str
    bytes: int
    external: tuple[ExternalRecord, ...] = ()


@dataclass(frozen=True)
class ExternalRecord:
    """A file of external data that belongs to a model; its ``sha256`` is taken on request alone (``--hash-data``)."""

    path: str
    bytes: int
    sha256: str | None = None


@dataclass(frozen=True)
class Environment:
    """Where something was measured: versions of the packages that took part, the processor, the threads used."""

    python: str
    platform: str
    processor: str
    cpu_count: int
    threads: int | None
    packages: dict[str, str]


@dataclass(frozen=True)
class DataRecord:
    """The inputs that were used: ``scale``, ``mean`` and ``std`` turn raw pixels into (x / scale − mean) / std."""

    name: str
    samples: int
    batch: int
    labelled: bool
    seed: int | None = None
    scale: float | None = None
    mean: float | None = None
    std: float | None = None


class Report:
    """What every report can do."""

    def to_dict(self) -> dict[str, object]:
        """The report as JSON-ready data; NaN and infinities become null (JSON has no word for them)."""
        plain = _plain(self)
        assert isinstance(plain, dict)  # noqa: S101 - _plain turns a dataclass into a dict
        return plain

    def to_json(self) -> str:
        """The report as a JSON document, two spaces deep, with its ``schema`` key first."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def _plain(value: object) -> object:
    """Dataclasses to dicts, tuples to lists, non-finite floats to None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
