"""`python -m domainwright`, where `dw` is not on the path."""

from domainwright.cli.main import main

if __name__ == "__main__":
    main()
