"""The published networks: ``python -m sample_models list | train NAME | reproduce NAME | export NAME``."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bnfold.errors import BnfoldError, InputError, UsageError
from sample_models import NETWORKS, Network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bnfold.data import DataSet, Split
    from sample_models.figures import Figures
    from sample_models.jobs import Epoch, Job

_OUT: Final = Path("out")
_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells say it
_BY_NAME: Final = {network.name: network for network in NETWORKS}


class Printed:
    """Progress for people: a line an epoch on stdout, the batches on stderr where that is a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    def step(self, done: int, of: int) -> None:
        """Overwrite the line with the number of batches done."""
        if self._terminal:
            print(f"\rbatch {done} of {of}", end="" if done < of else "\r\033[K", file=sys.stderr, flush=True)

    def epoch(self, epoch: Epoch) -> None:
        """Loss and accuracy of the epoch."""
        print(
            f"epoch {epoch.number:>2} of {epoch.of}  learning rate {epoch.learning_rate:<6}  loss {epoch.loss:.4f}"
            f"  validation accuracy {epoch.validation_accuracy:.4f}  {epoch.seconds:.0f} s",
            flush=True,
        )

    def note(self, text: str) -> None:
        """A line on stderr: the result is the table that follows."""
        print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Errors for users are printed without a traceback."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except BnfoldError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _list(_options: argparse.Namespace) -> None:
    width = max(shutil.get_terminal_size().columns, 40)
    for network in NETWORKS:
        files = "trained files in the package" if network.shipped else "train it yourself"
        print(network.name)
        for text in (network.summary, f"{network.source}; {files}", f"--model {network.factory}"):
            print(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))


def _train(options: argparse.Namespace) -> None:
    _train_and_write(_BY_NAME[options.name], options)


def _train_and_write(network: Network, options: argparse.Namespace) -> None:
    from sample_models.files import prepare, write
    from sample_models.jobs import labels_of
    from sample_models.training import accuracy

    prepare(network, options.out)
    module = network.file().train(_job(options))
    test = _data("test", options)
    print(f"test accuracy {accuracy(module, test.x, labels_of(test)):.4f}")
    for path in write(network, module, options.out):
        print(f"wrote {path}, {path.stat().st_size} bytes")


def _reproduce(options: argparse.Namespace) -> None:
    from sample_models import plotting

    figures = _reproduced(_BY_NAME[options.name], options)
    print(figures)
    if not figures.charts:
        return
    if not plotting.is_available():
        print("the curves are not drawn: that needs matplotlib (pip install '.[figures]')", file=sys.stderr)
        return
    _write(options.out / f"{options.name}.svg", plotting.draw(figures))


def _reproduced(network: Network, options: argparse.Namespace) -> Figures:
    """The network's figures, which are kept in ``--out`` for ``document``."""
    from sample_models.files import prepare, read

    prepare(network, options.out)
    weights = next((path for path in (network.weights(options.out), network.weights()) if path.is_file()), None)
    if weights is None:
        print(f"{network.name} is not trained yet (no {network.weights(options.out)}): training it", file=sys.stderr)
        _train_and_write(network, options)
        weights = network.weights(options.out)
    figures = network.file().reproduce(read(network, weights), _data("test", options), _job(options))
    _write(_figures_file(network, options), figures.to_json().encode())
    return figures


def _document(options: argparse.Namespace) -> None:
    from sample_models.document import page, pictures
    from sample_models.figures import Figures

    kept = {network: _figures_file(network, options) for network in NETWORKS if network.published}
    reproduced = {
        network.name: Figures.from_json(file.read_text(encoding="utf-8"))
        if file.is_file()
        else _reproduced(network, options)
        for network, file in kept.items()
    }
    _write(options.docs / "networks.md", page(reproduced).encode())
    for name, picture in pictures(reproduced).items():
        _write(options.docs / "networks" / name, picture)


def _figures_file(network: Network, options: argparse.Namespace) -> Path:
    path: Path = options.out / f"{network.name}.figures.json"
    return path


def _manifest(options: argparse.Namespace) -> None:
    from sample_models import manifest

    _write(manifest.FILE, manifest.manifest(_data("test", options)).encode())


def _write(path: Path, content: bytes) -> None:
    from bnfold.files.writing import create_folder, write_together

    create_folder(path.parent)
    write_together({path: content}, force=True)
    print(f"wrote {path}", file=sys.stderr)


def _export(options: argparse.Namespace) -> None:
    from sample_models.files import prepare, read, write, write_batch_statistics

    network = _BY_NAME[options.name]
    if options.batch_statistics and not network.batch_statistics:
        raise UsageError(
            f"{network.name} has no form with batch statistics",
            remedy=f"the networks that have one: {', '.join(row.name for row in NETWORKS if row.batch_statistics)}",
        )
    weights = options.weights or network.weights()
    if not weights.is_file():
        raise InputError(
            f"{network.name} is not trained yet",
            where=f"no file {weights}",
            remedy=f"run `python -m sample_models train {network.name}`, then name its .safetensors with --weights",
        )
    prepare(network, options.out)
    write_form = write_batch_statistics if options.batch_statistics else write
    for path in write_form(network, read(network, weights), options.out):
        print(f"wrote {path}, {path.stat().st_size} bytes")


def _job(options: argparse.Namespace) -> Job:
    from sample_models.jobs import Job

    return Job(data=_data("train", options), progress=Printed(), seed=options.seed, epochs=options.epochs)


def _data(split: Split, options: argparse.Namespace) -> DataSet:
    from bnfold.data import load_mnist

    return load_mnist(split, options.data)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sample_models", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help="the networks and where they come from").set_defaults(command=_list)

    train = commands.add_parser("train", help="train on MNIST, print the test accuracy, write both files")
    train.add_argument("name", choices=list(_BY_NAME), metavar="NAME")
    _add_training_options(train)
    train.set_defaults(command=_train)

    reproduce = commands.add_parser("reproduce", help="our figures beside the published ones; trains where needed")
    reproduce.add_argument("name", choices=[row.name for row in NETWORKS if row.published], metavar="NAME")
    _add_training_options(reproduce)
    reproduce.set_defaults(command=_reproduce)

    document = commands.add_parser("document", help="write docs/networks.md and its curves; reproduces what is missing")
    document.add_argument("--docs", type=Path, default=Path("docs"), metavar="DIR", help="default: %(default)s")
    _add_training_options(document)
    document.set_defaults(command=_document)

    manifest = commands.add_parser("manifest", help="write the manifest of the files that ship")
    manifest.add_argument("--data", type=Path, metavar="DIR", help="where MNIST is; default: `bnfold data where`")
    manifest.set_defaults(command=_manifest)

    export = commands.add_parser("export", help="write a trained network as safetensors and ONNX, its batch norms kept")
    export.add_argument("name", choices=list(_BY_NAME), metavar="NAME")
    export.add_argument("--weights", type=Path, metavar="FILE", help="its .safetensors; default: the one that ships")
    export.add_argument(
        "--batch-statistics", action="store_true", help="as in training: its BNs use the batch's own statistics"
    )
    export.add_argument("--out", type=Path, default=_OUT, metavar="DIR", help="default: %(default)s")
    export.set_defaults(command=_export)
    return parser


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="where MNIST is; default: `bnfold data where`")
    parser.add_argument("--out", type=Path, default=_OUT, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--epochs", type=_positive, metavar="N", help="stop after N epochs; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


if __name__ == "__main__":
    sys.exit(main())
