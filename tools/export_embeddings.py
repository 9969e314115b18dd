"""Embed every image of BSON files with a pretrained backbone, in inference mode."""

from product_mil.cli.export_embeddings import main

if __name__ == "__main__":
    main()
