"""Why a batch norm stays: every reason has a code, a name, an explanation and a way out.

Codes are stable and never reused. 1xx: the batch norm itself; 2xx: its neighbourhood; 3xx: the effect of folding.
A larger number means that the fold got further, so of two misses the larger is the nearer one.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfold.core.graph import Node


class Reason(Enum):
    """A reason not to fold: ``Reason.FAN_OUT.code`` is ``BNF202``, ``.slug`` is ``fan-out``."""

    TRAINING_MODE = (
        101,
        "training-mode",
        "the batch norm normalises with the statistics of each batch",
        "In training mode the scale and shift change with every batch: there is no fixed affine map to fold.",
        "Export the model in inference mode (module.eval(), training_mode=0); or give it the statistics of your data, "
        "bnfold calibrate MODEL --data DATA -o OUT, and convert OUT.",
    )
    NO_RUNNING_STATS = (
        102,
        "no-running-stats",
        "the batch norm has no running mean and variance",
        "Without running statistics (track_running_stats=False) the batch's own are used, also at inference.",
        "Give it the statistics of your data, bnfold calibrate MODEL --data DATA -o OUT, and convert OUT.",
    )
    PARAMETERS_NOT_CONSTANT = (
        103,
        "parameters-not-constant",
        "a parameter of the batch norm is computed while the model runs",
        "Folding needs the values of scale, shift, mean and variance; a computed one may differ from run to run.",
        "Store the parameter in the model (an initializer, a buffer), or run a constant-folding pass first; where it "
        "is computed from each batch, bnfold calibrate MODEL --data DATA -o OUT gives it a fixed value.",
    )
    STATISTICS_OUTPUTS_USED = (
        104,
        "statistics-outputs-used",
        "the batch norm also outputs statistics",
        "Before opset 14 further outputs put the operator into training mode; from opset 14 somebody may read them.",
        "Export the model for inference, so that the batch norm has one output.",
    )
    NON_FINITE_PARAMETERS = (
        105,
        "non-finite-parameters",
        "NaN, Inf or a variance + ε that is not positive",
        "The scale of the named channels is no finite number; folding would spread it into the layer's weights.",
        "Look at the training of the named channels: this batch norm is broken with or without folding.",
    )
    FOREIGN_AXIS = (
        106,
        "foreign-axis",
        "the batch norm has a scale per element, not per channel",
        "With spatial=0 (opset 8 and older) statistics belong to single elements, which no channel of a layer has.",
        "Export the model with a per-channel batch norm (opset 9 or newer).",
    )
    QUANTISED = (
        107,
        "quantised",
        "the batch norm works on quantised numbers",
        "Its input and output are rounded to a few bits; a layer that did its work would round at another place.",
        "Fold the float model, and quantise what comes out.",
    )
    NO_LINEAR_LAYER = (
        201,
        "no-linear-layer",
        "no linear layer can be reached",
        "A non-linear or unknown operator, or the edge of the model, lies between the batch norm and any layer.",
        "Nothing to do: a batch norm behind an activation is part of what the network computes.",
    )
    FAN_OUT = (
        202,
        "fan-out",
        "somebody else reads the value that would change",
        "Folding changes the layer's output; the other readers would see the normalised value instead of the raw one.",
        "Let the other readers read the batch norm's output, or give the batch norm a layer of its own.",
    )
    MODEL_OUTPUT = (
        203,
        "model-output",
        "the value that would change is an output of the model",
        "The caller receives the value before the batch norm; folding would change it.",
        "Drop that output if nobody needs it, then convert again.",
    )
    LAYOUT_MOVES_CHANNELS = (
        204,
        "layout-moves-channels",
        "a reshape or transpose mixes the channels",
        "On the other side one channel of the layer would need two different scales.",
        "Put the batch norm before the reshape or transpose.",
    )
    CHANNEL_MISMATCH = (
        205,
        "channel-mismatch",
        "the layer's channels are not the batch norm's",
        "The batch norm acts on another axis than the layer's outputs, or on another number of channels. "
        "Equal sizes prove nothing: the axis is followed.",
        "Move the batch norm to the layer's channel axis; where the shape is unknown, export with known ranks.",
    )
    PADDED_INPUT = (
        206,
        "padded-input",
        "the layer below pads with zeros",
        "The batch norm's shift would have to be in the padding too; at the border the folded network would differ.",
        "Pad before the batch norm, or use a convolution without zero padding.",
    )
    WEIGHT_NOT_CONSTANT = (
        207,
        "weight-not-constant",
        "the layer's weight or bias is computed",
        "Only a stored tensor can be rewritten; a computed weight (weight norm, a parametrization, an input) cannot.",
        "Make the weight a stored tensor first (remove_weight_norm, remove_parametrizations, constant folding).",
    )
    WEIGHT_SHARED = (
        208,
        "weight-shared",
        "another layer uses the same weight",
        "The modules share one parameter; rewriting it for one would change the other.",
        "Untie the weights (clone the parameter) if they need not stay equal.",
    )
    RUNS_MORE_THAN_ONCE = (
        209,
        "runs-more-than-once",
        "the layer or the batch norm runs more than once",
        "One module serves several places; only one of them is followed by this batch norm.",
        "Give each place a module of its own (copy.deepcopy), then convert again.",
    )
    HOOKED = (
        210,
        "hooked",
        "code of the user's looks into the layer or the batch norm",
        "A hook, a forward method of a subclass, or code elsewhere that uses its tensors may look at, or change, "
        "what the fold would change.",
        "Remove the hooks, use the plain class, and let nothing else use its tensors; then convert again.",
    )
    OVERRIDABLE_INITIALIZER = (
        211,
        "overridable-initializer",
        "the tensor is also an input of the model",
        "From IR version 4 on an initializer that is also a graph input is only a default: a caller may replace it.",
        "Give --freeze (freeze=True) if no caller replaces it.",
    )
    INSIDE_FUNCTION = (
        212,
        "inside-function",
        "the batch norm is inside a local function of the model",
        "A fold in a function holds for every call: its constants are its own, or come from the only call. "
        "Nothing is carried beyond the function, and one whose opset has other versions of its operators than the "
        "model's is not followed.",
        "Inline the model's local functions (onnx.inliner.inline_local_functions), then convert again; where they are "
        "of another opset, export the model anew with one opset for all of it.",
    )
    UNLIKE_SIBLING = (
        213,
        "unlike-sibling",
        "no layer beside it in the sum is of its kind",
        "A sum of layers is one layer only where all read the same value with the same stride and groups, and where "
        "the smaller kernels lie within the largest one.",
        "Let the branches of the sum read the same value, with stride 1 beside a batch norm alone, and paddings that "
        "keep their sizes.",
    )
    DTYPE_OVERFLOW = (
        301,
        "dtype-overflow",
        "a folded weight does not fit the layer's dtype",
        "Folding would turn a finite weight or bias into Inf.",
        "Convert the model in a wider dtype (float32 instead of float16).",
    )
    NEUTRALISED_NOT_REMOVED = (
        302,
        "neutralised-not-removed",
        "folded, but the batch norm stays as an identity",
        "Its class or its caller is not known well enough to take it out; what remains of it changes nothing.",
        "Nothing to do: the result is right, though not faster at this place.",
    )
    EXCLUDED_BY_USER = (
        303,
        "excluded-by-user",
        "excluded by --only or --skip",
        "The command asked for this batch norm to be left alone.",
        "Change --only or --skip.",
    )

    def __init__(self, number: int, slug: str, title: str, why: str, remedy: str) -> None:
        self.code = f"BNF{number}"
        self.slug = slug
        self.title = title
        self.why = why
        self.remedy = remedy


class Miss(Exception):  # noqa: N818 - not an error: the ordinary answer of a rule that does not apply
    """A rule's answer where it does not apply: the reason, the node in the way (None: the model's edge), details."""

    def __init__(self, reason: Reason, node: Node | None, detail: str) -> None:
        self.reason = reason
        self.node = node
        self.detail = detail
        super().__init__(f"{reason.code} {reason.slug} at {node.label if node else 'the model'}: {detail}")
