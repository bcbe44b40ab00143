"""`python -m shannotd.runner`: see main.py."""

import sys

from shannotd.runner.main import main

if __name__ == "__main__":
    sys.exit(main())
