"""What is known of a module by its class: whether its forward method is torch's own, and whether hooks look at it."""

from __future__ import annotations

import torch
from torch import nn

from bnfold.core.graph import Lock
from bnfold.core.reason import Reason

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
BatchNorm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - the base of all batch norms has no public name
OWN_FORWARD = tuple(cls.forward for cls in (*LAYERS, BatchNorm, nn.SyncBatchNorm))
"""The forward methods that are known to do one linear layer or batch norm, and nothing else."""
OWN_CONVOLUTION = {kind.forward: kind._conv_forward for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)}  # noqa: SLF001 - a part of forward
"""What the forward methods of convolutions leave their work to; a class, or a module, may have its own."""


def forward_of(module: nn.Module) -> object:
    """The forward method of a module's class; None where it has none that can be told, as in TorchScript."""
    return getattr(type(module), "forward", None)


def is_known(module: nn.Module) -> bool:
    """Whether a module is one linear layer or one batch norm, and runs no code but torch's."""
    forward = forward_of(module)
    if forward in OWN_CONVOLUTION:
        convolution = getattr(module, "_conv_forward", None)
        return getattr(convolution, "__func__", None) is OWN_CONVOLUTION[forward] and not is_wrapped(module)
    return forward in OWN_FORWARD and not is_wrapped(module)


def is_wrapped(module: nn.Module) -> bool:
    """Whether something else than the forward method of its class, or more, runs when a module is called."""
    return type(module).__call__ is not nn.Module.__call__ or "forward" in vars(module)


def is_training(module: nn.Module) -> bool:
    """Whether a module is in training mode; one that TorchScript has frozen has no mode."""
    return bool(getattr(module, "training", False))


def is_frozen(module: nn.Module) -> bool:
    """Whether a module of another kind holds running statistics, and nothing of its own that could be trained."""
    if isinstance(module, BatchNorm) or next(module.parameters(recurse=False), None) is not None:
        return False
    return {name for name, _ in module.named_buffers(recurse=False)} >= {"running_mean", "running_var"}


def has_pre_hooks(module: nn.Module) -> bool:
    """Whether hooks of the user's see what goes into ``module``."""
    # Here and below: torch offers no public way to ask.
    return bool(module._forward_pre_hooks or nn.modules.module._global_forward_pre_hooks)  # noqa: SLF001 - as said


def has_post_hooks(module: nn.Module) -> bool:
    """Whether hooks of the user's see what goes into ``module`` and what comes out of it, or their gradients."""
    here = module._forward_hooks or module._backward_hooks or module._backward_pre_hooks  # noqa: SLF001 - as said
    return bool(here or nn.modules.module._global_forward_hooks)  # noqa: SLF001 - as said


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks of the user's see ``module`` run."""
    return has_pre_hooks(module) or has_post_hooks(module)


def layer_lock(module: nn.Module, *, hooked: bool) -> Lock | None:
    """Why a module's tensors may not be rewritten: code that bnfold does not know runs with its one linear layer."""
    if isinstance(module, torch.jit.ScriptModule):
        return Lock(Reason.HOOKED, "it runs in TorchScript")
    if forward_of(module) in OWN_FORWARD and hooked:
        return Lock(Reason.HOOKED, "it has hooks")
    if isinstance(module, LAYERS) and not is_known(module):
        return Lock(Reason.HOOKED, f"{type(module).__name__} has a forward method of its own")
    return None


def has_a_say(tensor: torch.Tensor) -> bool:
    """Whether the class of a tensor decides what torch's functions do with it."""
    own = type(tensor).__torch_function__
    return getattr(own, "__func__", own) not in PLAIN_FUNCTIONS


PLAIN_FUNCTIONS = tuple(
    getattr(kind.__torch_function__, "__func__", kind.__torch_function__) for kind in (torch.Tensor, nn.Parameter)
)
"""What stands there in tensors and parameters of torch's own."""
