"""Every system of the seed report in one table: from the prior to the joint model, on your data."""

from product_mil.cli.seed_table import main

if __name__ == "__main__":
    main()
