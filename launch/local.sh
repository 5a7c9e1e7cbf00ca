# Starts all ranks of one run on this machine, with MPICH or Open MPI.
# Called by p2psim run as: sh local.sh COMMAND...; the number of ranks is in P2PSIM_PEERS.
# Edit here: network modules, memory limits, nice. Ranks are not bound to cores, because runs often
# have more ranks than cores.
if [ "$P2PSIM_MPI" = openmpi ]; then
    # By default Open MPI refuses to run as root and to start more ranks than cores.
    [ "$(id -u)" = 0 ] && set -- --allow-run-as-root "$@"
    exec "$P2PSIM_MPIEXEC" --host "localhost:$P2PSIM_PEERS" --bind-to none -n "$P2PSIM_PEERS" "$@"
fi
# The ranks of one node communicate through shared memory, but MPICH initializes a network module
# anyway. ofi is the fastest one to start (100 ranks: 2 s of CPU time in MPI_Init; ucx: 11 s).
export MPIR_CVAR_CH4_NETMOD="${MPIR_CVAR_CH4_NETMOD-ofi}"
exec "$P2PSIM_MPIEXEC" -n "$P2PSIM_PEERS" "$@"
