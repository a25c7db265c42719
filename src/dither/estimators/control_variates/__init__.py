"""Score functions with control variates from other runs or from relaxations."""
