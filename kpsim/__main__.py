"""``python -m kpsim``: the same as the command ``kpsim``."""

from kpsim.cli import main

if __name__ == "__main__":
    main()
