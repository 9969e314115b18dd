"""Which of two or more runs is better, by how much, how surely, and on which products."""
