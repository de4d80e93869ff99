"""The benchmark, `python -m tinygrad_cnn bench`: kernels, training steps, start-up and memory, beside PyTorch."""
