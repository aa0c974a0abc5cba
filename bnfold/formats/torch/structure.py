"""How a folded module differs from a fresh one, small enough to be written down beside its tensors."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer

from bnfold.errors import InputError
from bnfold.formats.torch.classes import BatchNorm, is_frozen

WRAPPERS = frozenset({"module", "_orig_mod"})
"""The attributes under which DataParallel and torch.compile hold what they wrap."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""The tensors that a batch norm gains with its statistics."""


@dataclass(frozen=True)
class Structure:
    """How a module differs from a fresh one: batch norms that are gone, or gained statistics, layers with a new bias.

    Where a batch norm was an Identity stands, or a Sequential of what it ran itself behind the normalisation.
    """

    identities: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As it stands in a checkpoint's metadata; statistics only where there are any, as before there were."""
        plain = {name: paths for name, paths in asdict(self).items() if paths or name != "statistics"}
        return json.dumps(plain, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Structure:
        """Raises InputError where ``text`` is not what ``to_json`` writes."""
        try:
            plain = json.loads(text)
            groups = (plain["identities"], plain["biases"], plain.get("statistics", ()))
            return cls(*(tuple(map(str, paths)) for paths in groups))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                "the checkpoint's record of what was folded is corrupt", where=where, remedy="convert again"
            ) from error

    def __add__(self, later: Structure) -> Structure:
        """What two folds after one another make."""
        pairs = zip(self._groups, later._groups, strict=True)
        return Structure(*((*before, *after) for before, after in pairs))

    def named_as_in(self, module: nn.Module) -> Structure:
        """The same structure by the paths of ``module``, which may be wrapped otherwise."""
        paths = [path for path, _ in module.named_modules(remove_duplicate=False)]
        known = {plain_name(path): path for path in paths}  # of a wrapper and what it wraps, the inner one

        def named(group: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(path if path in paths else known.get(plain_name(path), path) for path in group)

        return Structure(*map(named, self._groups))

    def reshape(self, module: nn.Module, where: str) -> None:
        """Give ``module`` this structure, in place; InputError where it has other parts."""
        try:
            for path in self.statistics:
                gain_statistics(module.get_submodule(path))
            for path in self.identities:
                remove(_batch_norm(module, path))
            for path in self.biases:
                layer = module.get_submodule(path)
                layer.bias = nn.Parameter(_no_bias_yet(layer))
        except (AttributeError, TypeError) as error:
            raise InputError(
                f"the folded checkpoint belongs to another architecture: {error}",
                where=where,
                remedy="give the architecture that was folded, freshly made",
            ) from error

    @property
    def _groups(self) -> tuple[tuple[str, ...], ...]:
        return self.identities, self.biases, self.statistics


def gain_statistics(bn: nn.Module) -> None:
    """Give a batch norm that has none running statistics, 0 and 1, in place; TypeError where it is none."""
    if not isinstance(bn, BatchNorm):
        raise TypeError(f"{type(bn).__name__} is no batch norm")
    if bn.running_mean is not None:
        return
    like = torch.empty(0) if bn.weight is None else bn.weight
    place: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    if isinstance(bn, LazyModuleMixin):  # what is loaded next tells how many channels there are
        bn.register_buffer("running_mean", UninitializedBuffer(**place))
        bn.register_buffer("running_var", UninitializedBuffer(**place))
    else:
        bn.register_buffer("running_mean", torch.zeros(bn.num_features, **place))
        bn.register_buffer("running_var", torch.ones(bn.num_features, **place))
    bn.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long, device=like.device))
    bn.track_running_stats = True


def plain_name(name: str) -> str:
    """A tensor's name, or a module's path, without what DataParallel and torch.compile put into it, at any depth."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def remove(bn: nn.Module) -> None:
    """Turn a batch norm into ``nn.Identity`` or, where it has children, into their ``nn.Sequential``, in place.

    In place, and not by another module under its name: whoever holds it (a list, an attribute, a second name) finds
    what has become of it too.
    """
    children = OrderedDict(bn.named_children())
    rest = nn.Sequential(children) if children else nn.Identity()
    rest.training = bn.training
    vars(bn).clear()
    vars(bn).update(vars(rest))
    bn.__class__ = type(rest)


def _batch_norm(module: nn.Module, path: str) -> nn.Module:
    """The batch norm at ``path``, or what it has become under another name."""
    part = module.get_submodule(path)
    if not (isinstance(part, BatchNorm | nn.Identity | nn.Sequential) or is_frozen(part)):
        raise TypeError(f"{path!r} is a {type(part).__name__}, not a batch norm")
    return part


def _no_bias_yet(layer: nn.Module) -> torch.Tensor:
    """Room for the bias of a layer, one number an output channel."""
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    weight = layer.weight
    if not isinstance(weight, torch.Tensor) or not isinstance(channels, int):
        raise TypeError(f"{type(layer).__name__} is no layer with a weight")
    return torch.empty(channels, dtype=weight.dtype, device=weight.device)
