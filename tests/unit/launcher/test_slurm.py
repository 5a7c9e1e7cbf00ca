"""What p2psim sees of Slurm: variables in its environment, and what srun answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from p2psim.errors import InputError
from p2psim.launcher import environment, ranks, slurm

BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
STEP = {**BATCH, "SLURM_PROCID": "2", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}
ALONE = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}
PMI = {"PMI_RANK": "0", "PMI_SIZE": "1", "PMI_FD": "11"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (BATCH, None),
        ({**STEP, "PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({**STEP, "PMIX_RANK": "2"}, (2, 4)),
        (STEP, (2, 4)),  # --mpi=none: to be refused
        ({**ALONE, **PMI}, None),  # srun --pty bash
        ({**ALONE, **PMI, "P2PSIM_LAUNCHED": "1"}, (0, 1)),
        ({**BATCH, "PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),  # mpiexec in a batch script
    ],
    ids=["batch", "pmi2", "pmix", "none", "shell", "single", "mpiexec"],
)
def test_who_is_a_rank(
    variables: Mapping[str, str], expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM", "PMI", "OMPI", "P2PSIM")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment.mpi_rank() == expected


@pytest.mark.parametrize(
    ("variables", "netmod"),
    [
        ({}, None),
        (BATCH, "ofi"),
        (STEP, "ofi"),
        ({**STEP, "MPIR_CVAR_CH4_NETMOD": "ucx"}, "ucx"),
    ],
    ids=["outside", "batch", "step", "chosen"],
)
def test_the_network_for_mpich(
    variables: Mapping[str, str], netmod: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(variables))
    slurm.short_addresses()
    assert os.environ.get("MPIR_CVAR_CH4_NETMOD") == netmod


# What srun --mpi=list has said over the years; new ones on stdout, old ones on stderr.
NEW = r"printf 'MPI plugin types are...\n\tpmix\n\tnone\n\tcray_shasta\n\tpmi2\n"
NEW += r"specific pmix plugin versions available: pmix_v4\n'"
OLD = r"printf 'srun: MPI types are...\nsrun: none\nsrun: pmi2\nsrun: pmix\n"
OLD += r"srun: cray_shasta\n' >&2"
SRUN = """#!/bin/sh
for option; do
    case $option in
    --mpi=list) {listed}; exit ;;
    --mpi=*) echo "$option $*" >> tried; [ "$option" = "--mpi={joins}" ]; exit ;;
    esac
done
"""


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, joins: str, listed: str = NEW) -> None:
    """An srun that joins ranks with one flavor only."""
    (folder / "srun").write_text(SRUN.format(listed=listed, joins=joins))
    (folder / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("P2PSIM_PMI", raising=False)
    monkeypatch.chdir(folder)


def tried(folder: Path) -> list[str]:
    """The flavors that were tried."""
    path = folder / "tried"
    calls = path.read_text().splitlines() if path.exists() else []
    return [call.split()[0].removeprefix("--mpi=") for call in calls]


@pytest.mark.parametrize("listed", [NEW, OLD], ids=["new", "old"])
@pytest.mark.parametrize("joins", ["pmi2", "pmix", "cray_shasta"])
def test_the_flavor_that_joins_ranks_is_taken(
    joins: str, listed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, joins, listed)
    assert ranks.find_launcher().environment == {"P2PSIM_PMI": joins}
    order = ["pmi2", "pmix", "cray_shasta"]
    assert tried(tmp_path) == order[: order.index(joins) + 1]
    assert f"--ntasks={slurm.TRIAL} " in (tmp_path / "tried").read_text()


def test_no_flavor_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "another")
    with pytest.raises(InputError, match=r"\(pmi2, pmix, cray_shasta\): .*--launch mpich"):
        ranks.find_launcher()


def test_srun_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "pmi2", "echo 'srun: fatal: no configuration' >&2; exit 1; :")
    with pytest.raises(InputError, match="fatal: no configuration"):
        ranks.find_launcher()


def test_the_users_choice_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "pmi2")
    monkeypatch.setenv("P2PSIM_PMI", "special")
    assert ranks.find_launcher().environment == {"P2PSIM_PMI": "special"}
    assert tried(tmp_path) == []


def test_outside_an_allocation_srun_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "pmi2")
    monkeypatch.delenv("SLURM_JOB_ID")
    assert ranks.find_launcher().file.name == "local.sh"
    assert tried(tmp_path) == []
