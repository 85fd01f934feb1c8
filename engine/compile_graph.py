"""Compiles a recorded graph to native code of the same bits; a process of its own, beside the one that learns.

    python -m graftwork.engine.compile_graph GRAPH.json DIRECTORY

TorchInductor turns what lies between products of matrices into few loops, and no Python is left between the operations.
It may round otherwise than torch where it adds up many numbers or writes a function in its own way: all but the
operations in EXACT is left to torch's own kernels. Writes model.so, and model.json if it calls such kernels.
"""

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from torch import fx

from .graph_text import from_text

LONGEST = 600  # seconds
_PR_SET_PDEATHSIG = 1

# Views, copies, choices, and arithmetic that IEEE 754 leaves one result for.
_EXACT = """
    t permute transpose view _unsafe_view reshape expand squeeze unsqueeze slice select alias detach clone lift_fresh
    lift_fresh_copy stack cat unbind split gather take index_select embedding where masked_fill empty_like zeros_like
    ones_like full_like new_zeros new_ones new_full zeros ones full scalar_tensor arange _to_copy add sub rsub mul div
    neg abs sign sqrt reciprocal square relu threshold_backward clamp clamp_min clamp_max minimum maximum floor ceil
    trunc round eq ne lt le gt ge isnan isinf isfinite argmax argmin amax amin logical_and logical_or logical_not
    bitwise_and bitwise_or bitwise_not bitwise_xor __and__ __or__ __xor__ __rshift__ __lshift__ huber_loss
    huber_loss_backward smooth_l1_loss smooth_l1_loss_backward mse_loss mse_loss_backward mm addmm bmm
"""
EXACT = frozenset(_EXACT.split())


def main() -> None:
    source, directory = map(Path, sys.argv[1:])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # not to outlive a run that was killed
    os.nice(19)
    signal.alarm(LONGEST)
    compile_graph(source.read_text(), directory)


def compile_graph(text: str, directory: Path) -> None:
    """All of it or nothing is in the directory, whatever happens."""
    from torch._inductor import lowering
    from torch._inductor.compile_fx import compile_fx_aot
    from torch._inductor.decomposition import decompositions, fast_random_decomps

    module, inputs = from_text(text)
    for kernel in {node.target for node in module.graph.nodes if _is_left_to_torch(node)}:
        decompositions.pop(kernel, None)
        lowering.lowerings.pop(kernel, None)
        lowering.make_fallback(kernel, warn=False, override_decomp=True)  # type: ignore[no-untyped-call]
    fast_random_decomps.cache_clear()  # a copy of the table
    with torch.no_grad():
        found = compile_fx_aot(module, [*inputs])
    made = Path(str(found))
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f"{directory.name}.{os.getpid()}")
    partial.mkdir()
    shutil.copyfile(made, partial / "model.so")
    if (calls := made.with_suffix(".json")).exists():
        shutil.copyfile(calls, partial / "model.json")
    partial.rename(directory)


def _is_left_to_torch(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target.namespace != "aten" or node.target.overloadpacket.__name__ not in EXACT


if __name__ == "__main__":
    main()
