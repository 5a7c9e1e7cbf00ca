# Starts the ranks of one run with MPICH (or another Hydra-based MPI).
# p2psim run calls it as: sh mpich.sh COMMAND..., with P2PSIM_PEERS ranks wanted.
# Edit here what your site needs: module load, -hosts, -bind-to, netmods.
exec "$P2PSIM_MPIEXEC" -n "$P2PSIM_PEERS" "$@"
