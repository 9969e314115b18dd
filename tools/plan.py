"""What it takes to predict very many products: hours, network, memory and storage."""

from product_mil.cli.plan import main

if __name__ == "__main__":
    main()
