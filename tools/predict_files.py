"""Predict any number of files with a trained run, in units that can stop and go on anywhere."""

from product_mil.cli.predict_files import main

if __name__ == "__main__":
    main()
