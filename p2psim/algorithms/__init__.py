"""Decentralized learning methods: one file per method, shared parts beside them."""
