"""The networks of the benchmark, written once: `nn` is tinygrad_cnn.nn or torch.nn, whose names are the same."""

from __future__ import annotations

from collections.abc import Callable
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


def resnet20(nn: Any) -> Any:
    """ResNet-20 for 32x32 colour images (He et al. 2016, section 4.2), with 1x1 convolutions where sizes change."""

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
                nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
            )  # fmt: skip
            same = before == after and stride == 1
            self.shortcut = (
                nn.Identity()
                if same
                else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            )
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.shortcut(x))

    blocks, before = [], 16
    for after in (16, 32, 64):
        for i in range(3):
            blocks.append(Block(before, after, 2 if i == 0 and after > 16 else 1))
            before = after
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip


def depthwise_cnn(nn: Any) -> Any:
    """Depthwise-separable convolutions (Howard et al. 2017, MobileNet) for 32x32 colour images."""

    def separable(before: int, after: int, stride: int) -> list[Any]:
        return [
            nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False), nn.BatchNorm2d(before), nn.ReLU(),
            nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        ]  # fmt: skip

    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        *separable(32, 64, 1),
        *separable(64, 128, 2),
        *separable(128, 128, 1),
        *separable(128, 256, 2),
        *separable(256, 256, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip


NETS = {
    "lenet5": lenet5,
    "mnist_cnn": mnist_cnn,
    "bn_cnn": bn_cnn,
    "resnet20": resnet20,
    "depthwise_cnn": depthwise_cnn,
}

TITLES = {
    "lenet5": "LeNet-5",
    "mnist_cnn": "MNIST CNN",
    "bn_cnn": "BN CNN",
    "resnet20": "ResNet-20",
    "depthwise_cnn": "Depthwise CNN",
}

#: (C, H, W) of the images that a network takes.
SHAPES = {name: (3, 32, 32) if name in ("resnet20", "depthwise_cnn") else (1, 28, 28) for name in NETS}

#: (net, batch size) of the training steps, and of inference
TRAIN = [
    ("lenet5", 1), ("lenet5", 32), ("lenet5", 128), ("lenet5", 512),
    ("mnist_cnn", 64), ("mnist_cnn", 256),
    ("bn_cnn", 64), ("bn_cnn", 512),
    ("resnet20", 64), ("depthwise_cnn", 64),
]  # fmt: skip
INFER = [("lenet5", 1), ("lenet5", 128), ("mnist_cnn", 64), ("resnet20", 64)]


def step(lib: Any, model: Any, x: Any, y: Any) -> Callable[[], Any]:
    """A training step on a batch that is in memory already; torch's Adam in its fused form."""
    fused = {"fused": True} if lib.__name__ == "torch" else {}
    optimizer = lib.optim.Adam(model.parameters(), lr=1e-3, **fused)
    loss_fn = lib.nn.CrossEntropyLoss()

    def train() -> None:
        loss_fn(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()  # at the end: between two steps, when memory is looked at, there are no gradients

    return train


def inference(lib: Any, model: Any, x: Any) -> Callable[[], Any]:
    """The logits of a batch, in evaluation mode."""
    model.eval()

    def infer() -> Any:
        with lib.inference_mode():
            return model(x)

    return infer
