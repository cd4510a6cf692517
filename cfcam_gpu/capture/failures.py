"""Why a model cannot be explained, in one sentence, where PyTorch's own words do not say what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from cfcam_gpu._utils.checks import Ended
from cfcam_gpu._utils.device import out_of_memory
from cfcam_gpu._utils.messages import first_line
from cfcam_gpu._utils.undo import end_contexts
from cfcam_gpu.errors import CaptureError, CFCAMError, ModelFailedError


def _is_exported(model: nn.Module) -> bool:
    """Whether it is the flat graph of an exported program: operators, without the modules they came from."""
    if not isinstance(model, fx.GraphModule):
        return False
    return any(isinstance(node.target, torch._ops.OpOverload) for node in model.graph.nodes)


def _is_quantised(model: nn.Module) -> bool:
    return any(".quantized." in f"{type(module).__module__}." for module in model.modules())


#: What a model may be, and the end of the sentence that begins with "the model is ".
_KINDS: tuple[tuple[Callable[[nn.Module], bool], str], ...] = (
    (
        lambda model: isinstance(model, torch.jit.ScriptModule),
        "TorchScript (scripted or traced), whose layers cannot be looked into; pass the Python module it was "
        "made from, or export that with torch.export and pass torch.export.unflatten(program)",
    ),
    (
        _is_exported,
        "an exported program's flat graph, which has no layers; pass torch.export.unflatten(program)",
    ),
    (
        _is_quantised,
        "quantised, and quantised layers are not differentiable; explain the float model it was made from",
    ),
)


def why_not(model: nn.Module) -> str:
    """What is special about a model whose layers cannot be explained, as the end of a sentence; else nothing.

    Example:
        >>> why_not(nn.ReLU())
        ''
        >>> why_not(torch.jit.script(nn.ReLU())).partition(",")[0]
        '; the model is TorchScript (scripted or traced)'
    """
    return next((f"; the model is {sentence}" for is_kind, sentence in _KINDS if is_kind(model)), "")


def check_model(model: Any) -> None:
    """Refuses what is no model, and models whose layers cannot be reached.

    Raises:
        CaptureError: with what to pass.

    Example:
        >>> try:
        ...     check_model({"fc.weight": torch.ones(1)})
        ... except CaptureError as error:
        ...     print(str(error).partition(";")[0])
        model must be a torch.nn.Module, got dict
    """
    if isinstance(model, torch.export.ExportedProgram):
        raise CaptureError("the model is an ExportedProgram; pass torch.export.unflatten(program)")
    if not isinstance(model, nn.Module):
        advice = "load weights into a module with load_state_dict first" if isinstance(model, dict) else ""
        raise CaptureError(
            f"model must be a torch.nn.Module, got {type(model).__name__}"
            + (f"; {advice}" if advice else "; wrap a function in a module's forward")
        )
    if isinstance(model, torch.jit.ScriptModule) or _is_exported(model):
        raise CaptureError(why_not(model).removeprefix("; "))


def run_model(model: nn.Module, images: Tensor) -> Any:
    """The model's output for images.

    Raises:
        ModelFailedError: the model raised an error; memory that is used up, and errors of this package, pass unchanged.

    Example:
        >>> try:
        ...     run_model(nn.Linear(3, 2), torch.ones(1, 4))
        ... except ModelFailedError as error:
        ...     print(error.sentence)
        the model failed on images (1, 4): mat1 and mat2 shapes cannot be multiplied (1x4 and 3x2)
    """
    try:
        return _run(model, images)
    except Ended as ended:
        raise ended.error from None
    except CFCAMError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        # The message of a KeyError, and of some others, is no sentence.
        kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
        cause = kind + first_line(error) if str(error) else type(error).__name__
        raise ModelFailedError(
            f"the model failed on images {tuple(images.shape)}: {cause}", _advice(error, model)
        ) from error


def _run(model: nn.Module, images: Tensor) -> Any:
    try:
        return model(images)
    except BaseException as error:
        end_contexts(error)
        raise


def _advice(error: Exception, model: nn.Module) -> str:
    dtypes = sorted(
        {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
    )
    if len(dtypes) > 1 and any(word in str(error).lower() for word in ("dtype", "type (")):
        return f"its parameters are {' and '.join(dtypes)}: make them one, as model.float() does"
    return "run model(images) by itself to see where"


def gradient_failure(error: RuntimeError) -> CaptureError | None:
    """What a failure of the backward pass means; None: nothing that is known here."""
    text = f"{type(error).__name__}: {error}"
    if "checkpoint" in text.lower():
        return CaptureError(
            "the layer lies inside activation checkpointing (torch.utils.checkpoint), which runs it again in the "
            "backward pass; turn checkpointing off, as with model.set_grad_checkpointing(False) or "
            "model.gradient_checkpointing_disable(), or choose a layer outside"
        )
    if "modified by an inplace operation" in text:
        return CaptureError(
            "behind the layer the model changes a tensor in place (+=, relu_, inplace=True) whose values the backward "
            "pass needs; make that operation return a new tensor, choose a layer behind it, or a method without "
            "gradients, such as eigencam or scorecam"
        )
    return None
