"""p2psim: peer-to-peer deep learning for real, one MPI rank per peer."""

__version__ = "0.1.0"
