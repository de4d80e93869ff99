"""Convolutional networks from scratch: why they exist and how they work, in numbers one can check by hand.

Run it from top to bottom, or read it so: one function for each step of the story, each a few lines of
arithmetic by hand and the same in tinygrad_cnn.

    python examples/from_scratch.py                   # some seconds, most of them to train a network
    python examples/from_scratch.py --plot pictures   # also writes PNGs: pip install "tinygrad_cnn[plot]"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_cnn as tg
import tinygrad_cnn.nn.functional as F
from tinygrad_cnn import nn
from tinygrad_cnn.data import DataLoader, SyntheticDigits

# A photograph of a wall, half of it in the sun: bright on the left, dark on the right.
WALL = np.float32([[10, 10, 10, 0, 0, 0]] * 6)

# Left column minus right column: large where it is brighter on the left than on the right.
VERTICAL_EDGE = np.float32([[1, 0, -1]] * 3)


def main(argv: Sequence[str] | None = None) -> float:
    """Tell the whole story; returns the accuracy that the network of the last chapter reaches."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write pictures to this folder")
    parser.add_argument("--quick", action="store_true", help="train on a few digits only")
    options = parser.parse_args(argv)

    too_many_weights()
    a_filter_slides_over_an_image()
    the_image_shrinks()
    corners_are_read_once()
    padding_cures_both()
    strides_and_the_formula()
    volumes()
    pooling()
    model, images, labels = a_whole_network(quick=options.quick)
    accuracy = read_digits(model, images, labels)
    if options.plot is not None:
        for path in draw_pictures(options.plot, model, images):
            print(f"wrote {path}")
    return accuracy


# ------------------------------------------------------------------------------------------------------------
# 1


def too_many_weights() -> None:
    """Fully connected layers do not scale to photographs; convolutions do not care how large the image is."""
    chapter(1, "Why not a fully connected layer?")
    height, width, channels, units = 1000, 1000, 3, 1000
    pixels = height * width * channels
    print(
        f"A photograph of {height} x {width} pixels in {channels} colours is {pixels:,} numbers. A fully\n"
        f"connected layer of {units:,} units gives each unit a weight for each number:\n\n"
        f"    {pixels:,} x {units:,} = {pixels * units:,} weights, "
        f"{pixels * units * 4 / 1e9:.0f} GB in float32, for one layer.\n"
    )
    conv = nn.Conv2d(in_channels=3, out_channels=10, kernel_size=3)
    print(
        "A convolution looks through a small window, with the same weights wherever the window lies.\n"
        "Ten filters of 3 x 3 x 3 and a bias for each:\n\n"
        f"    10 x (3 x 3 x 3 + 1) = {count_parameters(conv)} weights, for an image of any size.\n"
    )


# ------------------------------------------------------------------------------------------------------------
# 2


def a_filter_slides_over_an_image() -> None:
    """A 6 x 6 image and a 3 x 3 filter make a 4 x 4 map: window times filter, summed, window by window."""
    chapter(2, "A filter slides over an image")
    print("An image, bright on the left, and a filter that subtracts what is right from what is left:\n")
    print(beside(grid(WALL), "*", grid(VERTICAL_EDGE)))
    print("\nLay the filter on the image, multiply what lies on each other, add up. The first four windows:\n")
    result = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            window = WALL[i : i + 3, j : j + 3]
            result[i, j] = (window * VERTICAL_EDGE).sum()
            if i == 0:
                print(beside(grid(window), "·", grid(VERTICAL_EDGE), f"=  {result[i, j]:g}"), end="\n\n")
    print("All sixteen windows, by these loops and by conv2d:\n")
    computed = convolve(WALL, VERTICAL_EDGE)
    print(beside(grid(result), "  ", grid(computed)))
    assert np.array_equal(result, computed)
    print("\nThe map answers the question that the filter asks: where does bright turn to dark?")


def convolve(image: np.ndarray, kernel: np.ndarray, **options: Any) -> np.ndarray:
    """conv2d of one grey image and one filter, (H, W) and (KH, KW) -> (OH, OW)."""
    x = tg.tensor(image[None, None])  # one image of one channel: (N, C, H, W)
    w = tg.tensor(kernel[None, None])  # one filter for one channel: (OC, C, KH, KW)
    return F.conv2d(x, w, **options)[0, 0].numpy()


# ------------------------------------------------------------------------------------------------------------
# 3


def the_image_shrinks() -> None:
    """A k x k filter fits n - k + 1 times into n pixels, so every layer loses k - 1 of them."""
    chapter(3, "The image shrinks")
    print("A filter of k pixels fits n - k + 1 times into n pixels. Layer after layer of 5 x 5 filters:\n")
    image, sizes = np.ones((28, 28), np.float32), [28]
    while len(image) >= 5:
        image = convolve(image, np.ones((5, 5), np.float32))
        assert len(image) == sizes[-1] - 5 + 1
        sizes.append(len(image))
    print("    " + "  ->  ".join(f"{n} x {n}" for n in sizes))
    print(f"\nAfter {len(sizes) - 1} layers no window fits any more: a deep network has nothing left to see.")


# ------------------------------------------------------------------------------------------------------------
# 4


def corners_are_read_once() -> None:
    """How many outputs each pixel reaches, as a gradient: 1 in a corner, 9 in the middle."""
    chapter(4, "Corners are read once")
    print(
        "In how many windows does each pixel lie? No need to count: with a filter of ones, each output is\n"
        "the plain sum of its window, and the sum of all outputs contains a pixel once for each window it\n"
        "lies in. So the derivative of that sum with respect to a pixel is the number of its windows, and\n"
        "derivatives are what backward() computes:\n\n"
        "    F.conv2d(image, ones).sum().backward();  image.grad\n"
    )
    counts = windows_of_each_pixel(6)
    print(beside(grid(counts)))
    print(
        f"\nA corner is read {counts[0, 0]:g} time, a pixel in the middle {counts[2, 2]:g} times: "
        "what happens at the border\nis nearly unseen."
    )


def windows_of_each_pixel(size: int, padding: int = 0) -> np.ndarray:
    """The number of 3 x 3 windows that each pixel of a size x size image lies in."""
    image = tg.zeros(1, 1, size, size, requires_grad=True)
    F.conv2d(image, tg.ones(1, 1, 3, 3), padding=padding).sum().backward()
    assert image.grad is not None
    return image.grad[0, 0].numpy()


# ------------------------------------------------------------------------------------------------------------
# 5


def padding_cures_both() -> None:
    """A frame of zeros keeps the size, and lets the border be read more often."""
    chapter(5, "Padding cures both")
    print("Put a frame of p zeros around the image and n pixels become n + 2p:\n")
    for padding, name in ((0, "valid"), (1, "same"), (2, "full")):
        size = len(convolve(WALL, VERTICAL_EDGE, padding=padding))
        print(f"    p = {padding}   6 x 6  ->  {size} x {size}   {name!r}")
    print(
        "\nWith p = (k - 1) / 2 the size stays, through any number of layers. And the windows each pixel\n"
        "lies in, for p = 0, 1 and 2:\n"
    )
    print(beside(*(grid(windows_of_each_pixel(6, padding)) for padding in (0, 1, 2))))
    print(
        "\nOne frame of zeros, and a corner counts 4 times instead of once; with two, all pixels are equal.\n"
        "The price: zeros are not part of the picture. See the edges that the frame itself makes (p = 1):\n"
    )
    print(beside(grid(convolve(WALL, VERTICAL_EDGE, padding=1))))


# ------------------------------------------------------------------------------------------------------------
# 6


def strides_and_the_formula() -> None:
    """Steps of s pixels: floor((n + 2p - k) / s) + 1 windows along each side."""
    chapter(6, "Strides, and one formula for all of it")
    print("Move the window s pixels at a time and the map gets s times smaller. Along each side there are\n")
    print("    floor((n + 2p - k) / s) + 1\n\nwindows. The formula beside what conv2d really returns:\n")
    print("      n   p   k   s   formula   conv2d")
    for n, p, k, s in ((6, 0, 3, 1), (7, 0, 3, 2), (8, 0, 3, 2), (6, 1, 3, 2), (28, 2, 5, 1), (224, 3, 7, 2)):
        formula = (n + 2 * p - k) // s + 1
        size = len(convolve(np.zeros((n, n), np.float32), np.ones((k, k), np.float32), stride=s, padding=p))
        assert size == formula
        print(f"    {n:3} {p:3} {k:3} {s:3} {formula:9} {size:8}")
    print("\n7 and 8 pixels give the same size: the last column of the 8 is never looked at. That is the floor.")


# ------------------------------------------------------------------------------------------------------------
# 7


def volumes() -> None:
    """An image with channels needs filters with as many; each filter makes one map."""
    chapter(7, "Volumes: colours in, features out")
    colour = np.stack([WALL, WALL.T, np.zeros_like(WALL)])  # red steps to the right, green downward, no blue
    vertical = np.stack([VERTICAL_EDGE] * 3)
    horizontal = np.stack([VERTICAL_EDGE.T] * 3)
    print("A colour image is three images, here red, green and blue of one of 6 x 6:\n")
    print(beside(*(grid(channel) for channel in colour)))
    print(
        "\nA filter is as deep as the image, 3 x 3 x 3: it multiplies 27 pairs and adds them up to one\n"
        "number, so it makes one flat map. Two filters (vertical edges, horizontal edges) make two maps,\n"
        "which are the channels of the next layer's input:\n"
    )
    by_hand = np.zeros((2, 4, 4))
    for f, kernel in enumerate((vertical, horizontal)):
        for i in range(4):
            for j in range(4):
                by_hand[f, i, j] = (colour[:, i : i + 3, j : j + 3] * kernel).sum()
    # (1, 3, 6, 6) * (2, 3, 3, 3) -> (1, 2, 4, 4)
    maps = F.conv2d(tg.tensor(colour[None]), tg.tensor(np.stack([vertical, horizontal])))[0].numpy()
    assert np.array_equal(by_hand, maps)
    print(beside(*(grid(one) for one in maps)))
    print("\n    (3, 6, 6) * 2 filters of (3, 3, 3) = (2, 4, 4)")


# ------------------------------------------------------------------------------------------------------------
# 8


def pooling() -> None:
    """Keep the largest of each 2 x 2 square: a quarter of the numbers, and where a thing is matters less."""
    chapter(8, "Pooling")
    values = np.float32([[1, 3, 2, 1], [2, 9, 1, 1], [1, 3, 2, 3], [5, 6, 1, 2]])
    x = tg.tensor(values[None, None], requires_grad=True)
    pooled = F.max_pool2d(x, 2)
    print("Max-pooling keeps the largest number of each square. There is nothing to learn in it:\n")
    print(beside(grid(values), "->", grid(pooled.detach()[0, 0].numpy())))
    pooled.sum().backward()
    assert x.grad is not None
    print("\nIn the backward pass only the winners hear of the error (the first one where two are equal):\n")
    print(beside(grid(x.grad[0, 0].numpy())))


# ------------------------------------------------------------------------------------------------------------
# 9


def a_whole_network(quick: bool) -> tuple[nn.Module, tg.Tensor, tg.Tensor]:
    """Convolution, pooling, convolution, pooling, and a decision; trained on drawn digits."""
    chapter(9, "A whole network")
    tg.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, kernel_size=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, kernel_size=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 10),
    )
    print_layers(model, tg.zeros(1, 1, 28, 28))
    train = SyntheticDigits(1_500 if quick else 20_000, train=True)
    test = SyntheticDigits(500 if quick else 2_000, train=False)
    fit(model, DataLoader(train, batch_size=64, shuffle=True), lr=1e-2)
    images, labels = test.get_batch(np.arange(len(test)))
    return model, images, labels


def print_layers(model: nn.Sequential, x: tg.Tensor) -> None:
    """The shape after each layer and what it has to learn."""
    print(f"    {'layer':12}{'output':>16}{'weights':>9}")
    for layer in (nn.Identity(), *model):
        x = layer(x)
        name = "image" if isinstance(layer, nn.Identity) else type(layer).__name__
        shape = " x ".join(map(str, x.shape[1:]))
        print(f"    {name:12}{shape:>16}{count_parameters(layer) or '':>9}".rstrip())
    print(f"    {'together':12}{'':>16}{count_parameters(model):>9}\n")


def fit(model: nn.Module, batches: DataLoader, lr: float) -> None:
    """One pass over the data: predict, compare, go a step against the gradient."""
    optimizer = tg.optim.Adam(model.parameters(), lr=lr)
    schedule = tg.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=len(batches))
    for step, (x, y) in enumerate(batches):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, len(batches) // 6) == 0:
            print(f"    after {step * batches.batch_size:6,} digits: loss {loss.item():.3f}")


def read_digits(model: nn.Module, images: tg.Tensor, labels: tg.Tensor) -> float:
    """The share of digits never seen in training that the model reads right, and a look at three of them."""
    with tg.no_grad():
        guesses = model(images).argmax(1)
    accuracy = float((guesses == labels).float().mean())
    print(f"\nOf {len(labels):,} digits that it never saw, it reads {accuracy:.1%} right. Three of them:\n")
    captions = [f"\n{f'{labels[i].item()}, it says {guesses[i].item()}':^28}" for i in range(3)]
    print(beside(*(sketch(images[i, 0].numpy()) + caption for i, caption in enumerate(captions))))
    return accuracy


# ------------------------------------------------------------------------------------------------------------
# Printing


def chapter(number: int, title: str) -> None:
    """A heading."""
    heading = f"{number}. {title}"
    print(f"\n{heading}\n{'=' * len(heading)}")


def count_parameters(module: nn.Module) -> int:
    """The number of weights of a module."""
    return sum(p.numel() for p in module.parameters())


def grid(values: np.ndarray) -> str:
    """A matrix as lines of right-aligned numbers."""
    return "\n".join(" ".join(f"{value + 0.0:3g}" for value in row) for row in values)


def sketch(image: np.ndarray) -> str:
    """A grey image as text: every other row, because a letter is twice as high as wide."""
    shades = " .:-=+*#%@"
    image = (image - image.min()) / (image.max() - image.min())
    return "\n".join("".join(shades[int(9 * value)] for value in row) for row in image[::2])


def beside(*blocks: str) -> str:
    """Blocks of lines next to each other, the lower ones centred."""
    columns = [block.split("\n") for block in blocks]
    height = max(map(len, columns))
    for i, lines in enumerate(columns):
        above = (height - len(lines)) // 2
        width = max(map(len, lines))
        columns[i] = [text.ljust(width) for text in [""] * above + lines + [""] * (height - above - len(lines))]
    return "\n".join(("    " + "     ".join(line)).rstrip() for line in zip(*columns, strict=True))


# ------------------------------------------------------------------------------------------------------------
# Pictures


def draw_pictures(folder: Path, model: nn.Module, images: tg.Tensor) -> list[Path]:
    """Three PNGs: the edge and its map, how often each pixel is read, and what the network's filters see."""
    folder.mkdir(parents=True, exist_ok=True)
    edge = [("image", WALL), ("filter", VERTICAL_EDGE), ("map", convolve(WALL, VERTICAL_EDGE))]
    windows = [(f"padding {p}", windows_of_each_pixel(6, padding=p)) for p in (0, 1, 2)]
    weights = next(iter(model.parameters())).detach()  # (8, 1, 3, 3)
    maps = F.conv2d(images[:1], weights)[0].numpy()  # (8, 26, 26)
    filters = [("image", images[0, 0].numpy()), ("largest answer", maps.max(0))]
    for i, (weight, seen) in enumerate(zip(weights[:, 0].numpy(), maps, strict=True)):
        filters += [(f"filter {i}", weight), (f"its map {i}", seen)]
    return [
        draw(folder / "edge.png", edge, numbers=True),
        draw(folder / "windows.png", windows, numbers=True, darkest=0),
        draw(folder / "filters.png", filters, columns=6),
    ]


def draw(
    path: Path,
    panels: list[tuple[str, np.ndarray]],
    columns: int = 3,
    numbers: bool = False,
    darkest: float | None = None,
) -> Path:
    """Grey panels with titles in one PNG; with `numbers`, each pixel's value stands in it."""
    from matplotlib.figure import Figure  # the `plot` extra: only --plot needs it

    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, values) in zip(axes, panels, strict=False):
        image = ax.imshow(values, cmap="gray", vmin=darkest)
        ax.set(title=title, xticks=[], yticks=[])
        for (i, j), value in np.ndenumerate(values) if numbers else ():
            color = "white" if image.norm(value) < 0.5 else "black"
            ax.text(j, i, f"{value:g}", ha="center", va="center", color=color)
    figure.savefig(path, dpi=120)
    return path


if __name__ == "__main__":
    main()
