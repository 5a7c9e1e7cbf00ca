"""Where gradients are computed: the processor, or a GPU that the peers of a node share.

What algorithms and compressors work on lies in host memory in either case: a model goes to the GPU
and its gradient comes back through pinned memory, and messages are made and sent from the host.
"""

from __future__ import annotations

import os

from p2psim.errors import InputError

# Without it cuBLAS may sum in another order the next time.
REPEATABLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def pick(wanted: str, place: int) -> str:
    """torch's name of the device for the `place`-th peer of this node; see config.Execution.

    InputError where there is no such device. GPUs are set to give the same bits every time.
    """
    if wanted == "cpu":
        return "cpu"
    import torch

    count = torch.cuda.device_count()
    if not count:
        if wanted == "auto":
            return "cpu"
        raise InputError(
            f"run.device = {wanted!r}: torch {torch.__version__} finds no GPU here; give 'cpu' or "
            "'auto', or install a torch that is built for this machine's GPU"
        )
    for name, value in REPEATABLE.items():
        os.environ.setdefault(name, value)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return f"cuda:{place % count}"
