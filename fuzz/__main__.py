"""``python -m fuzz``, which is what ``make fuzz`` calls."""

import sys

from fuzz.fuzzing import main

if __name__ == "__main__":
    sys.exit(main())
