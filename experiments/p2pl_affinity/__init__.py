"""P2PL with Affinity (Pranav & Moura 2023)."""
