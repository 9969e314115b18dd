"""What heads and losses bring, over several sets and seeds."""
