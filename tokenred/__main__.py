"""``python -m tokenred`` is the command line."""

from tokenred.cli import main

if __name__ == "__main__":
    main()
