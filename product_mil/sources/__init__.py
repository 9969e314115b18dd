"""Where products come from: catalogues of products and images, and the bytes of images."""
