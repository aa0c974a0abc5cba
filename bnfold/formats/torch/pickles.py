"""What a .pt file holds, read by torch.load without running code."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import torch

from bnfold.errors import InputError, UnsafeError
from bnfold.files.archive import require_intact
from bnfold.files.recognise import Kind
from bnfold.formats.torch.devices import Devices
from bnfold.formats.torch.records import require_whole_records
from bnfold.formats.torch.trusted import first_line


def unpickled(path: Path, kind: Kind, devices: Devices) -> object:
    """What torch.load gives, with ``weights_only``: tensors and plain data; ``devices`` learns where they lay.

    UnsafeError where the file holds code, InputError where it cannot be read.
    """
    if kind is Kind.TORCH_ZIP:
        require_intact(path)
        _require_whole_records(path)
    try:
        # A stream: torch.load judges a file by its name, too.
        with path.open("rb") as stream, warnings.catch_warnings():
            # torch warns of other protocols, and of its own old classes: it copes with them, or raises.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(stream, map_location=devices, weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise _corrupt(error, path) from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UnsafeError(
            f"the file holds more than tensors{f': {found[1]}' if found else ''}; loading it would run its code",
            where=str(path),
            remedy="save the state_dict alone, or give --trust-code (and no --model) for a pickled module",
        ) from error
    except Exception as error:  # a broken file leads torch's reader to whatever error its bytes happen to name
        raise _corrupt(error, path) from error


def _require_whole_records(path: Path) -> None:
    try:
        require_whole_records(path)
    except InputError:
        raise
    except Exception as error:  # unpickling nonsense raises anything
        raise _corrupt(error, path) from error


def _corrupt(error: Exception, path: Path) -> InputError:
    if isinstance(error, pickle.UnpicklingError):
        reason = "it is no pickle of protocol 2, the one that torch.save writes unless told otherwise"
    else:
        reason = first_line(error)
    return InputError(
        f"the checkpoint cannot be read: {reason}",
        where=str(path),
        remedy="copy or download it again, or save it again with torch's defaults",
    )
