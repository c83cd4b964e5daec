"""Check that this machine's GPU trains as it should, in a few minutes; needs no data and writes nothing.

Prints a line per check. Exit codes: 0 all checks pass, 1 one fails, 2 there is no GPU to check.
"""

import argparse
import sys

import smoothout.cli  # noqa: F401 -- Ctrl-C ends it in one line


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (the first GPU), cuda:1, ...")
    parser.add_argument("--quick", action="store_true", help="shorter trainings, and one of six timings")
    return parser.parse_args()


def main() -> int:
    """Run the checks; returns the exit code."""
    options = arguments()
    # Only now: torch takes seconds to import, and --help need not wait for it.
    from smoothout.benchmark.gpu_check import program  # noqa: PLC0415

    return program.main(options.device, options.quick)


if __name__ == "__main__":
    sys.exit(main())
