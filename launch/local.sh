# Starts all ranks of one run on this machine, with MPICH or Open MPI.
# p2psim run calls it as: sh local.sh COMMAND..., with P2PSIM_PEERS ranks wanted.
# Edit here: netmods, memory limits, nice. More ranks than cores are normal, so nothing is bound.
if [ "$P2PSIM_MPI" = openmpi ]; then
    # PRTE refuses to be root, and more ranks than cores, unless told otherwise.
    [ "$(id -u)" = 0 ] && set -- --allow-run-as-root "$@"
    exec "$P2PSIM_MPIEXEC" --host "localhost:$P2PSIM_PEERS" --bind-to none -n "$P2PSIM_PEERS" "$@"
fi
# Ranks of one node talk through shared memory; of the netmods, ofi is the one that starts quickly
# (100 ranks: 2 s of CPU time in MPI_Init, with ucx 11 s).
export MPIR_CVAR_CH4_NETMOD="${MPIR_CVAR_CH4_NETMOD-ofi}"
exec "$P2PSIM_MPIEXEC" -n "$P2PSIM_PEERS" "$@"
