"""``python -m kpsim``: the same as the command ``kpsim``. Knows nothing but where that command starts."""

from kpsim.cli import main

if __name__ == "__main__":
    main()
