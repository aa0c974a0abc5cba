"""``bnfold demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnfold.cli.options import debug_option
from bnfold.cli.streams import put_result
from bnfold.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bnfold.render.page import Block

_EXAMPLES = """\b
Examples:
  bnfold demo
  bnfold demo --out-dir /tmp/demo
  BNFOLD_MNIST=/data/mnist bnfold demo
"""


@click.command("demo", epilog=_EXAMPLES)
@click.option(
    "--out-dir",
    type=click.Path(path_type=Path),
    default="bnfold-demo",
    metavar="DIR",
    help="Where its files go. [default: bnfold-demo]",
)
@debug_option
@click.pass_context
def command(context: click.Context, *, out_dir: Path) -> int:
    """Inspect, convert, verify and time a small network that comes with bnfold.

    It uses no network and writes nothing outside DIR. Images are MNIST's test images where they are found (see bnfold
    data where), else generated digits.
    """
    from bnfold.cli.commands import bnfold
    from bnfold.data import digits, is_found
    from bnfold.files.sample import NAME
    from bnfold.render.demo import closing_blocks, command_block, opening_blocks
    from bnfold.render.page import page_of

    generated = not is_found()
    original, images = out_dir / NAME, out_dir / digits.FILE
    folded = original.with_name(f"{original.stem}.folded{original.suffix}")
    _prepare(original, folded, images if generated else None)

    _put(opening_blocks(str(out_dir), generated=generated))
    for words in (
        ["inspect", original],
        ["convert", original],
        ["verify", original, folded, "--data", images if generated else "mnist"],
        ["bench", original, folded, "--batch", "1"],
    ):
        line = list(map(str, words))
        _put(["", command_block(line, page_of(sys.stdout)), ""])
        exit_code = bnfold.main(line, prog_name="bnfold", standalone_mode=False, obj=context.obj)
        if exit_code:
            return int(exit_code)
    _put(["", *closing_blocks(str(out_dir))])
    return 0


def _prepare(original: Path, folded: Path, images: Path | None) -> None:
    """Put the sample model, and generated digits where they are wanted, into the demo's folder.

    Raises OutputError where that would replace a file that no demo has written.
    """
    from bnfold.data import digits
    from bnfold.files.sample import sample_model
    from bnfold.files.writing import create_folder, write_together

    model = sample_model().read_bytes()
    create_folder(original.parent)
    contents = {original: model} if images is None else {original: model, images: digits.generated_file()}
    is_of_a_demo = original.is_file() and original.read_bytes() == model
    foreign = [] if is_of_a_demo else [path for path in (*contents, folded) if path.exists()]
    if foreign:
        raise OutputError(
            f"{foreign[0]} exists already, and no demo wrote it", remedy="name another folder with --out-dir DIR"
        )
    write_together(contents, force=True)
    folded.unlink(missing_ok=True)


def _put(blocks: Sequence[Block]) -> None:
    from bnfold.render.page import laid_out, page_of

    put_result(laid_out(blocks, page_of(sys.stdout)))
