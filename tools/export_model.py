"""Write a trained model for use on other machines."""

from product_mil.cli.export_model import main

if __name__ == "__main__":
    main()
