"""Start of the ranks of a run: MPI libraries, Slurm, stubs, fork server, doctor."""
