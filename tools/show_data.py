"""Look at BSON files: a contact sheet of products with all their images."""

from product_mil.cli.show_data import main

if __name__ == "__main__":
    main()
