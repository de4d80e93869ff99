"""The command line: `python -m tinygrad_cnn COMMAND`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

#: A command's module, which has `add_arguments(parser)` and `run(options)`, and a line of help.
#: The module is imported when the command is used.
COMMANDS = {
    "bench": ("bench.command", "measure speed and memory on this machine, beside PyTorch where there is one"),
    "warmup": ("warmup", "compile the kernels of a model, or of standard CNNs, and keep them on disk"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; the process's exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_cnn", description="Convolutional networks in pure Python, from the command line."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in arguments:
            body = importlib.import_module(f".{module}", __package__)
            command.description = body.__doc__
            body.add_arguments(command)
            command.set_defaults(run=body.run)
    options = parser.parse_args(arguments)
    options.run(options)
    return 0
