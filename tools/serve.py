"""Answer questions about products over HTTP, and show a page to try a model on."""

from product_mil.cli.serve import main

if __name__ == "__main__":
    main()
