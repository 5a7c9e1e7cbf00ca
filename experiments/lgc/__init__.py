"""LGC-SGD: live gradient compensation (Xu 2021)."""
