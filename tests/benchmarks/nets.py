"""The networks of the benchmark, written once: `nn` is tinygrad_cnn.nn or torch.nn, whose names are the same."""

from __future__ import annotations

from typing import Any


def lenet5(nn: Any) -> Any:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling, for 28x28 images: 61,706 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10),
    )  # fmt: skip


def mnist_cnn(nn: Any) -> Any:
    """The two 3x3 convolutions and two linear layers of PyTorch's MNIST example: 1,199,882 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(9216, 128), nn.ReLU(),
        nn.Linear(128, 10),
    )  # fmt: skip


def bn_cnn(nn: Any) -> Any:
    """Two 5x5 and two 3x3 convolutions, each with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 5), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(576, 10),
    )  # fmt: skip


NETS = {"lenet5": lenet5, "mnist_cnn": mnist_cnn, "bn_cnn": bn_cnn}

#: (net, batch size) of the training steps, and of inference
TRAIN = [
    ("lenet5", 1), ("lenet5", 32), ("lenet5", 128), ("lenet5", 512),
    ("mnist_cnn", 64), ("mnist_cnn", 256),
    ("bn_cnn", 64), ("bn_cnn", 512),
]  # fmt: skip
INFER = [("lenet5", 1), ("lenet5", 128), ("mnist_cnn", 64)]
