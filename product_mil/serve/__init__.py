"""The HTTP service: a trained model that answers over the network, and the page to try it."""
