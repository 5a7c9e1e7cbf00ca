# Starts the ranks of one run with MPICH (or another Hydra-based MPI), on several machines.
# Selected by: p2psim run --launch mpich. Called as: sh mpich.sh COMMAND...; the number of ranks is
# in P2PSIM_PEERS. Edit here what your site needs: module load, hosts, binding, network modules.
#   -f hosts.txt          one host per line, as host:ranks
#   -bind-to core         if there are at least as many cores as ranks
#   -genv NAME VALUE      an environment variable for all ranks
exec "$P2PSIM_MPIEXEC" ${HOSTFILE:+-f "$HOSTFILE"} -n "$P2PSIM_PEERS" "$@"
