"""Train a convolutional network to read handwritten digits and say how well it does on digits it has not seen.

    python examples/mnist.py                                   # the built-in SyntheticDigits, nothing to download
    python examples/mnist.py --root data/mnist --epochs 5      # the real MNIST, from its four files

The network is that of PyTorch's MNIST example: two 3x3 convolutions, one max-pool, two linear layers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.data import MNIST, DataLoader, SyntheticDigits
from tinygrad_cnn.nn import functional as F


class Net(nn.Module):
    """(N, 1, 28, 28) images to (N, 10) logits, in 1,199,882 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dropout1 = nn.Dropout(0.25)
        self.fc1 = nn.Linear(9216, 128)
        self.dropout2 = nn.Dropout(0.25)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        x = F.relu(self.conv1(x))  # (N, 32, 26, 26)
        x = F.relu(self.conv2(x))  # (N, 64, 24, 24)
        x = self.dropout1(F.max_pool2d(x, 2)).flatten(1)  # (N, 64 * 12 * 12)
        x = F.relu(self.fc1(x))
        return self.fc2(self.dropout2(x))


def train_epoch(
    model: nn.Module,
    batches: DataLoader,
    optimizer: tg.optim.Optimizer,
    scheduler: tg.optim.lr_scheduler.LRScheduler,
) -> float:
    """One pass over the training data; returns the mean loss."""
    model.train()
    total = 0.0
    progress = tqdm(batches, leave=False, disable=None)  # None: a bar on a terminal only
    for images, labels in progress:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return total / len(batches)


@tg.inference_mode()
def accuracy(model: nn.Module, batches: DataLoader) -> float:
    """The share of images read correctly."""
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in batches)
    return right / len(batches.dataset)


def datasets(root: str | None) -> tuple[tg.data.Dataset, tg.data.Dataset]:
    if root is not None:
        return MNIST(root, train=True), MNIST(root, train=False)
    return SyntheticDigits(train=True), SyntheticDigits(train=False)


def main(argv: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of MNIST's four .gz files; SyntheticDigits without it")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3, help="the highest learning rate of the first epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="save the trained model here, as safetensors")
    args = parser.parse_args(argv)
    if args.out and not Path(args.out).parent.is_dir():
        parser.error(f"--out: there is no folder {Path(args.out).parent}")

    tg.manual_seed(args.seed)
    start = time.perf_counter()
    train_data, test_data = datasets(args.root)
    print(f"{len(train_data)} training and {len(test_data)} test images in {time.perf_counter() - start:.1f} s")

    model = Net()
    train = DataLoader(train_data, args.batch_size, shuffle=True)
    test = DataLoader(test_data, 500)
    optimizer = tg.optim.Adam(model.parameters())
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        # a cycle of its own for each epoch, ever lower: the network is at its best after any of them
        scheduler = tg.optim.lr_scheduler.OneCycleLR(optimizer, args.lr / epoch, total_steps=len(train))
        loss = train_epoch(model, train, optimizer, scheduler)
        seconds = time.perf_counter() - start
        print(
            f"epoch {epoch}: loss {loss:.4f}, test accuracy {accuracy(model, test):.2%}, {seconds:.1f} s",
            flush=True,
        )
    if args.out:
        tg.save(model.state_dict(), args.out)
        print(f"saved to {args.out}")
    final = accuracy(model, test)
    print(f"test accuracy {final:.2%}")
    return final


if __name__ == "__main__":
    main()
