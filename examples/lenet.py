"""LeNet-5, the network that read the amounts on bank cheques, layer by layer (LeCun et al. 1998, fig. 2).

    python examples/lenet.py [--root FOLDER] [--epochs 2]

Tanh and average pooling as in the paper; the last layers are plain linear ones, as everybody builds it today.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.data import MNIST, DataLoader, SyntheticDigits


def lenet5() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),  # C1: the padding makes a 32x32 field of the 28x28 image
        nn.Tanh(),
        nn.AvgPool2d(2),  # S2
        nn.Conv2d(6, 16, 5),  # C3
        nn.Tanh(),
        nn.AvgPool2d(2),  # S4
        nn.Flatten(),
        nn.Linear(400, 120),  # C5
        nn.Tanh(),
        nn.Linear(120, 84),  # F6
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def describe(model: nn.Sequential, x: tg.Tensor) -> None:
    """Print each layer with the shape that leaves it and the number of its parameters."""
    total = 0
    with tg.no_grad():
        for layer in model:
            x = layer(x)
            count = sum(p.numel() for p in layer.parameters())
            total += count
            print(f"{type(layer).__name__:<10} {'x'.join(map(str, x.shape[1:])):>10} {count:>8,}")
    print(f"{'parameters':<10} {total:>19,}")


def main(argv: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of MNIST's four .gz files; SyntheticDigits without it")
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args(argv)

    tg.manual_seed(0)
    train, test = (
        SyntheticDigits(train=part) if args.root is None else MNIST(args.root, train=part) for part in (True, False)
    )
    model = lenet5()
    describe(model, train[:1][0])
    optimizer = tg.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss_fn = nn.CrossEntropyLoss()
    share = 0.0
    for epoch in range(1, args.epochs + 1):
        for images, labels in DataLoader(train, 64, shuffle=True):
            optimizer.zero_grad()
            loss = loss_fn(model(images), labels)
            loss.backward()
            optimizer.step()
        with tg.inference_mode():
            images, labels = test[:]
            share = (model(images).argmax(1) == labels).float().mean().item()
        print(f"epoch {epoch}: last loss {loss.item():.4f}, test accuracy {share:.2%}", flush=True)
    return share


if __name__ == "__main__":
    main()
