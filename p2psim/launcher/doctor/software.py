"""Checks of software and data: torch, the data sets and the experiment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from p2psim.errors import InputError
from p2psim.launcher import mpi_libraries
from p2psim.launcher.doctor.finding import (
    OK,
    PROBLEM,
    Examination,
    Finding,
    last_line,
    run_check,
    run_program,
)

TORCH = "import torch; print(torch.__version__, torch.cuda.device_count())"
TORCH_SECONDS = 120.0  # the import takes 2 s, but much longer from a slow shared file system


def torch() -> Iterator[Finding]:
    """Check that torch can be imported, and report the GPUs that peers can use."""
    code, out, errors = run_program([sys.executable, "-c", TORCH], TORCH_SECONDS)
    if code:
        cause = f"cannot be imported ({last_line(errors)})"
        yield Finding(PROBLEM, "torch", f"{cause}: pip install --force-reinstall torch")
        return
    version, devices = out.split()
    if devices == "0":
        yield Finding(OK, "torch", f"{version}, peers compute on the CPU (no CUDA device)")
        return
    aware = {
        True: "is CUDA-aware",
        False: "is not CUDA-aware",
        None: "does not report if it is CUDA-aware",
    }
    yield Finding(
        OK,
        "torch",
        f"{version}, {devices} CUDA devices for run.device = 'cuda'; the MPI library "
        f"{aware[mpi_libraries.cuda_aware()]}, messages pass through host memory in any case",
    )


def data_sets() -> Iterator[Finding]:
    """Report the installed data sets; the one of the experiment is checked with the experiment."""
    from p2psim import registry
    from p2psim.data import (
        ag_news,
        citation_graph,
        criteo,
        files,
        imagenette,
        libsvm,
        llff,
        nerf_synthetic,
        senteval_length,
        sources,
        text_file,
    )

    opened = ("digits", "diabetes", "mnist", "cifar10")
    probes: dict[str, Callable[[], object]] = {
        name: partial(registry.names("data")[name]().open, "") for name in opened
    }
    # Only the files of these data sets are located: to open them would take seconds.
    probes |= {
        "imagenette": imagenette.find_root,
        "senteval-length": partial(senteval_length.FILES.find, senteval_length.NAME),
        "ag-news": partial(ag_news.FILES.find, ag_news.TRAIN),
        "criteo": partial(criteo.find, criteo.OWN, Path()),
        "planetoid": partial(citation_graph.find, "cora", Path(), "x"),
        "nerf-synthetic": partial(nerf_synthetic.FILES.find, "lego/transforms_train.json"),
        "llff": partial(llff.FILES.find, "fern/poses_bounds.npy"),
    }
    probes |= {
        name: partial(text_file.find, name, text, Path()) for name, text in text_file.TEXTS.items()
    }
    installed = [name for name, probe in probes.items() if is_found(probe)]
    tables = [name for name in libsvm.FEATURES if is_found(partial(libsvm.find, name, Path()))]
    text = f"{', '.join([*installed, *tables])} found; P2PSIM_DATA: {files.data_folder()}"
    missing = [name for name in sources.SETS if name not in installed]
    text += f"; available with p2psim data fetch: {', '.join(missing)}" if missing else ""
    missing_tables = [name for name in libsvm.FEATURES if name not in tables]
    if missing_tables:
        text += f"; available from {libsvm.HOME}: {', '.join(missing_tables)}"
    for name, source in sources.UNCHECKED.items():
        text += "" if name in installed else f"; {name}: {source}"
    yield Finding(OK, "data sets", text)


def is_found(probe: Callable[[], object]) -> bool:
    """Return True if `probe` finds its data set, that is, raises no InputError."""
    try:
        probe()
    except InputError:
        return False
    return True


def load_experiment(
    experiment: Path | None, settings: tuple[str, ...], out: Path | None
) -> tuple[Examination, list[Finding]]:
    """Load the experiment, if given; returns the run to examine, and findings about the file."""
    examinations = [Examination(out or Path.cwd())]

    def load() -> Iterator[Finding]:
        from p2psim.experiment.holdings import Holdings
        from p2psim.launcher import run_requests

        if experiment is None:
            return
        request = run_requests.requests(experiment, settings, out, force=True)[0]
        scenario = request.scenario()
        Holdings(scenario).check()  # a damaged file shows here
        examinations.append(Examination(request.folder, scenario.peers, scenario))
        text = (
            f"{scenario.peers} peers, {scenario.parameters:,} parameters, {scenario.rounds} rounds"
        )
        yield Finding(OK, "experiment", text)

    problems = run_check("experiment", load)
    return examinations[-1], problems
