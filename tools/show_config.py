"""Show the fields of a configuration, their JSON schema, or their documentation."""

from product_mil.cli.show_config import main

if __name__ == "__main__":
    main()
