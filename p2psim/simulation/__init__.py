"""The simulation: a run on each rank, recorded and kept safe."""
