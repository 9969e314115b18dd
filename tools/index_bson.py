"""Index BSON files and print what they hold."""

from product_mil.cli.index_bson import main

if __name__ == "__main__":
    main()
