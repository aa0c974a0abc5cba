"""Reports as the commands make them, for the tests of everything that shows them."""

from __future__ import annotations

import dataclasses
from typing import Any

from bnfold.records import (
    AccuracyRecord,
    BatchDependence,
    BatchNormRecord,
    BenchCase,
    BenchReport,
    CalibratedRecord,
    CalibrateReport,
    CalibrationAccuracy,
    Comparison,
    ConvertReport,
    DataRecord,
    Environment,
    ExternalRecord,
    FileRecord,
    InspectReport,
    NodeCount,
    OutputDifference,
    ReasonRecord,
    Report,
    Timing,
    VerifyReport,
)

VERSION = "0.1.0"
SOURCE = FileRecord("models/model.onnx", "onnx", "3f" * 32, 262_144, (ExternalRecord("models/model.data", 1_000_000),))
OUTPUT = FileRecord("models/model.folded.onnx", "onnx", "a0" * 32, 261_000)
ENVIRONMENT = Environment("3.11.7", "Linux-6.1-x86_64", "Example CPU @ 2.60GHz", 2, 1, {"onnxruntime": "1.31.1"})

FOLDED = BatchNormRecord(
    name="/features/bn1",
    form="operator",
    verdict="folded",
    rule="absorb-above",
    into=("/features/conv1",),
    scale_range=(0.1, 3.25),
    warnings=("the largest scale is 1e4 times the smallest",),
)
FAN_OUT = ReasonRecord(
    code="BNF202",
    slug="fan-out",
    at="/features/conv2",
    detail="/features/add reads it too",
    remedy="Let the other readers read the batch norm's output.",
)
KEPT = BatchNormRecord(name="/features/bn2", form="operator", verdict="kept", reason=FAN_OUT)
KEPT_TOO = BatchNormRecord(name="/features/bn3", form="decomposed", verdict="kept", reason=FAN_OUT)

INSPECTION = InspectReport(
    version=VERSION,
    source=SOURCE,
    found=3,
    folded=1,
    kept=2,
    also_folded=1,
    batch_norms=(FOLDED, KEPT, KEPT_TOO),
    nodes=NodeCount(before=14, after=13),
    warnings=("the model has no opset import",),
)
NOTHING_FOUND = InspectReport(
    version=VERSION, source=SOURCE, found=0, folded=0, kept=0, batch_norms=(), nodes=NodeCount(4, 4)
)

LOGITS = OutputDifference(
    name="logits",
    dtype="float32",
    max_abs_error=2.4e-6,
    mean_abs_error=3.1e-7,
    max_abs_value=12.5,
    relative_error=1.9e-7,
    rounding_error=1.1e-7,
    tolerance=1e-5,
    smallest_passing_tolerance=1.9e-7,
    nan_count=0,
    inf_count=0,
    same_nan=True,
    same_inf=True,
    passed=True,
)
BROKEN = OutputDifference(
    name="embedding",
    dtype="float32",
    max_abs_error=float("nan"),
    mean_abs_error=float("nan"),
    max_abs_value=1.0,
    relative_error=float("nan"),
    rounding_error=1.1e-7,
    tolerance=1e-5,
    smallest_passing_tolerance=None,
    nan_count=3,
    inf_count=0,
    same_nan=False,
    same_inf=True,
    passed=False,
)
ACCURACY = AccuracyRecord(
    samples=10_000,
    original_correct=9892,
    folded_correct=9892,
    original_accuracy=0.9892,
    folded_accuracy=0.9892,
    flips=0,
    flipped=(),
    max_flips=0,
    max_accuracy_drop=None,
    passed=True,
)
FLIPPED = AccuracyRecord(
    samples=10_000,
    original_correct=9892,
    folded_correct=9880,
    original_accuracy=0.9892,
    folded_accuracy=0.988,
    flips=12,
    flipped=tuple(range(100, 112)),
    max_flips=2,
    max_accuracy_drop=0.001,
    passed=False,
)

PASSED = VerifyReport(
    version=VERSION,
    source=SOURCE,
    output=OUTPUT,
    environment=ENVIRONMENT,
    data=DataRecord("mnist", 10_000, 256, labelled=True, scale=255.0, mean=0.1307, std=0.3081),
    as_written=Comparison("onnxruntime, optimisations off", (LOGITS,), passed=True),
    as_deployed=Comparison("onnxruntime, default optimisations", (LOGITS,), passed=True),
    accuracy=ACCURACY,
    passed=True,
)
FAILED = VerifyReport(
    version=VERSION,
    source=SOURCE,
    output=OUTPUT,
    environment=ENVIRONMENT,
    data=DataRecord("random", 64, 32, labelled=False, seed=0),
    as_written=Comparison("onnxruntime, optimisations off", (LOGITS, BROKEN), passed=False),
    as_deployed=None,
    accuracy=FLIPPED,
    passed=False,
    warnings=("output 'logits' is constant: that proves little",),
)
TRAPPED = dataclasses.replace(
    PASSED,
    batch_dependence=(
        BatchDependence("original", "logits", 100, 1.04, agreeing=9, distinct_alone=1, distinct_together=10),
        BatchDependence("folded", "embedding", 100, 0.02, agreeing=None, distinct_alone=None, distinct_together=None),
    ),
)

TIMINGS = (
    Timing("model.onnx", 0.512, 0.611, 0.0123, (0.5, 0.512, 0.611)),
    Timing("model.folded.onnx", 0.431, 0.502, 0.0101, (0.42, 0.431, 0.502), 0.842, 0.831, 0.853, "faster"),
)
BENCHMARK = BenchReport(
    version=VERSION,
    source=SOURCE,
    outputs=(OUTPUT,),
    environment=ENVIRONMENT,
    cases=(
        BenchCase("onnxruntime, optimisations off", 1, TIMINGS),
        BenchCase("onnxruntime, default optimisations", 1000, TIMINGS, "the runtime folds by itself"),
    ),
    fail_if_slower_percent=5.0,
    passed=True,
)

CONVERSION = ConvertReport(
    version=VERSION,
    source=SOURCE,
    output=OUTPUT,
    found=1,
    folded=1,
    kept=0,
    batch_norms=(FOLDED,),
    nodes=NodeCount(before=14, after=13),
    verification=PASSED,
    timing=BENCHMARK,
)
ESTIMATED = CalibratedRecord(
    name="/features/bn1",
    action="estimated",
    step=1,
    values=480_000,
    mean=(-0.25, 1.5),
    variance=(0.0, 2.25),
    variance_error=0.021,
    constant_channels=(0,),
    warnings=("channel 0 never moved: variance 0",),
)
REFRESHED = CalibratedRecord(
    name="/features/bn2",
    action="refreshed",
    step=2,
    values=10_000,
    old_mean=(0.0, 0.0),
    old_variance=(1.0, 1.0),
    mean=(-3.0, 4.125),
    variance=(0.5, 12.5),
    mean_moved=2.34,
    variance_error=0.018,
)
STAYED = CalibratedRecord(
    name="/head/bn3",
    action="kept",
    why="it is inside a subgraph",
    old_mean=(0.5,),
    old_variance=(2.0,),
)
CALIBRATION = CalibrateReport(
    version=VERSION,
    source=SOURCE,
    output=OUTPUT,
    environment=ENVIRONMENT,
    data=DataRecord("mnist, training images", 10_000, 32, labelled=True, scale=255.0, mean=0.0, std=1.0),
    steps=2,
    found=3,
    calibrated=2,
    batch_norms=(ESTIMATED, REFRESHED, STAYED),
    accuracy=CalibrationAccuracy(10_000, 0.1135, 0.98),
    warnings=("external data (model.data) is written into the model file",),
)
NOT_CALIBRATED = dataclasses.replace(
    CALIBRATION,
    data=None,
    steps=0,
    found=1,
    calibrated=0,
    batch_norms=(dataclasses.replace(STAYED, why=""),),
    accuracy=None,
    warnings=(),
)
DRY_RUN = dataclasses.replace(CONVERSION, output=None, verification=None, timing=None)

REPORTS: dict[str, Report] = {
    "inspect": INSPECTION,
    "inspect-nothing": NOTHING_FOUND,
    "convert": CONVERSION,
    "convert-dry-run": DRY_RUN,
    "verify-passed": PASSED,
    "verify-failed": FAILED,
    "verify-trapped": TRAPPED,
    "bench": BENCHMARK,
    "calibrate": CALIBRATION,
    "calibrate-nothing": NOT_CALIBRATED,
}

HOSTILE = {
    "pipe": "a|b",
    "escaped pipe": r"a\|b",
    "backtick": "a`b",
    "backticks": "``a``",
    "backslash at the end": "a\\",
    "newline": "a\nb",
    "end of the cell and a new row": "a |\n| b | c |",
    "HTML": "<img src=x onerror=alert(1)>",
    "end of the code element": "</code></summary><b>",
    "entity": "&lt;b&gt; &#124;",
    "emphasis": "__init__ *a* ~~b~~ _c_",
    "link": "[a](http://example.org) ![b](c) <http://example.org>",
    "comment": "<!-- a",
    "mention": "@somebody and #1",
    "maths": "$x$ and $$y$$",
    "blanks at the ends": " a ",
    "only blanks": "  ",
    "empty": "",
    "control characters": "a\x1b[2J\u202eb",
    "another script": "层/归一化",
}


def hostile(value: Any, word: str) -> Any:
    """The value with every name and sentence in it replaced."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = {
            "path",
            "name",
            "at",
            "detail",
            "remedy",
            "model",
            "runtime",
            "note",
            "processor",
            "dtype",
            "rule",
            "why",
        }
        changes = {
            field.name: word if field.name in names else hostile(getattr(value, field.name), word)
            for field in dataclasses.fields(value)
            if field.init
        }
        return dataclasses.replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(word if isinstance(item, str) else hostile(item, word) for item in value)
    return value
