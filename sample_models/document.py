"""docs/networks.md: what each network is, our figures beside the published ones, and the curves."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final

from sample_models import NETWORKS, Network
from sample_models.plotting import draw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sample_models.figures import Figures

_OPENING: Final = """# The published networks

bnfold is proved on networks that taught people batch norm. Each trains on MNIST with one command, is exported to ONNX
and PyTorch with its batch norms kept, folds completely, and is verified on the 10,000 test images from both. Small
trained files of each lie in `sample_models/` ([manifest](../sample_models/manifest.json)); tinycnn, 63 MB, is stood in
for by its small sibling smallcnn.

```sh
python -m sample_models list              # the networks
python -m sample_models train NAME        # on MNIST; writes NAME.onnx and NAME.safetensors
python -m sample_models export NAME       # the same files from trained weights
python -m sample_models reproduce NAME    # our figures beside the published ones, and the curves
python -m sample_models document          # this page; reproduces what has not been reproduced yet
```

fcnet and threelayer are trained by a batch norm written from scratch in NumPy (`sample_models/numpy_bn/`) and exported
with `onnx.helper`: no framework and no exporter has touched them. Its gradients agree with numerical ones below 1e-7,
its closed form with its graph form below 1e-12, and whole networks with PyTorch's in float64 below 1e-10; the tests
hold that.

sigmoid100 can be exported as it runs in training, too (`export sigmoid100 --batch-statistics`): in ONNX its BNs are in
training mode, in PyTorch they track no statistics. Both are refused by `convert`, with the reasons BNF101 and BNF102.
"""


def page(reproduced: Mapping[str, Figures]) -> str:
    """The page, from the figures of each published network."""
    sections = [_section(network, reproduced[network.name]) for network in NETWORKS if network.published]
    return "\n".join([_OPENING, *sections])


def pictures(reproduced: Mapping[str, Figures]) -> dict[str, bytes]:
    """The curves of each network that has some, as SVG, by file name."""
    return {f"{name}.svg": draw(figures) for name, figures in reproduced.items() if figures.charts}


def _section(network: Network, figures: Figures) -> str:
    text = (inspect.getdoc(network.file()) or "").partition("\n\n")[2].replace("``", "`")
    lines = [f"## {network.name}", "", text, "", f"Trained with: {network.file().RECIPE}.", ""]
    lines += [f"| {figures.title} | published | ours |", "| --- | ---: | ---: |"]
    lines += [f"| {row.what} | {row.published} | {row.ours} |" for row in figures.rows]
    lines += ["", *figures.notes, ""]
    if figures.charts:
        lines += [f"![Curves of {network.name}](networks/{network.name}.svg)", ""]
    return "\n".join(lines)
