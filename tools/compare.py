"""Compare trained runs on labelled products, with statistics and a page that shows why."""

from product_mil.cli.compare import main

if __name__ == "__main__":
    main()
