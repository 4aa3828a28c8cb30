"""Sends the same packets through the model and through Linux, and reports where the two disagree.

Every statement about the kernel is accepted this way. Linux is right by definition: this package compares, it does
not judge.
"""
