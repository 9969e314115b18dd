"""Predict the category of every product of BSON files with a trained run."""

from product_mil.cli.export_predictions import main

if __name__ == "__main__":
    main()
