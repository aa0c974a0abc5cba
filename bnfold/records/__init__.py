"""The reports: frozen, plain data, and their JSON form. Measuring, judging and printing happen elsewhere.

The JSON Schema in ``report.schema.json`` is generated from these classes; a test holds the two together.
Every measured number carries its unit in its name (``_ms``, ``_bytes``); numbers without one have none.
"""

from bnfold.records.bench import BenchCase, BenchReport, Speed, Timing
from bnfold.records.calibrate import CalibratedRecord, CalibrateReport, Calibration, CalibrationAccuracy
from bnfold.records.common import (
    SCHEMA,
    DataRecord,
    Environment,
    ExternalRecord,
    FileRecord,
    InputSpec,
    Report,
    SampleShapes,
)
from bnfold.records.plan import (
    BatchNormRecord,
    ConvertReport,
    Form,
    InspectReport,
    NodeCount,
    PairCandidate,
    PlanReport,
    ReasonRecord,
    Verdict,
)
from bnfold.records.verify import (
    AccuracyRecord,
    BatchDependence,
    Comparison,
    LayerError,
    OutputDifference,
    VerifyReport,
)

__all__ = [
    "SCHEMA",
    "AccuracyRecord",
    "BatchDependence",
    "BatchNormRecord",
    "BenchCase",
    "BenchReport",
    "CalibrateReport",
    "CalibratedRecord",
    "Calibration",
    "CalibrationAccuracy",
    "Comparison",
    "ConvertReport",
    "DataRecord",
    "Environment",
    "ExternalRecord",
    "FileRecord",
    "Form",
    "InputSpec",
    "InspectReport",
    "LayerError",
    "NodeCount",
    "OutputDifference",
    "PairCandidate",
    "PlanReport",
    "ReasonRecord",
    "Report",
    "SampleShapes",
    "Speed",
    "Timing",
    "Verdict",
    "VerifyReport",
]
