"""Check that this machine's GPU trains as it should: no data needed, nothing written, a few minutes.

A line a check; the exit code is 0 when all hold, 1 when one fails, 2 when there is no GPU to check.
"""

import argparse
import sys


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (the first GPU), cuda:1, ...")
    parser.add_argument("--quick", action="store_true", help="shorter trainings, and one of six timings")
    return parser.parse_args()


def main() -> int:
    """Parse, then import: torch takes seconds, which --help need not wait for."""
    given = arguments()
    from smoothout.benchmark.gpu_check import program  # noqa: PLC0415

    return program.main(given.device, given.quick)


if __name__ == "__main__":
    sys.exit(main())
