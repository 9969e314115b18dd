"""What a GPU does with the nets, the loader and the whole way; `gpu.py` runs it."""
