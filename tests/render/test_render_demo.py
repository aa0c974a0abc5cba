from __future__ import annotations

import shlex

import pytest

from bnfold.render.demo import closing_blocks, command_block, opening_blocks
from bnfold.render.page import Page, laid_out

WORDS = ["verify", "bnfold-demo/smallcnn.onnx", "bnfold-demo/smallcnn.folded.onnx", "--data", "mnist"]


@pytest.mark.parametrize("page", [Page(), Page(width=120), Page(width=80), Page(width=60)], ids=str)
def test_a_command_can_be_copied_to_a_shell_as_it_is_shown(page: Page) -> None:
    shown = laid_out([command_block(WORDS, page)], page)
    assert shown.startswith("$ bnfold ")
    if (
        "\\\n" in shown or shown.count("\n") == 1
    ):  # where even the names are too long for a line, the terminal breaks it
        assert shlex.split(shown.removeprefix("$ ").replace("\\\n", "")) == ["bnfold", *WORDS]


def test_a_command_is_broken_before_its_options_and_only_where_it_must() -> None:
    assert laid_out([command_block(WORDS, Page(width=80))], Page(width=80)) == (
        "$ bnfold verify bnfold-demo/smallcnn.onnx bnfold-demo/smallcnn.folded.onnx \\\n    --data mnist\n"
    )
    assert laid_out([command_block(WORDS, Page(width=120))], Page(width=120)).count("\n") == 1


def test_a_folder_with_a_blank_is_quoted() -> None:
    assert laid_out([command_block(["inspect", "my demo/a.onnx"], Page())], Page()) == (
        "$ bnfold inspect 'my demo/a.onnx'\n"
    )


def test_generated_digits_are_called_generated() -> None:
    assert "generated digits" in laid_out(opening_blocks("d", generated=True), Page())
    assert "generated" not in laid_out(opening_blocks("d", generated=False), Page())


@pytest.mark.parametrize("width", [80, 120])
def test_the_end_is_about_ones_own_model_and_fits(width: int) -> None:
    lines = laid_out(closing_blocks("bnfold-demo"), Page(width=width)).splitlines()
    assert lines[0] == "Your own model:"
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("    bnfold ") for line in lines) == 3
