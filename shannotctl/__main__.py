"""`python -m shannotctl` is `shannotctl`."""

from shannotctl.cli.main import main

if __name__ == "__main__":
    main()
