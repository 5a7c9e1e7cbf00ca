# Starts the ranks of one run with MPICH (or another Hydra-based MPI), on several machines.
# Chosen by: p2psim run --launch mpich. It is called as: sh mpich.sh COMMAND..., with P2PSIM_PEERS
# ranks wanted. Edit here what your site needs: module load, the hosts, binding, netmods.
#   -f hosts.txt          one host a line, as host:ranks
#   -bind-to core         where ranks do not outnumber cores
#   -genv NAME VALUE      variables for all ranks
exec "$P2PSIM_MPIEXEC" ${HOSTFILE:+-f "$HOSTFILE"} -n "$P2PSIM_PEERS" "$@"
