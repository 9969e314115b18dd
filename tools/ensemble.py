"""Combine several trained runs, or several prediction files, into one prediction."""

from product_mil.cli.ensemble import main

if __name__ == "__main__":
    main()
