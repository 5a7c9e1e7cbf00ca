# Starts the ranks of one run with Open MPI.
# p2psim run calls it as: sh openmpi.sh COMMAND..., with P2PSIM_PEERS ranks wanted.
# Edit here what your site needs: module load, --hostfile, --map-by, --mca.
# More ranks than cores are normal, so nothing is bound to a core.
if [ "$(id -u)" = 0 ]; then
    set -- --allow-run-as-root "$@"
fi
exec "$P2PSIM_MPIEXEC" --oversubscribe --bind-to none -n "$P2PSIM_PEERS" "$@"
