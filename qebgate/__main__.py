"""``python -m qebgate``."""

from qebgate.cli import main

if __name__ == "__main__":
    main()
