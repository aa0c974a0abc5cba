"""The story in a screenful: load → view → plan → apply → save → verify → report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bnfold import acceptance
from bnfold.arguments import require
from bnfold.conversion import Conversion
from bnfold.formats.opening import Opening, open_model, torch_needed, wrap_model
from bnfold.idle import formats_at, idle_in_memory, idle_options, refuse
from bnfold.planner import plan as make_plan
from bnfold.records import ConvertReport, InspectReport
from bnfold.reporting import unmatched_globs
from bnfold.route import Route, default_output

if TYPE_CHECKING:
    from torch import nn

    from bnfold.calibration import calibrate
    from bnfold.comparison import Progress, bench, verify
    from bnfold.core.verdict import Plan
    from bnfold.formats.kinds import Target
    from bnfold.formats.model import Model
    from bnfold.formats.torch.factories import Factory
    from bnfold.formats.torch.inputs import GivenInputs

__all__ = ["FoldResult", "bench", "calibrate", "convert", "default_output", "fold", "inspect", "load_folded", "verify"]

PathLike = str | os.PathLike[str]
Globs = str | Sequence[str] | None


@dataclass(frozen=True, eq=False)
class FoldResult:
    """A folded model of the kind that was given, and the verdict on each of its batch norms."""

    model: Any
    plan: Plan
    warnings: tuple[str, ...] = ()


def fold(
    model: object,
    inputs: GivenInputs = None,
    *,
    factory: Factory | None = None,
    trust_code: bool = False,
    key: str | None = None,
    freeze: bool = False,
    only: Globs = None,
    skip: Globs = None,
    merge_parallel: bool = False,
    copy: bool = False,
) -> FoldResult:
    """Fold an ``nn.Module``, an ``onnx.ModelProto``, or the file at a path, none of which is changed.

    ``inputs`` (a tensor, a tuple of tensors, or a dict for keyword inputs) are what a module is recorded on; a list of
    such inputs is recorded one by one, and without any the first layer must tell. Untouched tensors of a folded module
    are those of the original, unless ``copy``.
    ``factory`` makes the architecture of a state_dict (``pkg.module:name``, or a callable). ``only`` and ``skip`` are
    globs over the names of batch norms. ``freeze`` treats overridable ONNX initializers as constants. ``trust_code``
    allows files whose loading runs code. ``key`` chooses the state_dict in a training checkpoint.
    ``merge_parallel`` makes one layer of the layers beside one another in a sum also where no batch norm takes part
    (ONNX).

    Returns a FoldResult: ``.model`` is of the same kind (for a path, what the file holds), ``.plan`` has one verdict
    per batch norm in graph order. Raises BnfoldError, and nothing else.
    """
    require(locals())
    options = {"inputs": inputs, "factory": factory, "key": key, "freeze": freeze, "merge_parallel": merge_parallel}
    if isinstance(model, str | os.PathLike):
        refuse(idle_options(formats_at([Path(model)]), options))
        opened = open_model(Path(model), inputs=inputs, factory=factory, trust_code=trust_code, key=key, freeze=freeze)
    else:
        opened = wrap_model(model, inputs=inputs, freeze=freeze, share=not copy)
        refuse([*idle_in_memory(options), *idle_options([opened.format], options)])
    only, skip = _globs(only), _globs(skip)
    plan = make_plan(opened.view, only=only, skip=skip, merge_parallel=merge_parallel)
    opened.apply(plan)
    return FoldResult(opened.folded, plan, (*opened.notes, *unmatched_globs(plan, only, skip)))


def inspect(
    source: PathLike,
    *,
    inputs: GivenInputs = None,
    factory: Factory | None = None,
    trust_code: bool = False,
    key: str | None = None,
    freeze: bool = False,
    only: Globs = None,
    skip: Globs = None,
    merge_parallel: bool = False,
) -> InspectReport:
    """What ``convert`` would do with the file at ``source``: every batch norm, its verdict, why. Nothing is written.

    Options as for ``fold``. Raises BnfoldError.
    """
    require(locals())
    opening = Opening(inputs=inputs, factory=factory, trust_code=trust_code, key=key)
    path = Path(source)
    refuse(idle_options(formats_at([path]), {**opening, "freeze": freeze, "merge_parallel": merge_parallel}))
    load = partial(open_model, path, **opening, freeze=freeze)
    conversion = _conversion(load, path, only=only, skip=skip, merge_parallel=merge_parallel)
    return InspectReport(**conversion.findings())


def convert(
    source: PathLike,
    output: PathLike | None = None,
    *,
    inputs: GivenInputs = None,
    factory: Factory | None = None,
    trust_code: bool = False,
    key: str | None = None,
    freeze: bool = False,
    only: Globs = None,
    skip: Globs = None,
    merge_parallel: bool = False,
    pairs: Sequence[str] = (),
    eps: float | None = None,
    to: Target | None = None,
    keep_architecture: bool = False,
    force: bool = False,
    verify: str | None = None,
    dry_run: bool = False,
    check: bool = False,
    bench: bool = False,
    require_fold: Literal["any", "all"] | None = None,
    progress: Progress | None = None,
) -> ConvertReport:
    """Fold the file at ``source`` and write the result to ``output`` (``NAME.folded.EXT`` beside it).

    ``verify`` names data (``mnist``, ``random``, an .npz file or a directory) on which the folded model is compared
    with the original before it is put in place. ``check`` writes nothing and compares ``output`` byte for byte with
    what would be written; ``dry_run`` only writes nothing. ``bench`` times both afterwards. ``require_fold`` asks that
    any, or all, batch norms fold. An existing output needs ``force``. ``pairs`` of layer and batch norm (``conv1=bn1``)
    and their ``eps`` stand for the architecture of a state_dict. ``to`` names another kind of file for the output (one
    that torch exports is always verified). With ``keep_architecture`` folded batch norms stay and scale by 1, and the
    weights load anywhere; a folder with a config.json is copied like that. The other options are those of ``fold``.

    Raises BnfoldError: CheckFailedError where ``verify`` or ``check`` fails, RequirementError for ``require_fold``,
    both with the report so far, and OutputError where the output could not be written. In all of these cases nothing
    is written, and what was there before is intact.
    """
    require(locals())
    wanted = None if output is None else Path(output)
    route = Route.of(Path(source), wanted, to=to, pairs=pairs, keep_architecture=keep_architecture)
    route.require_runnable(has_factory=factory is not None, verify=verify is not None, bench=bench)
    if not (dry_run or check):
        route.require_free(force=force)
    opening = Opening(inputs=inputs, factory=factory, trust_code=trust_code, key=key)
    options = {**opening, "freeze": freeze, "merge_parallel": merge_parallel, "pairs": pairs}
    formats = formats_at([route.path])
    refuse(idle_options(formats, options, run=verify is not None or bench))
    if inputs is None and formats != {"onnx"}:
        opening["inputs"] = acceptance.sample_shapes_of(None if check else verify)
    load = route.loader(opening, eps=eps, freeze=freeze)
    conversion = _conversion(load, route.path, only=only, skip=skip, merge_parallel=merge_parallel, to=to)
    if to == "pt2":
        opening["trust_code"] = True  # to run the program that bnfold has made; the source is loaded already
    report = ConvertReport(**conversion.findings())
    left_out = acceptance.untried(verify=verify is not None, bench=bench, check=check, dry_run=dry_run)
    report = replace(report, warnings=(*report.warnings, *left_out))
    acceptance.require_fold(report, require_fold)
    if check:
        acceptance.require_unchanged(report, conversion.contents(route.target))
        return report
    if verify is not None or conversion.must_be_verified:
        if not dry_run and route.folder is None:
            conversion.require_writable(route.target, force=force)
        report = acceptance.verified(report, conversion, route, opening, data=verify or "random", progress=progress)
    if dry_run:
        return report
    report = replace(report, output=conversion.save(route.target, force=force, folder=route.folder))
    if bench:
        from bnfold import comparison

        timing = comparison.bench(route.path, route.target, **opening, progress=progress)
        report = replace(report, timing=timing)
    return report


def load_folded(module: nn.Module, path: PathLike, *, key: str | None = None) -> nn.Module:
    """Load a folded checkpoint into ``module``, a fresh one of the original architecture, in place; returns it.

    The batch norms that were folded become ``nn.Identity``, layers that gained a bias get one, and every tensor is
    loaded strictly. ``key`` chooses a state_dict in a file of several. Raises BnfoldError where it does not fit.
    """
    if not isinstance(module, str | os.PathLike):  # else both are in each other's place, which is told below
        require({"path": path})
    with torch_needed():
        from bnfold.formats.torch import files

        return files.load_folded(module, path, key=key)


def __getattr__(name: str) -> object:
    """What runs models, whose rooms take 60 ms to import: a sixth of what converting a small model takes."""
    if name in {"bench", "verify"}:
        from bnfold import comparison

        return getattr(comparison, name)
    if name == "calibrate":
        from bnfold import calibration

        return calibration.calibrate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _conversion(
    load: Callable[[], Model], path: Path, *, only: Globs, skip: Globs, merge_parallel: bool, to: Target | None = None
) -> Conversion:
    return Conversion.of(load, path, only=_globs(only), skip=_globs(skip), merge_parallel=merge_parallel, to=to)


def _globs(given: Globs) -> tuple[str, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)
