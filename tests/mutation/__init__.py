"""Seeded bugs in our own gradient rules and kernels, and the score of the suite that has to see them."""
