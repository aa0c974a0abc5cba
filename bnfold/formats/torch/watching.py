"""A PyTorch module that is run for what its activations give, rather than for what it returns."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def activations(module: nn.Module) -> list[str]:
    """The names of PyTorch's own activations in ``module``: what they give, folding leaves as it is."""
    return [name for name, part in module.named_modules() if type(part).__module__ == nn.ReLU.__module__]


class Watching(nn.Module):
    """Returns what the activations ``names`` of ``module`` gave in one run, by name; a second call's is ``name:2``."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module = module
        self._names = names

    def forward(self, *inputs: Any, **keywords: Any) -> dict[str, Tensor]:  # noqa: ANN401 - whatever the module takes
        """Run the module once."""
        given: dict[str, Tensor] = {}

        def remember(name: str, output: object) -> None:
            calls = sum(key.partition(":")[0] == name for key in given)
            if isinstance(output, Tensor):
                given[name if calls == 0 else f"{name}:{calls + 1}"] = output.clone()

        hooks = [
            self.module.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: remember(name, output)
            )
            for name in self._names
        ]
        try:
            self.module(*inputs, **keywords)
        finally:
            for hook in hooks:
                hook.remove()
        return given
