"""Engines that predict units on many machines; each is optional, and needs an extra."""
