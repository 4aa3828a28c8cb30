"""Dialects: how tools spell rules as text. Each parses and renders in one place; nothing here knows what a rule does."""
