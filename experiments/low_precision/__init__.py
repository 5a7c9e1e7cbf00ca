"""Low-precision decentralized training (Aketi, Kodge & Roy 2022)."""
