# Starts the ranks of one run with Slurm, inside an allocation (of sbatch or salloc).
# Called by p2psim run as: sh slurm.sh COMMAND...; the number of ranks is in P2PSIM_PEERS. The PMI
# that connects them is in P2PSIM_PMI; p2psim run has determined it with a trial.
# Edit here what your site needs: --cpu-bind=cores, --distribution=cyclic, --mem-per-cpu=0.
#   --overcommit          runs often have more ranks than cores
#   --overlap             the ranks also use the core of the shell of salloc or srun --pty
#   --kill-on-bad-exit    the run ends if one rank fails
exec srun --mpi="$P2PSIM_PMI" --ntasks="$P2PSIM_PEERS" \
    --overcommit --overlap --kill-on-bad-exit=1 --export=ALL "$@"
