"""Show what the attention of a trained run has learned."""

from product_mil.cli.inspect_run import main

if __name__ == "__main__":
    main()
