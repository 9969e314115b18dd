"""Draw a catalogue like the embedded sample, of other products: for tests and demonstrations."""

from product_mil.cli.draw_sample import main

if __name__ == "__main__":
    main()
