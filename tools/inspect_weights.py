"""Show what a weights file holds and which backbone it fits."""

from product_mil.cli.inspect_weights import main

if __name__ == "__main__":
    main()
