# Starts the ranks of one run with Slurm, inside an allocation (of sbatch or salloc).
# p2psim run calls it as: sh slurm.sh COMMAND..., with P2PSIM_PEERS ranks wanted; P2PSIM_PMI is what
# joins them, found by trying.
# Edit here what your site needs: --cpu-bind=cores, --distribution=cyclic, --mem-per-cpu=0.
# More ranks than cores are normal: --overcommit. A rank that dies ends the run: --kill-on-bad-exit.
# --overlap: the shell of salloc or srun --pty keeps its core, and the ranks may use it all the same.
exec srun --mpi="$P2PSIM_PMI" --ntasks="$P2PSIM_PEERS" \
    --overcommit --overlap --kill-on-bad-exit=1 --export=ALL "$@"
