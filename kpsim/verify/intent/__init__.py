"""What is due to a packet: a second, independent reading of Kubernetes objects and of the specification.

The model and Linux get the same rules, so neither can tell that a rule itself is wrong. This package reads the objects
as JSON, says what chapters O, T and PP promise to each sender, and never looks at a rule. It shares no code with the
packages that derive service ports and write rules.
"""
