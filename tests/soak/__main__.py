"""`python -m soak`, with this folder's parent on the path."""

from soak.program import main

if __name__ == "__main__":
    main()
