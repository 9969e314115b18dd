"""Turn products from anywhere into one BSON file, which is read fastest and can be moved."""

from product_mil.cli.make_bson import main

if __name__ == "__main__":
    main()
