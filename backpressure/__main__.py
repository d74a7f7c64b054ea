"""``python -m backpressure`` is ``pace``."""

from backpressure.cli.main import main

if __name__ == "__main__":
    main()
