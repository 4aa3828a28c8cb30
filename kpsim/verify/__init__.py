"""The same packets through the model and through Linux, and where the two disagree.

Counterpart: none; it is how every statement about the kernel is accepted. It never decides what should happen: it compares.
"""
