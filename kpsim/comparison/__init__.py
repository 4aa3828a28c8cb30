"""What differs between two accounts of the same syncs: in rules, and in the first packets that end otherwise."""
