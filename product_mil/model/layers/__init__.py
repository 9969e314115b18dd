"""What the nets are made of."""
