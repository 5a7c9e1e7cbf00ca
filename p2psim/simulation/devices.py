"""Device on which a peer computes gradients: the CPU, or a GPU that the peers of a node share.

Algorithms and compressors always operate on host memory. With a GPU, the model is copied to it and
the gradient is copied back through pinned memory; messages are built in and sent from the host.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from p2psim.errors import InputError

# Without this variable cuBLAS may sum in a different order each time.
REPEATABLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def pick(device: str, local_rank: int) -> str:
    """Return torch's name of the device for a peer; `device` is [run] device.

    Peers use the GPUs of their node in turn, by `local_rank`. InputError if the device does not
    exist. GPU arithmetic is configured to give the same bits in every run.
    """
    if device == "cpu":
        return "cpu"
    import torch

    count = torch.cuda.device_count()
    if not count:
        if device == "auto":
            return "cpu"
        raise InputError(
            f"run.device = {device!r}: torch {torch.__version__} finds no GPU here; give 'cpu' or "
            "'auto', or install a torch that is built for this machine's GPU"
        )
    for name, value in REPEATABLE.items():
        os.environ.setdefault(name, value)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return f"cuda:{local_rank % count}"


@contextlib.contextmanager
def like_a_rank() -> Iterator[None]:
    """Compute with one thread in this block, as ranks do, for a caller that runs peers in threads.

    Afterwards the caller has its numbers of threads and torch's random numbers again.
    """
    import threadpoolctl
    import torch

    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        with threadpoolctl.threadpool_limits(1):  # of NumPy
            torch.set_num_threads(1)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
