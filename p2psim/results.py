"""Reading `run.h5`: progress, summaries, and joining it into one file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from p2psim.errors import InputError


def run_file(path: Path) -> Path:
    """The file of a run, given as a folder or as the file itself."""
    file = path / "run.h5" if path.is_dir() else path
    if not file.is_file() or not h5py.is_hdf5(file):
        raise InputError(f"{str(path)!r} is not a run: give a run folder, or its run.h5")
    return file


def open_run(path: Path) -> h5py.File:
    """The run opened for reading, also while it is being written."""
    return h5py.File(run_file(path), "r", locking=False)


def progress(folder: Path) -> tuple[int, int, float] | None:
    """(rounds that every peer has completed, of how many, mean loss), None before the start."""
    if not (folder / "run.h5").exists():
        return None
    with open_run(folder) as file:
        rounds = file["train/round"][:]
        done = int((rounds >= 0).sum(axis=1).min())
        loss = file["train/loss"][:, done - 1].mean() if done else np.nan
    return done, rounds.shape[1], float(loss)


def failures(folder: Path) -> list[str]:
    """What the peers that failed left as their reason."""
    texts = []
    for path in sorted(folder.glob("peers/peer-*.h5")):
        with h5py.File(path, "r", locking=False) as file:
            texts += [str(file.attrs["failure"])] if "failure" in file.attrs else []
    return texts


def summary(folder: Path) -> str:
    """One line on how a run ended."""
    with open_run(folder) as file:
        accuracy, phase = file["eval/accuracy"][:, -1], file["eval/phase"][0, -1]
        return (
            f"{folder}: {file.attrs['status']}, accuracy {np.mean(accuracy):.4f} "
            f"(phase {phase}), {file['train/bytes_sent'][:, -1].mean():.0f} bytes sent per peer"
        )
