"""A bnfold process whose API is replaced: run as ``python stand_in_process.py COMMAND…`` by test_cli_process.py.

The model's name says what the work does; the real ``main`` does all the rest.
"""

from __future__ import annotations

import atexit
import ctypes
import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import sample_reports as sample

from bnfold import api
from bnfold.cli import main
from bnfold.files.writing import write_atomically
from bnfold.records import Report


def inspect(source: Path, **_: Any) -> Report:
    """A report; the work is loud or large on demand."""
    if source.name == "loud.onnx":
        sys.stdout.write("python prints\n")
        os.write(1, b"a library writes\n")
        ctypes.CDLL(None).printf(b"a library prints\n")  # stays in C's own buffer until the process ends
        atexit.register(os.write, 1, b"a library says goodbye\n")
    if source.name == "many.onnx":
        return dataclasses.replace(sample.INSPECTION, batch_norms=sample.INSPECTION.batch_norms * 5000)
    return sample.INSPECTION


def convert(_source: Path, output: Path, **keywords: Any) -> Report:
    """Writing that takes long, so that a signal can come in between."""

    def write_slowly(stream: BinaryIO) -> None:
        stream.write(b"half of the model")
        for done in range(600):
            keywords["progress"]("writing", done, 600)
            sys.stderr.write("writing\n")
            sys.stderr.flush()
            time.sleep(0.1)

    write_atomically(output, write_slowly, force=True)
    return sample.CONVERSION


def verify(_original: Path, folded: Path, **_: Any) -> Report:
    """The verdict that the folded model's name asks for."""
    return sample.FAILED if folded.name == "other.onnx" else sample.PASSED


if __name__ == "__main__":
    for function in (inspect, convert, verify):
        setattr(api, function.__name__, function)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background hands it on as ignored
    main()
