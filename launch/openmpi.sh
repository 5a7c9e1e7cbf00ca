# Starts the ranks of one run with Open MPI, on several machines.
# Chosen by: p2psim run --launch openmpi. It is called as: sh openmpi.sh COMMAND..., with
# P2PSIM_PEERS ranks wanted. Edit here what your site needs: module load, the hosts, binding.
#   --hostfile hosts.txt  one host a line, as host slots=ranks
#   --bind-to core        where ranks do not outnumber cores
#   --mca NAME VALUE      parameters of the library
if [ "$(id -u)" = 0 ]; then
    set -- --allow-run-as-root "$@"
fi
exec "$P2PSIM_MPIEXEC" ${HOSTFILE:+--hostfile "$HOSTFILE"} --oversubscribe --bind-to none \
    -n "$P2PSIM_PEERS" "$@"
