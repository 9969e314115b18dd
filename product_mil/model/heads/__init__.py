"""The heads that sit on a backbone's embeddings: Pr(Y | x1..xn) of packed products."""
