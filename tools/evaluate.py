"""Measure a trained run on any labelled BSON files, as training measures its validation part."""

from product_mil.cli.evaluate import main

if __name__ == "__main__":
    main()
