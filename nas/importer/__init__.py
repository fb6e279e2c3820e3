"""A user's own conv net as (Graph, Weights), by way of torch.export: then it is quantized, compiled, costed and exported like ours."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.importer.convert import Decode, convert
from nas.importer.errors import ImporterError
from nas.importer.pt2 import read
from searchspaces import Graph, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Decode", "ImporterError", "import_file", "import_module"]


def import_module(
    module: nn.Module,
    example: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    decode: Decode | None = None,
    bits: tuple[int, int] = (8, 8),
) -> tuple[Graph, Weights]:
    """The Graph of a module in eval mode and its float weights, for images of `example`'s size.

    example    (N, C, H, W) as the module takes it; H and W may differ
    mean, std  a number or one for each channel, where the module wants (image - mean) / std: the Graph takes images in 0..1, and
               normalizes them itself
    decode     of a detector whose outputs are its head's raw maps: the Graph then ends in boxes
    bits       (weights, activations) that quantization gives every layer; searchspaces.quantizers.floated drops them

    A module that is called several times becomes as many layers with copies of its weights.  Raises ImporterError naming an operator
    without a counterpart, and where it was called; what torch.export cannot trace raises torch's own errors.
    """
    import torch

    if module.training:
        raise ImporterError("the module is in training mode, where batch-norms and dropout differ: call .eval() before")
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 warns of its own deprecated names as it saves
        torch.export.save(torch.export.export(module, (example,)), file)
    return convert(read(file.getvalue(), f"the export of {type(module).__name__}"), mean=mean, std=std, decode=decode, bits=bits)


def import_file(
    path: Path | str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    decode: Decode | None = None,
    bits: tuple[int, int] = (8, 8),
) -> tuple[Graph, Weights]:
    """The same from a file of torch.export.save, without torch.  The file may be anybody's: nothing in it is run or unpickled."""
    try:
        data = Path(path).read_bytes()
    except OSError as fault:
        raise ImporterError(f"{path}: {fault.strerror}") from None
    trace = read(data, str(path))
    try:
        return convert(trace, mean=mean, std=std, decode=decode, bits=bits)
    except ImporterError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError) as fault:
        # A file that torch did not write: calls with arguments that their operators do not have, or out of order.
        raise ImporterError(f"{path} holds a graph that is not sound: {type(fault).__name__}: {fault}") from None
