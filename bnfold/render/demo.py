"""What ``demo`` says between the commands that it runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from bnfold.files.names import printable
from bnfold.render.page import Block, Page, Styled

_INDENT = "    "

_OWN_MODEL = """\
# what would be folded, and why the rest stays
bnfold inspect model.onnx
# fold it, check the result, time it: writes model.folded.onnx
bnfold convert model.onnx --verify --bench
# a PyTorch state_dict, with the function that builds its network
bnfold convert net.pt --model my.nets:build --input 1x3x224x224 --verify"""


def opening_blocks(folder: str, *, generated: bool) -> list[Block]:
    """What will be shown, on what, and where its files are."""
    images = (
        "MNIST was not found, so it reads generated digits: strokes drawn by a seeded generator, not by people."
        if generated
        else "It reads MNIST's test images."
    )
    network = (
        "The demo folds smallcnn, a network with five batch norms that was trained on MNIST and comes with bnfold."
    )
    return [f"{network} {images} All files are in the folder {printable(folder)}."]


def command_block(words: Sequence[str], page: Page) -> Block:
    """The command as one would type it; where it is wider than the page, its options go on a line of their own."""
    line = f"$ bnfold {shlex.join(map(printable, words))}"
    first_option = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
    if page.width is None or len(line) <= page.width or first_option == len(words):
        return Styled(line, "bold")
    before, after = (shlex.join(map(printable, part)) for part in (words[:first_option], words[first_option:]))
    return Styled(f"$ bnfold {before} \\\n{_INDENT}{after}", "bold")


def closing_blocks(folder: str) -> list[Block]:
    """What to do next: the reader's own model."""
    return [
        Styled("Your own model:", "bold"),
        "",
        *(f"{_INDENT}{line}" for line in _OWN_MODEL.splitlines()),
        "",
        f"Every command has a --help. All that the demo wrote is in {printable(folder)}.",
    ]
