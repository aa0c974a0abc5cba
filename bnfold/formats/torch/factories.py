"""What makes the architecture of a state_dict: code of the user's, imported and called."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from torch import nn

from bnfold.errors import UsageError
from bnfold.formats.torch.trusted import a_or_an, first_line, import_from_here

Factory = str | Callable[[], nn.Module]
"""``pkg.module:factory``, or something that makes the module when called."""


def make_module(factory: Factory) -> nn.Module:
    """The module that a factory makes; ``pkg.module:name`` is imported, from the current directory too."""
    make = _import_factory(factory) if isinstance(factory, str) else factory
    try:
        module = make()
    except (Exception, SystemExit) as error:  # the user's code may raise anything, and a script may end itself
        remedy = "bnfold calls it without arguments" if isinstance(error, TypeError) else ""
        raise UsageError(f"the factory failed: {first_line(error)}", where=_named(factory), remedy=remedy) from error
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"the factory made {a_or_an(module)}, not an nn.Module",
            where=_named(factory),
            remedy="give a class, or a function that returns the module",
        )
    return module


def _named(factory: Factory) -> str:
    """What to call a factory."""
    return factory if isinstance(factory, str) else getattr(factory, "__qualname__", a_or_an(factory))


def _import_factory(name: str) -> Callable[[], nn.Module]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{name!r} is no factory", remedy="write it as pkg.module:factory")
    import_from_here()
    try:
        made: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            made = getattr(made, part)
    except (Exception, SystemExit) as error:  # importing runs the user's code, which may do anything
        remedy = "write it as pkg.module:factory, importable from the current directory"
        if isinstance(error, ModuleNotFoundError) and error.name and not f"{module_name}.".startswith(f"{error.name}."):
            remedy = f"{module_name} imports {error.name}: install that"
        raise UsageError(f"the factory cannot be imported: {first_line(error)}", where=name, remedy=remedy) from error
    if not callable(made):
        raise UsageError(f"{name!r} is not callable", remedy="give a class, or a function that returns the module")
    return made
