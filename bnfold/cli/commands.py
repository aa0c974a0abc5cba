"""The table of commands. A command's module is imported when it runs, so ``--help`` costs no more than click."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bnfold import __version__
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.cli.settings import Settings


class LazyCommand(click.Command):
    """A command's name and short help; ``command`` in its module takes over when it is called."""

    def __init__(self, name: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401
    ) -> click.Context:
        """The context of the real command, in which click goes on."""
        name = str(self.name)
        settings = _settings(name)
        if settings is not None:
            extra["default_map"] = settings.defaults(name)
        try:
            return _command(name).make_context(info_name, args, parent, **extra)
        except click.BadParameter as error:
            if settings is None or not _is_from_settings(error):
                raise
            what, where = error.format_message(), str(settings.file)
            raise UsageError(what, where=where, remedy="correct [tool.bnfold]") from error


def _command(name: str) -> click.Command:
    command: click.Command = import_module(f"bnfold.cli.{name}").command
    return command


def _settings(name: str) -> Settings | None:
    """The project's settings, if it has any and the command takes any."""
    from bnfold.cli.settings import CONFIGURABLE, Settings, settings_file

    found = settings_file(Path.cwd()) if name in CONFIGURABLE else None
    return None if found is None else Settings(*found, {each: _command(each) for each in CONFIGURABLE})


def _is_from_settings(error: click.BadParameter) -> bool:
    """Whether the value that click refuses does not stand on the command line."""
    if error.ctx is None or error.param is None or error.param.name is None:
        return False
    return error.ctx.get_parameter_source(error.param.name) is ParameterSource.DEFAULT_MAP


class InOrder(click.Group):
    """A group that lists its commands as they were given, which is the order of the work."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands' names."""
        return list(self.commands)


COMMANDS = {
    "demo": "All of it on a small model that comes along; no network.",
    "inspect": "Show every batch norm, its verdict and why; write nothing.",
    "convert": "Fold batch norms and write the model.",
    "verify": "Are two models the same? Numbers, accuracy, verdict.",
    "bench": "Which model is faster? Paired timing, verdict.",
    "calibrate": "Estimate population statistics for batch norms without.",
    "explain": "What a reason code means, and what to do.",
    "data": "Download MNIST, or say where it is looked for.",
}

bnfold = InOrder(
    "bnfold",
    commands=[LazyCommand(name, short_help) for name, short_help in COMMANDS.items()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Folds every batch norm of a trained network that can be folded exactly, and says why the others stay.",
    epilog="Exit codes: 0 done, 1 check failed, 2 usage, 3 input, 4 refused for safety, 5 --require-fold not met, "
    "6 output not written, 7 data set, 8 out of memory, 70 our bug.",
    params=[],
)
bnfold = click.version_option(__version__, message="%(prog)s %(version)s")(bnfold)
