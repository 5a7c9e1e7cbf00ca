"""The network: topology, mixing matrix, messages, neighborhood, virtual time."""
