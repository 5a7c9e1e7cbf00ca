# Starts the ranks of one run with Open MPI, on several machines.
# Selected by: p2psim run --launch openmpi. Called as: sh openmpi.sh COMMAND...; the number of ranks
# is in P2PSIM_PEERS. Edit here what your site needs: module load, hosts, binding.
#   --hostfile hosts.txt  one host per line, as host slots=ranks
#   --bind-to core        if there are at least as many cores as ranks
#   --mca NAME VALUE      a parameter of Open MPI
if [ "$(id -u)" = 0 ]; then
    set -- --allow-run-as-root "$@"
fi
exec "$P2PSIM_MPIEXEC" ${HOSTFILE:+--hostfile "$HOSTFILE"} --oversubscribe --bind-to none \
    -n "$P2PSIM_PEERS" "$@"
